"""The settings of a search: defaults < preset < YAML file < environment < command line."""

from __future__ import annotations

import functools
import math
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from lic.files import shown, user_path
from lic.models.architectures import ALIASES, ARCHITECTURES, ModelError
from lic.recipe import LAMBDAS, Optimizer, Precision, Scale, TrainingConfig
from search.base.space import ALPHA_MAX, ALPHA_MIN, MOST_EPOCHS, fork_epoch, parse_rates
from search.settings import plain_yaml
from search.settings.agreement import worked_out
from search.settings.complaints import ConfigError, disagreement, nearest, sentence, without_effect
from search.settings.presets import choose_preset, preset_layers

ENVIRONMENT = "LICTUNE_"

#: The settings of a search, in its folder.
SETTINGS = "settings.yaml"

#: Settings that are paths, some of them unless they are a certain word.
_PATHS = ("data", "kodak", "test", "cache", "start", "results", "warm_start")

#: A name's characters besides letters and digits of any script, and its length at the most: it is that of a
#: folder, a study, an experiment and a place in an object store all at once, and a folder's has 255 bytes.
_NAME_MARKS, _NAME_LENGTH, _NAME_BYTES = " ._-+=@", 100, 200


def _setting(group: str, default: Any, help: str, **bounds: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class Settings(BaseModel):
    """Every setting of a search, checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = _setting("What to search", "cheng", "an alias or a CompressAI architecture")
    preset: str = _setting("What to search", "auto", "paper, fast, tiny, or auto: by the machine")
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
    alpha_min: float = _setting("What to search", ALPHA_MIN, "smallest decorrelation weight", gt=0, le=1e35)
    alpha_max: float = _setting("What to search", ALPHA_MAX, "largest decorrelation weight", gt=0, le=1e38)
    seed: int = _setting("What to search", 0, "of weights, batches and proposals", ge=0, lt=2**32)
    sampler: Literal["surrogate", "tpe", "gp", "random", "grid"] = _setting(
        "What to search",
        "surrogate",
        "what proposes points: the search's own; tpe, gp, random: Optuna's, pooled over the rates; grid",
    )
    stopping: bool = _setting("What to search", True, "stop poor trials early (ASHA per rate)")
    grace: int = _setting("What to search", 1, "epochs before a trial may be stopped", ge=1, lt=MOST_EPOCHS)
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
        "Training",
        "scratch",
        "scratch, starter, auto (starter if there is one), or weights: .safetensors, CompressAI's .pth or "
        ".pth.tar, a search's best/q3.pt, a model of a zoo (zoo/ARCHITECTURE/q3), or a zoo (its highest "
        "quality); --width then defaults to theirs",
    )
    scale: Scale = _setting("Training", TrainingConfig.scale, "of the decorrelation loss")
    batch: int = _setting("Training", TrainingConfig.batch, "patches in a batch", ge=2, le=65_536)
    patch: int = _setting("Training", TrainingConfig.patch, "side of a patch, pixels", ge=64, le=8192)
    epochs: int = _setting(
        "Training", TrainingConfig.epochs, "epochs of a full training", ge=1, le=MOST_EPOCHS
    )
    steps_per_epoch: int = _setting(
        "Training", TrainingConfig.steps_per_epoch, "steps in an epoch", ge=1, le=10_000_000
    )
    optimizer: Optimizer = _setting(
        "Training",
        TrainingConfig.optimizer,
        "what moves the weights: adam, adamw, soap or muon, which need fewer steps, each a little dearer",
    )
    lr: float | None = _setting(
        "Training", None, "learning rate (default: the preset's, or what suits another optimizer)", gt=0, le=1
    )
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
        name = None if value is None else unicodedata.normalize("NFC", value)
        if name is None or is_name(name):
            return name
        raise ValueError(
            "a name is one folder name: letters, digits, spaces and . _ - + = @, no '/', not beginning with "
            f"a space, '.' or '-', at most {_NAME_LENGTH} characters ({_NAME_BYTES} bytes), and not 'last'"
        )

    @field_validator(*_PATHS)
    @classmethod
    def _check_path(cls, value: str | None) -> str | None:
        return value if value is None else user_path(value)

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
    # Marks (category M) are accents and vowel signs that make one letter with the character before them.
    written = all(c.isalnum() or c in _NAME_MARKS or unicodedata.category(c)[0] == "M" for c in value)
    begins = value[:1].isalnum() or value[:1] in ("_", "+", "=", "@")
    short = len(value) <= _NAME_LENGTH and len(value.encode(errors="replace")) <= _NAME_BYTES
    return written and begins and short and value[-1:] != " " and value != "last"


@dataclass(frozen=True)
class Resolved:
    """The settings and, for each, where its value came from."""

    settings: Settings
    sources: dict[str, str]
    #: Sentences about what was given and has no effect.
    ignored: tuple[str, ...] = ()

    def report(self) -> str:
        """The settings as YAML, each with its source as a comment."""
        lines = []
        for key, value in self.settings.model_dump(mode="json").items():
            text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True).strip()
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
        layers.append((str(file), plain_yaml.read(file)))
    if recorded is not None:
        layers.append(("as it began", recorded))
    from_environment, ignored = _from_environment(environment)
    layers.append(("environment", from_environment))
    layers.append(("command line", command_line))
    _check_keys(layers)
    given = {key for _, layer in layers for key, value in layer.items() if value is not None}
    defaults = Settings().model_dump()
    first = _validated(*_merge(layers, defaults))
    count_gpus = functools.partial(gpus, first.address)
    preset, why = choose_preset(first.preset, count_gpus)
    layers[:0] = preset_layers(preset, first.model, first.optimizer if "optimizer" in given else None)
    _check_keys(layers)
    merged, sources = _merge(layers, defaults)
    merged["preset"], sources["preset"] = preset, f"{sources['preset']}{why}"
    resolved = _check(merged, sources, given, count_gpus)
    return replace(resolved, ignored=(*ignored, *resolved.ignored))


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The settings among the variables, and a sentence about each that only looks like one: it may be someone
    else's, as those are that Kubernetes sets for every service whose name begins so."""
    found: dict[str, str] = {}
    ignored = []
    for name, value in environment.items():
        key = name.removeprefix(ENVIRONMENT).lower()
        if not name.startswith(ENVIRONMENT) or key == "zoo":  # lic.codec.__main__'s
            continue
        if key in Settings.model_fields:
            found[key] = value
        else:
            meant = nearest(key, Settings.model_fields, lambda known: f"{ENVIRONMENT}{known.upper()}")
            ignored.append(f"the environment variable {shown(name)} is no setting and is ignored{meant}")
    return found, ignored


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
    changed = {**command_line, "name": folder.resolve().name}
    if began.name not in (None, folder.resolve().name):
        raise ConfigError(f"the search in {folder} was called {began.name}; give its folder that name again")
    try:
        resolved = resolve(changed, {}, gpus, recorded=recorded)
    except ConfigError:
        # What disagrees with the other settings is a change to begin with.
        _check_keys([("command line", changed)])
        _check_changes(
            command_line, began, _validated(*_merge([("command line", changed)], recorded)), folder
        )
        raise
    _check_changes(command_line, began, resolved.settings, folder)
    if "***" in str(resolved.settings.tracking_uri):
        raise ConfigError(
            f"{folder} does not keep the password of its tracking_uri; give --tracking-uri again"
        )
    return resolved


def _check_changes(keys: Collection[str], began: Settings, asked: Settings, folder: Path) -> None:
    for key in set(keys) - set(_CHANGEABLE):
        if getattr(began, key) != getattr(asked, key):
            raise ConfigError(
                f"{key} was {shown(getattr(began, key))} in {folder} and cannot change when it goes on; "
                "leave it out, or start a new search with --warm-start"
            )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings in a search's folder, without those that this version of the package does not know. Raises
    ConfigError."""
    # What a search of before there was a choice had, whatever its preset says by now.
    found = {"optimizer": "adam", **plain_yaml.read(folder / SETTINGS)}
    return {key: value for key, value in found.items() if key in Settings.model_fields}


def _merge(
    layers: Sequence[tuple[str, Mapping[str, Any]]], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    merged, sources = dict(defaults), dict.fromkeys(defaults, "default")
    for source, layer in layers:
        for key, value in layer.items():
            merged[key], sources[key] = value, source
    return merged, sources


def _check_keys(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    for source, key in ((source, key) for source, layer in layers for key in layer):
        if key not in Settings.model_fields:
            raise ConfigError(
                f"{source}: there is no setting {shown(key)}{nearest(shown(key), Settings.model_fields)}"
            )


def _validated(merged: dict[str, Any], sources: dict[str, str]) -> Settings:
    try:
        return Settings(**merged)
    except ValidationError as error:
        raise ConfigError(sentence(error, sources)) from None


def _check(
    merged: dict[str, Any], sources: dict[str, str], given: Collection[str], gpus: Callable[[], int]
) -> Resolved:
    settings = _validated(merged, sources)
    try:
        changes = worked_out(settings, given, gpus)
    except ModelError as error:
        hint = nearest(settings.model, [*ALIASES, *ARCHITECTURES])
        known = settings.model in (*ALIASES, *ARCHITECTURES)
        raise ConfigError(str(error) if known or "--help" in hint else f"{error}{hint}") from None
    for key in changes:
        if key not in given or key in ("start", "trials_per_gpu"):
            sources[key] += " (worked out)"
    settings = _validated(settings.model_dump() | changes, sources)
    if wrong := disagreement(settings, gpus):
        raise ConfigError(wrong)
    return Resolved(settings, sources, tuple(without_effect(settings, given)))
