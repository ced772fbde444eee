"""The settings of a search: defaults < preset < YAML file < environment < command line."""

from __future__ import annotations

import difflib
import functools
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import configs
from lic.architectures import (
    ALIASES,
    ARCHITECTURES,
    ModelError,
    architecture,
    check_strategy,
    starter_path,
    strategies,
)
from lic.recipe import LAMBDAS, Scale, TrainingConfig

PRESETS = Path(configs.__file__).parent / "presets"
ENVIRONMENT = "LICTUNE_"

#: The settings of a search, in its folder.
SETTINGS = "settings.yaml"

_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)


class ConfigError(ValueError):
    """A setting that cannot be used; one sentence with the value and the fix."""


def _setting(group: str, default: Any, help: str, **bounds: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class Settings(BaseModel):
    """Every setting of a search, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = _setting("What to search", "cheng", "an alias or a CompressAI architecture")
    preset: str = _setting("What to search", "auto", "paper, tiny, or auto: by the machine")
    budget: int = _setting("What to search", 64, "number of trials; baselines are extra", ge=1)
    max_hours: float | None = _setting(
        "What to search", None, "end after so many hours, whatever is left (default: no limit)", gt=0
    )
    max_gpu_hours: float | None = _setting(
        "What to search", None, "end after so many GPU hours of training (default: no limit)", gt=0
    )
    reuse_baselines: bool = _setting(
        "What to search", True, "take baselines from earlier searches of the same training setup"
    )
    confirm: int | None = _setting(
        "What to search", None, "then train the best so many points per rate again on fresh seeds", ge=1
    )
    seeds: int = _setting("What to search", 3, "number of fresh seeds for --confirm", ge=1)
    warm_start: str | None = _setting(
        "What to search", None, "an earlier search (its name or folder) whose trials inform the sampler"
    )
    rates: tuple[int, ...] = _setting("What to search", tuple(LAMBDAS), "qualities, such as 1-6 or 1,3,5")
    strategies: tuple[str, ...] = _setting(
        "What to search", (), "of y, z, y+z, such as y,y+z (default: all that the model offers)"
    )
    alpha_min: float = _setting("What to search", 1e-8, "smallest decorrelation weight", gt=0)
    alpha_max: float = _setting("What to search", 1e-5, "largest decorrelation weight", gt=0)
    seed: int = _setting("What to search", 0, "of weights, batches and proposals", ge=0)
    sampler: Literal["surrogate", "tpe", "gp", "random", "grid"] = _setting(
        "What to search",
        "surrogate",
        "what proposes points: the search's own; tpe, gp, random: Optuna's, pooled over the rates; grid",
    )
    stopping: bool = _setting("What to search", True, "stop poor trials early (ASHA per rate)")
    grace: int = _setting("What to search", 1, "epochs before a trial may be stopped", ge=1)
    eta: int = _setting("What to search", 3, "one in eta trials passes a rung", ge=2)

    data: str | None = _setting(
        "Images", None, "folder of images to train on (default: dead leaves, generated)"
    )
    kodak: str | None = _setting("Images", None, "folder of the Kodak images (default: fetched)")
    test: str = _setting(
        "Images", "auto", "images to report on: auto (Kodak if it can be had), deadleaves, a folder"
    )
    test_images: int | None = _setting("Images", None, "only the first so many of them", ge=1)
    val_images: int = _setting("Images", 32, "images held out of training to select on", ge=1)
    val_crop: int | None = _setting("Images", 256, "side of their central crop, pixels", ge=64)
    select_on: Literal["val", "kodak"] = _setting(
        "Images", "val", "images that decide; kodak follows the paper"
    )
    cache: str | None = _setting("Images", None, "folder of decoded images (default: ~/.cache)")

    width: int = _setting("Training", 128, "channels N of the model", ge=2, le=1024)
    latent_width: int | None = _setting("Training", None, "latent channels M (default: N)", ge=2, le=1024)
    start: str = _setting(
        "Training", "scratch", "scratch, starter, auto (starter if there is one), or a weights file"
    )
    scale: Scale = _setting("Training", TrainingConfig.scale, "of the decorrelation loss")
    batch: int = _setting("Training", TrainingConfig.batch, "patches in a batch", ge=2)
    patch: int = _setting("Training", TrainingConfig.patch, "side of a patch, pixels", ge=64)
    epochs: int = _setting("Training", TrainingConfig.epochs, "epochs of a full training", ge=1)
    steps_per_epoch: int = _setting("Training", TrainingConfig.steps_per_epoch, "steps in an epoch", ge=1)
    lr: float = _setting("Training", TrainingConfig.lr, "learning rate (Adam)", gt=0, le=1)
    aux_lr: float = _setting("Training", TrainingConfig.aux_lr, "learning rate of the quantiles", gt=0, le=1)
    clip: float = _setting("Training", TrainingConfig.clip, "largest gradient norm", gt=0)
    decay_at: float = _setting(
        "Training", TrainingConfig.decay_at, "fraction of the steps before the decay", ge=0, le=1
    )
    decay_to: float = _setting(
        "Training", TrainingConfig.decay_to, "last learning rate over first", gt=0, le=1
    )
    max_skipped: float = _setting(
        "Training", TrainingConfig.max_skipped, "share of steps that may be NaN", ge=0, lt=1
    )

    workers: int | None = _setting(
        "Machine", None, "trials at once (default: one a GPU share or CPU core)", ge=1
    )
    trials_per_gpu: Annotated[int, Field(ge=0)] | Literal["auto"] | None = _setting(
        "Machine",
        None,
        "trials that share a GPU, its memory in equal parts; 0 for the CPU; auto measures what is "
        "fastest and fits the memory (default: 1 if there is a GPU)",
    )
    retries: int = _setting(
        "Machine", 3, "times a training that broke off is tried again, from its checkpoint", ge=0
    )
    address: str | None = _setting(
        "Machine",
        None,
        "of a Ray cluster: auto or host:port from its nodes, ray://host:10001 (default: this machine)",
    )

    results: str = _setting("Results", "results", "folder of all searches")
    storage: str | None = _setting(
        "Results",
        None,
        "where checkpoints are kept: a folder that every node mounts, s3://bucket/prefix or "
        "gs://bucket/prefix (default: in results)",
    )
    name: str | None = _setting("Results", None, "of this search, its folder there (default: model and time)")
    study: str | None = _setting(
        "Results", None, "of a database for Optuna, postgresql+psycopg://... (default: SQLite in results)"
    )
    tracking_uri: str | None = _setting(
        "Results", None, "of an MLflow server (default: MLFLOW_TRACKING_URI, else SQLite in results)"
    )

    @property
    def shares(self) -> int:
        """The parts that a GPU is divided into, one if that is still to be measured; 0 on the CPU."""
        return 1 if self.trials_per_gpu == "auto" else self.trials_per_gpu or 0

    @property
    def gpus_per_trial(self) -> float:
        """The share of a GPU that a trial gets; 0 on the CPU. Ray counts in steps of 1e-4; rounded up,
        as many shares would not fit."""
        return math.floor(10_000 / self.shares) / 10_000 if self.shares else 0.0

    @field_validator("rates", mode="before")
    @classmethod
    def _parse_rates(cls, value: Any) -> Any:
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            return value
        qualities: set[int] = set()
        for part in value.split(","):
            first, _, last = part.partition("-")
            try:
                qualities |= set(range(int(first), int(last or first) + 1))
            except ValueError:
                raise ValueError("write qualities such as 1-6 or 1,3,5") from None
        return tuple(sorted(qualities))

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [quality for quality in value if quality not in LAMBDAS]
        if unknown or not value:
            raise ValueError(f"choose among the qualities {min(LAMBDAS)} to {max(LAMBDAS)}")
        return tuple(sorted(set(value)))

    @field_validator("strategies", mode="before")
    @classmethod
    def _parse_strategies(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        if value is not None and (not value or value.startswith(".") or "/" in value or len(value) > 100):
            raise ValueError("a name is one folder name: no '/', no leading dot, at most 100 characters")
        return value


@dataclass(frozen=True)
class Resolved:
    """The settings and, for each, where its value came from."""

    settings: Settings
    sources: dict[str, str]

    def report(self) -> str:
        """The settings as YAML, each with its source as a comment."""
        lines = []
        for key, value in self.settings.model_dump(mode="json").items():
            text = yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
            text = text.removesuffix("...").strip()
            lines.append(f"{f'{key}: {text}':<42}  # {self.sources[key]}")
        return "\n".join(lines)


def resolve(
    command_line: Mapping[str, Any],
    environment: Mapping[str, str],
    gpus: Callable[[str | None], int],
    file: Path | None = None,
    recorded: Mapping[str, Any] | None = None,
) -> Resolved:
    """Merge the sources, later over earlier, and check the result.

    `recorded` are the settings of a search that goes on. `gpus` counts the GPUs of the cluster at an address,
    or of this machine (None); it is asked only for what is left to `auto`. Raises ConfigError.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        layers.append((str(file), _read_yaml(file)))
    if recorded is not None:
        layers.append(("as it began", recorded))
    from_environment = {
        key.removeprefix(ENVIRONMENT).lower(): value
        for key, value in environment.items()
        if key.startswith(ENVIRONMENT)
    }
    layers.append(("environment", from_environment))
    layers.append(("command line", command_line))
    for source, layer in layers:
        _check_keys(layer, source)

    merged, sources = _merge(layers, Settings().model_dump())
    model = str(merged["model"])
    count_gpus = functools.partial(gpus, merged["address"])
    preset, why = _choose_preset(str(merged["preset"]), count_gpus)
    layers[:0] = _preset_layers(preset, model)
    merged, sources = _merge(layers, Settings().model_dump())
    merged["preset"], sources["preset"] = preset, f"{sources['preset']}{why}"
    return _check(merged, sources, count_gpus)


#: Settings that may change when a search goes on: they change no figure of any trial.
_CHANGEABLE = (
    "budget", "confirm", "seeds", "workers", "address", "max_hours", "max_gpu_hours", "results",
    "reuse_baselines", "retries", "study", "tracking_uri",
)  # fmt: skip


def resolve_again(
    command_line: Mapping[str, Any], folder: Path, gpus: Callable[[str | None], int]
) -> Resolved:
    """The settings that the search in this folder began with, changed as the command line says. Raises
    ConfigError where that would make its trials incomparable, or the settings cannot be read."""
    recorded = recorded_settings(folder)
    began = resolve({}, {}, gpus, recorded=recorded).settings
    resolved = resolve({**command_line, "name": folder.resolve().name}, {}, gpus, recorded=recorded)
    if began.name not in (None, folder.resolve().name):
        raise ConfigError(f"the search in {folder} was called {began.name}; give its folder that name again")
    for key in command_line.keys() - set(_CHANGEABLE):
        if getattr(began, key) != getattr(resolved.settings, key):
            raise ConfigError(
                f"{key} was {getattr(began, key)} in {folder} and cannot change when it goes on; leave it "
                "out, or start a new search with --warm-start"
            )
    if "***" in str(resolved.settings.tracking_uri):
        raise ConfigError(
            f"{folder} does not keep the password of its tracking_uri; give --tracking-uri again"
        )
    return resolved


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings in a search's folder, without those that this version of the package does not know. Raises
    ConfigError."""
    found = _read_yaml(folder / SETTINGS)
    return {key: value for key, value in found.items() if key in Settings.model_fields}


def _merge(
    layers: Sequence[tuple[str, Mapping[str, Any]]], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    merged, sources = dict(defaults), dict.fromkeys(defaults, "default")
    for source, layer in layers:
        for key, value in layer.items():
            merged[key], sources[key] = value, source
    return merged, sources


def _check_keys(layer: Mapping[str, Any], source: str) -> None:
    for key in layer:
        if key not in Settings.model_fields:
            raise ConfigError(
                f"{source}: there is no setting '{key}'{_nearest(str(key), Settings.model_fields)}"
            )


def _nearest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else "; --help lists them"


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = " ".join(str(error).split())
        raise ConfigError(f"the settings file {path} is not valid YAML ({what})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"the settings file {path} must hold 'setting: value' lines")
    return content


def _choose_preset(preset: str, gpus: Callable[[], int]) -> tuple[str, str]:
    """The preset's name, and why it was chosen where that was left to the program."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if preset not in known:
        raise ConfigError(f"there is no preset '{preset}'{_nearest(preset, known)}")
    if preset != "auto":
        return preset, ""
    kind = "gpu" if gpus() else "cpu"
    why = " (there is a GPU)" if kind == "gpu" else " (there is no GPU)"
    return _read_yaml(PRESETS / "auto.yaml")[kind], why


def _preset_layers(preset: str, model: str) -> list[tuple[str, dict[str, Any]]]:
    """A preset's own values, then those it keeps for this model."""
    values = _read_yaml(PRESETS / f"{preset}.yaml")
    by_model = values.pop("models", {})
    own: dict[str, Any] = {}
    for name, part in by_model.items():
        if ALIASES.get(name, name) == ALIASES.get(model, model):
            own = part
    for layer in (values, *by_model.values()):
        _check_keys(layer, f"preset {preset}")
    return [(f"preset {preset}", values), (f"preset {preset}, {model}", own)]


def _check(merged: dict[str, Any], sources: dict[str, str], gpus: Callable[[], int]) -> Resolved:
    try:
        settings = Settings(**merged)
    except ValidationError as error:
        raise ConfigError(_sentence(error, sources)) from None
    try:
        name = architecture(settings.model)
        chosen = settings.strategies or strategies(name)
        for strategy in chosen:
            check_strategy(name, strategy)
    except ModelError as error:
        hint = _nearest(settings.model, [*ALIASES, *ARCHITECTURES])
        known = settings.model in (*ALIASES, *ARCHITECTURES)
        raise ConfigError(str(error) if known or "--help" in hint else f"{error}{hint}") from None
    changes: dict[str, Any] = {"strategies": tuple(dict.fromkeys(chosen))}
    if settings.start in ("auto", "starter"):
        changes["start"] = _starter(settings)
    if settings.trials_per_gpu is None:
        changes["trials_per_gpu"] = 1 if gpus() else 0
    if settings.trials_per_gpu == "auto" and not gpus():
        changes["trials_per_gpu"] = 0
    for key in changes:
        if sources[key] == "default" or key in ("start", "trials_per_gpu"):
            sources[key] += " (worked out)"
    if settings.storage is not None:
        changes["storage"] = storage_address(settings.storage)
    settings = settings.model_copy(update=changes)
    _check_together(settings, gpus)
    return Resolved(settings, sources)


#: The variables that an object store's credentials are read from, by its scheme.
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}


