"""The settings of the training that a search tunes (`--tune`): which can be, how their ranges are written,
and what is wrong with them."""

from __future__ import annotations

import math
import typing
from collections.abc import Iterator, Sequence

from annotated_types import Gt
from pydantic import ValidationError

from lic.files import shown
from lic.recipe import FORKABLE, TrainingConfig
from search.base.dimensions import Dimension, Value, shown_values
from search.settings.complaints import ConfigError, nearest, sentence
from search.settings.schema import Settings

#: Settings of the training that cannot be tuned, and why.
_REFUSED = {
    "batch": "trials would differ in the time and the images of a step, so their epochs would not compare",
    "patch": "trials would differ in the time and the images of a step, so their epochs would not compare",
    "accumulate": "it changes how much memory a step takes, and L with it",
    "width": "trials would be models of other sizes, which differ in run time from their baseline",
    "latent_width": "trials would be models of other sizes, which differ in run time from their baseline",
    "start": "trials would start from other weights than their baseline",
    "epochs": "trials are compared with their baseline after the same number of epochs",
    "steps_per_epoch": "trials are compared with their baseline after the same number of steps",
    "max_skipped": "it only says when a training run fails",
    "alpha": "it is searched anyway; --alpha-min and --alpha-max are its range",
    "strategy": "it is searched anyway; --strategies are its values",
}  # fmt: skip


def _group(key: str) -> str:
    return str(typing.cast(dict[str, str], Settings.model_fields[key].json_schema_extra)["group"])


#: The settings that can be tuned: those that each training run has for itself and that change neither data
#: nor cost per step.
TUNABLE = tuple(
    sorted(
        key
        for key in TrainingConfig.__dataclass_fields__
        if key in Settings.model_fields and _group(key) == "Training" and key not in _REFUSED
    )
)

#: Tunable settings that only the regularisation term depends on.
_OF_THE_TERM = ("regularizer", "scale")

_SUFFIXES = {"log": True, "lin": False}


def dimensions_of(settings: Settings) -> tuple[Dimension, ...]:
    """The tuned settings, sorted by name. Raises ConfigError."""
    return tuple(_dimension(settings, name, text) for name, text in sorted(settings.tune.items()))


def _dimension(settings: Settings, name: str, text: str) -> Dimension:
    if name in _REFUSED:
        raise ConfigError(f"tune {name}: it cannot be tuned: {_REFUSED[name]}")
    if name not in TUNABLE:
        if name in Settings.model_fields:
            raise ConfigError(
                f"tune {name}: it cannot be tuned, as it is no setting of how a trial is trained"
            )
        meant = nearest(name, TUNABLE).replace("--help lists them", f"choose from {', '.join(TUNABLE)}")
        raise ConfigError(f"tune {shown(name)}: no such setting{meant}")
    ends, _, suffix = text.partition(":") if ".." in text else (text, "", "")
    if ".." not in text:
        return _choices(settings, name, text)
    low, high = (_checked(name, end) for end in ends.split("..", 1))
    if isinstance(low, str) or isinstance(high, str):
        raise ConfigError(f"tune {name}={shown(text)}: {name} is no number; list its values: {name}=A,B")
    if suffix and suffix not in _SUFFIXES:
        raise ConfigError(f"tune {name}={shown(text)}: after the range write :log, :lin or nothing")
    if low >= high:
        raise ConfigError(f"tune {name}={shown(text)}: the range is empty; write {name}=LOW..HIGH")
    # What must be positive can differ by orders of magnitude.
    positive = any(isinstance(bound, Gt) for bound in Settings.model_fields[name].metadata)
    log = _SUFFIXES.get(suffix, positive)
    if log and low <= 0:
        raise ConfigError(f"tune {name}={shown(text)}: a log scale needs a lower end above 0; use :lin")
    return Dimension(name, getattr(settings, name), low, high, log)


def _choices(settings: Settings, name: str, text: str) -> Dimension:
    found = tuple(dict.fromkeys(_checked(name, part) for part in text.split(",")))
    if len(found) < 2:
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(
            f"tune {name}={shown(text)}: there is nothing to choose from; give two values or more, or a "
            f"range LOW..HIGH, or set it with {option}"
        )
    return Dimension(name, getattr(settings, name), choices=found)


def _checked(name: str, text: str) -> Value:
    """A value of a setting. Raises ConfigError if the setting does not take it."""
    try:
        value: Value = getattr(Settings(**{name: text.strip()}), name)  # type: ignore[arg-type]
    except ValidationError as error:
        raise ConfigError(sentence(error, {name: "tune"})) from None
    return value


def tuning_text(dimensions: Sequence[Dimension]) -> str:
    """The tuned settings for the first lines of a search's output."""
    names = [dimension.name for dimension in dimensions]
    lr = ""
    if "optimizer" in names:
        lr = "; lr is that of every optimizer" if "lr" in names else "; each optimizer with its own lr"
    return f"{'; '.join(map(str, dimensions))}{lr} (baselines: {_shown_defaults(dimensions)})"


def _shown_defaults(dimensions: Sequence[Dimension]) -> str:
    return shown_values((dimension.name, dimension.default) for dimension in dimensions)


def check_tuning(settings: Settings) -> None:
    """Check the tuned settings, and that they agree with the others. Raises ConfigError."""
    if settings.fix not in ({}, {"alpha": 0.0}):
        raise ConfigError(
            f"fix {shown(settings.fix)}: only alpha=0 can be fixed; give other settings by their own options"
        )
    found = dimensions_of(settings)
    for wrong in _contradictions(settings, {dimension.name: dimension for dimension in found}):
        raise ConfigError(wrong)


def _contradictions(settings: Settings, tuned: dict[str, Dimension]) -> Iterator[str]:
    if settings.fix and not tuned:
        yield "--fix alpha=0 leaves nothing to search; add --tune, such as --tune lr=1e-4..1e-3"
    if tuned and settings.sampler == "grid":
        yield "--sampler grid is a grid of alphas and has no place for --tune; use another --sampler"
    for name in _OF_THE_TERM:
        if name in tuned and settings.fix:
            yield f"tune {name}: it belongs to the regularisation term, which --fix alpha=0 leaves out"
    for name in tuned:
        if settings.fork_at and name not in FORKABLE:
            yield (
                f"tune {name}: with --fork-at a trial starts from its baseline's checkpoint, which depends "
                f"on {name}; omit --fork-at"
            )
    schedules = tuned["schedule"].choices if "schedule" in tuned else (settings.schedule,)
    if "decay_at" in tuned and "constant-cosine" not in schedules:
        yield f"tune decay_at: it has no effect with --schedule {settings.schedule}; use constant-cosine"
    if settings.fix and all(dimension.choices for dimension in tuned.values()):
        points = math.prod(len(dimension.choices) for dimension in tuned.values())
        default = all(dimension.default in dimension.choices for dimension in tuned.values())
        most = (points - default) * len(settings.rates)
        if settings.budget - settings.noise_baselines > most:
            yield (
                f"budget {settings.budget} is more than the tuned settings have combinations: {most} beside "
                f"the baselines; use --budget {most + settings.noise_baselines}"
            )
