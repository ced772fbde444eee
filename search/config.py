"""The settings of a search: defaults < preset < YAML file < environment < command line."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from configs import PRESETS
from lic.architectures import (
    ALIASES,
    ARCHITECTURES,
    ModelError,
    architecture,
    check_strategy,
    starting_weights,
    strategies,
)
from lic.errors import LictuneError
from lic.files import check_path, read_regular, shown
from lic.recipe import LAMBDAS, ON_CPU, ON_GPU, Precision, Scale, TrainingConfig
from search import plain_yaml
from search.complaints import disagreement, nearest, sentence
from search.space import fork_epoch, parse_rates

ENVIRONMENT = "LICTUNE_"

#: The settings of a search, in its folder.
SETTINGS = "settings.yaml"

#: Settings that are paths, some of them unless they are a certain word.
_PATHS = ("data", "kodak", "test", "cache", "start", "results", "warm_start")

#: The name of a folder, a study, an experiment and a place in an object store all at once.
_NAME = re.compile(r"[A-Za-z0-9_+=@]([A-Za-z0-9 ._+=@-]{0,98}[A-Za-z0-9._+=@-])?")

_SECRET = re.compile(r"key|secret|token|password|credential", re.IGNORECASE)


class ConfigError(LictuneError):
    """A setting that cannot be used; one sentence with the value and the fix."""


def _setting(group: str, default: Any, help: str, **bounds: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class Settings(BaseModel):
    """Every setting of a search, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = _setting("What to search", "cheng", "an alias or a CompressAI architecture")
    preset: str = _setting("What to search", "auto", "paper, tiny, or auto: by the machine")
    budget: int = _setting("What to search", 64, "number of trials; baselines are extra", ge=1, le=100_000)
    max_hours: float | None = _setting(
        "What to search", None, "end after so many hours, whatever is left (default: no limit)", gt=0, le=1e6
    )
    max_gpu_hours: float | None = _setting(
        "What to search", None, "end after so many GPU hours of training (default: no limit)", gt=0, le=1e9
    )
    reuse_baselines: bool = _setting(
        "What to search", True, "take baselines from earlier searches of the same training setup"
    )
    confirm: int | None = _setting(
        "What to search",
        None,
        "then train the best so many points per rate again on fresh seeds, in full also with --fork-at",
        ge=1,
        le=1000,
    )
    seeds: int = _setting("What to search", 3, "number of fresh seeds for --confirm", ge=1, le=1000)
    warm_start: str | None = _setting(
        "What to search", None, "an earlier search (its name or folder) whose trials inform the sampler"
    )
    rates: tuple[int, ...] = _setting("What to search", tuple(LAMBDAS), "qualities, such as 1-6 or 1,3,5")
    strategies: tuple[str, ...] = _setting(
        "What to search", (), "of y, z, y+z, such as y,y+z (default: all that the model offers)"
    )
    alpha_min: float = _setting("What to search", 1e-8, "smallest decorrelation weight", gt=0, le=1e38)
    alpha_max: float = _setting("What to search", 1e-5, "largest decorrelation weight", gt=0, le=1e38)
    seed: int = _setting("What to search", 0, "of weights, batches and proposals", ge=0, lt=2**32)
    sampler: Literal["surrogate", "tpe", "gp", "random", "grid"] = _setting(
        "What to search",
        "surrogate",
        "what proposes points: the search's own; tpe, gp, random: Optuna's, pooled over the rates; grid",
    )
    stopping: bool = _setting("What to search", True, "stop poor trials early (ASHA per rate)")
    grace: int = _setting("What to search", 1, "epochs before a trial may be stopped", ge=1, le=100_000)
    eta: int = _setting("What to search", 3, "one in eta trials passes a rung", ge=2, le=1000)
    fork_at: float = _setting(
        "What to search",
        0.0,
        "trials begin with their baseline's state after this fraction of the epochs and train the rest "
        "(default: 0, they train in full, as --confirm always does)",
        ge=0,
        lt=1,
    )

    data: str | None = _setting(
        "Images", None, "folder of images to train on (default: dead leaves, generated)"
    )
    kodak: str | None = _setting("Images", None, "folder of the Kodak images (default: fetched)")
    test: str = _setting(
        "Images", "auto", "images to report on: auto (Kodak if it can be had), deadleaves, a folder"
    )
    test_images: int | None = _setting("Images", None, "only the first so many of them", ge=1, le=1_000_000)
    val_images: int = _setting("Images", 32, "images held out of training to select on", ge=1, le=1_000_000)
    val_crop: int | None = _setting("Images", 256, "side of their central crop, pixels", ge=64, le=65_536)
    select_on: Literal["val", "kodak"] = _setting(
        "Images", "val", "images that decide; kodak follows the paper"
    )
    cadence: Literal["dense", "sparse"] = _setting(
        "Images",
        "dense",
        "dense: what decides is measured after every epoch, what is reported at every rung and the end; "
        "sparse: at every rung and the end, and at the end alone",
    )
    cache: str | None = _setting("Images", None, "folder of decoded images (default: ~/.cache)")

    width: int = _setting("Training", 128, "channels N of the model", ge=2, le=1024)
    latent_width: int | None = _setting("Training", None, "latent channels M (default: N)", ge=2, le=1024)
    start: str = _setting(
        "Training", "scratch", "scratch, starter, auto (starter if there is one), or a weights file"
    )
    scale: Scale = _setting("Training", TrainingConfig.scale, "of the decorrelation loss")
    batch: int = _setting("Training", TrainingConfig.batch, "patches in a batch", ge=2, le=65_536)
    patch: int = _setting("Training", TrainingConfig.patch, "side of a patch, pixels", ge=64, le=8192)
    epochs: int = _setting("Training", TrainingConfig.epochs, "epochs of a full training", ge=1, le=100_000)
    steps_per_epoch: int = _setting(
        "Training", TrainingConfig.steps_per_epoch, "steps in an epoch", ge=1, le=10_000_000
    )
    lr: float = _setting("Training", TrainingConfig.lr, "learning rate (Adam)", gt=0, le=1)
    aux_lr: float = _setting("Training", TrainingConfig.aux_lr, "learning rate of the quantiles", gt=0, le=1)
    clip: float = _setting("Training", TrainingConfig.clip, "largest gradient norm", gt=0, le=1e9)
    decay_at: float = _setting(
        "Training", TrainingConfig.decay_at, "fraction of the steps before the decay", ge=0, le=1
    )
    decay_to: float = _setting(
        "Training", TrainingConfig.decay_to, "last learning rate over first", gt=0, le=1
    )
    max_skipped: float = _setting(
        "Training", TrainingConfig.max_skipped, "share of steps that may be NaN", ge=0, lt=1
    )

    precision: Literal["auto", Precision] = _setting(
        "Speed", "auto", "of the training: fp32, tf32, bf16 (default: tf32 on a GPU, fp32 on the CPU)"
    )
    channels_last: bool | None = _setting(
        "Speed", None, "images and weights in the layout of CUDA's kernels (default: on a GPU)"
    )
    compile: bool | None = _setting(
        "Speed", None, "compile the training step, once for all trials of a worker (default: on a GPU)"
    )
    fused_adam: bool = _setting("Speed", True, "Adam in one pass")
    resident_images: bool | None = _setting(
        "Speed",
        None,
        "training images in the GPU's memory, if they take a quarter of it at most (default: so)",
    )
    graph: bool | None = _setting(
        "Speed", None, "the whole step as one CUDA graph; needs fused Adam (default: on a GPU)"
    )
    autotune: bool = _setting("Speed", False, "let cuDNN try its kernels on the shapes at hand")

    workers: int | None = _setting(
        "Machine", None, "trials at once (default: one a GPU share or CPU core)", ge=1, le=100_000
    )
    trials_per_gpu: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] | None = _setting(
        "Machine",
        None,
        "trials that share a GPU, its memory in equal parts; 0 for the CPU; auto measures what is "
        "fastest and fits the memory (default: 1 if there is a GPU)",
    )
    retries: int = _setting(
        "Machine", 3, "times a training that broke off is tried again, from its checkpoint", ge=0, le=1000
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
    def fork(self) -> int:
        """The epoch that `fork_at` means. Raises ValueError (search.space.fork_epoch)."""
        return fork_epoch(self.fork_at, self.epochs)

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
        return parse_rates(value)

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
        if value is None or is_name(value):
            return value
        raise ValueError(
            "a name is one folder name: letters, digits, spaces and . _ - + = @, no '/', not beginning with "
            "a space, '.' or '-', at most 100 characters, and not 'last'"
        )

    @field_validator(*_PATHS)
    @classmethod
    def _check_path(cls, value: str | None) -> str | None:
        if value is not None:
            check_path(value)
        return value

    # The last of the validators that come before pydantic's own is the first.
    @field_validator("*", mode="before")
    @classmethod
    def _check_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Texts of one line and sane length; no yes or no where a number is meant: it would be 1 or 0."""
        field = cls.model_fields[str(info.field_name)]
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, bool) and not is_switch(field.annotation):
                raise ValueError("yes and no are not values of it")
            if isinstance(part, str) and (len(part) > 3000 or not part.isprintable()):
                raise ValueError("a text has one line of printable characters, at most 3000")
        return value


def is_switch(annotation: Any) -> bool:
    """Whether a setting of this type is yes or no, or left to the program."""
    return annotation in (bool, bool | None)


def is_name(value: str) -> bool:
    """Whether a search can be called so. What --resume takes for the newest search is no name."""
    return _NAME.fullmatch(value) is not None and value != "last"


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
        if key.startswith(ENVIRONMENT) and key != f"{ENVIRONMENT}ZOO"  # lic.codec's
    }
    layers.append(("environment", from_environment))
    layers.append(("command line", command_line))
    for source, layer in layers:
        _check_keys(layer, source)

    defaults = Settings().model_dump()
    given = _validated(*_merge(layers, defaults))
    count_gpus = functools.partial(gpus, given.address)
    preset, why = _choose_preset(given.preset, count_gpus)
    layers[:0] = _preset_layers(preset, given.model)
    merged, sources = _merge(layers, defaults)
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
                f"{key} was {shown(getattr(began, key))} in {folder} and cannot change when it goes on; "
                "leave it out, or start a new search with --warm-start"
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
                f"{source}: there is no setting {shown(key)}{nearest(shown(key), Settings.model_fields)}"
            )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = plain_yaml.parse(read_regular(path, plain_yaml.MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the settings file {path} is not valid YAML ({error})") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"the settings file {path} must hold 'setting: value' lines")
    return content


def _choose_preset(preset: str, gpus: Callable[[], int]) -> tuple[str, str]:
    """The preset's name, and why it was chosen where that was left to the program."""
    known = [path.stem for path in sorted(PRESETS.glob("*.yaml"))]
    if preset not in known:
        raise ConfigError(f"there is no preset {shown(preset)}{nearest(preset, known)}")
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


def _validated(merged: dict[str, Any], sources: dict[str, str]) -> Settings:
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(sentence(error, sources)) from None


def _check(merged: dict[str, Any], sources: dict[str, str], gpus: Callable[[], int]) -> Resolved:
    settings = _validated(merged, sources)
    try:
        name = architecture(settings.model)
        chosen = settings.strategies or strategies(name)
        for strategy in chosen:
            check_strategy(name, strategy)
        start = starting_weights(settings.start, settings.model, settings.width, settings.latent_width)
    except ModelError as error:
        hint = nearest(settings.model, [*ALIASES, *ARCHITECTURES])
        known = settings.model in (*ALIASES, *ARCHITECTURES)
        raise ConfigError(str(error) if known or "--help" in hint else f"{error}{hint}") from None
    changes: dict[str, Any] = {"strategies": tuple(dict.fromkeys(chosen))}
    if start != settings.start:
        changes["start"] = start
    if settings.trials_per_gpu is None:
        changes["trials_per_gpu"] = 1 if gpus() else 0
    if settings.trials_per_gpu == "auto" and not gpus():
        changes["trials_per_gpu"] = 0
    by_device = ON_GPU if changes.get("trials_per_gpu", settings.trials_per_gpu) else ON_CPU
    for key, value in asdict(by_device).items():
        if getattr(settings, key) in ("auto", None):
            changes[key] = value and settings.fused_adam if key == "graph" else value
    for key in changes:
        if sources[key] == "default" or key in ("start", "trials_per_gpu"):
            sources[key] += " (worked out)"
    if settings.storage is not None:
        changes["storage"] = storage_address(settings.storage)
    settings = settings.model_copy(update=changes)
    if wrong := disagreement(settings, gpus):
        raise ConfigError(wrong)
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
    if not re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", value) or value.startswith("file:///"):
        folder = value.removeprefix("file://")
        try:
            check_path(folder)
        except ValueError as error:
            raise ConfigError(f"storage {shown(value)} cannot be used: {error}") from None
        return str(Path(folder).expanduser().resolve())
    try:
        parts = urlsplit(value)
    except ValueError as error:
        raise ConfigError(f"storage {shown(value)} cannot be used: it is no address ({error})") from None
    secret = any(_SECRET.search(key) for key, _ in parse_qsl(parts.query, keep_blank_values=True))
    if secret or "@" in value.removeprefix("gs://anonymous@"):
        names = CREDENTIALS.get(parts.scheme, CREDENTIALS["s3"])
        raise ConfigError(
            "the address of --storage has a key or an account in it, which files and logs would show; leave "
            f"it out and set {names} in the environment of every node"
        )
    if parts.scheme not in CREDENTIALS or not parts.netloc:
        raise ConfigError(
            f"storage {shown(value)} is none that checkpoints can be kept in; --storage takes a folder, "
            "s3://bucket/prefix or gs://bucket/prefix"
        )
    return urlunsplit(parts._replace(path=parts.path.rstrip("/")))