def storage_address(value: str) -> str:
    """The absolute path of a folder, or the URL of a place in an object store, from what --storage is given.
    Raises ConfigError if that is neither, or has a secret in it."""
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value):
        return str(Path(value).expanduser().resolve())
    if value.startswith("file:///"):
        return str(Path(value.removeprefix("file://")).resolve())
    parts = urlsplit(value)
    secret = any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
    if secret or "@" in value.removeprefix("gs://anonymous@"):
        names = CREDENTIALS.get(parts.scheme, CREDENTIALS["s3"])
        raise ConfigError(
            "the address of --storage has a key or an account in it, which files and logs would show; leave "
            f"it out and set {names} in the environment of every node"
        )
    if parts.scheme not in CREDENTIALS or not parts.netloc:
        raise ConfigError(
            f"storage '{value}' is none that checkpoints can be kept in; --storage takes a folder, "
            "s3://bucket/prefix or gs://bucket/prefix"
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))


def _starter(settings: Settings) -> str:
    path = starter_path(settings.model, settings.width, settings.latent_width)
    if path.is_file():
        return str(path)
    if settings.start == "auto":
        return "scratch"
    raise ConfigError(
        f"there are no starter weights for {settings.model} of width {settings.width}; "
        "use --start scratch, or make them with python -m lic.starter"
    )


def _check_together(settings: Settings, gpus: Callable[[], int]) -> None:
    """Settings that are fine alone and wrong together."""
    if settings.alpha_min >= settings.alpha_max:
        raise ConfigError(f"alpha_min {settings.alpha_min:g} must be below alpha_max {settings.alpha_max:g}")
    if settings.stopping and settings.grace >= settings.epochs > 1:
        raise ConfigError(
            f"grace {settings.grace} leaves no epoch to stop at in {settings.epochs}; "
            "lower --grace or use --no-stopping"
        )
    if settings.kodak and settings.test != "auto":
        raise ConfigError(f"--kodak and --test {settings.test} both name the images to report on; drop one")
    if settings.select_on == "kodak" and (settings.test != "auto" or settings.test_images):
        raise ConfigError("--select-on kodak needs the whole Kodak set; drop --test and --test-images")
    if settings.start not in ("scratch",) and not Path(settings.start).is_file():
        raise ConfigError(
            f"there are no weights at '{settings.start}'; --start takes scratch, starter, auto "
            "or a .safetensors file"
        )
    if settings.max_gpu_hours is not None and not settings.trials_per_gpu:
        raise ConfigError(
            f"max_gpu_hours is {settings.max_gpu_hours:g} but no trial uses a GPU; limit --max-hours instead"
        )
    if settings.trials_per_gpu and not gpus():
        raise ConfigError(f"trials_per_gpu is {settings.trials_per_gpu} but there is no GPU; use 0")
    if settings.patch % 64:
        below, above = settings.patch // 64 * 64, (settings.patch // 64 + 1) * 64
        raise ConfigError(
            f"patch is {settings.patch}, but the models need a multiple of 64; "
            f"the nearest are {below} and {above}"
        )


def _sentence(error: ValidationError, sources: dict[str, str]) -> str:
    """The first of pydantic's complaints, for a person."""
    first = error.errors()[0]
    key = str(first["loc"][0])
    bounds = {
        "greater_than": "gt",
        "greater_than_equal": "ge",
        "less_than": "lt",
        "less_than_equal": "le",
    }
    what = first["msg"].removeprefix("Value error, ")
    if first["type"] in bounds:
        limit = first["ctx"][bounds[first["type"]]]
        inclusive = first["type"].endswith("equal")
        what = f"the nearest allowed value is {limit}" if inclusive else f"it must be {what[16:]}"
    if first["type"] == "literal_error":
        options = [word.strip(" '\"") for word in first["ctx"]["expected"].replace(" or ", ",").split(",")]
        what = f"choose one of {', '.join(options)}{_nearest(str(first['input']), options)}"
        what = what.replace("; --help lists them", "")
    return f"{key} {first['input']!r} ({sources.get(key, '')}) cannot be used: {what}"
