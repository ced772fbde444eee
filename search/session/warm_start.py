"""Whether the trials of an earlier search can inform another one (`--warm-start`)."""

from __future__ import annotations

from lic.files import shown
from lic.models.architectures import architecture
from search.records.folder import SearchFolder
from search.settings.complaints import ConfigError
from search.settings.config import Settings

#: Settings that the decorrelation loss L grows with: with the scale `paper`, alpha is that of one geometry.
_GEOMETRY = ("batch", "accumulate", "patch", "width")

#: Further settings of the training that change what a trial gains.
_TRAINING = ("latent_width", "start", "optimizer", "lr", "epochs", "steps_per_epoch")


def check_comparable(settings: Settings, earlier: SearchFolder) -> str:
    """Compare a search with the one that it takes trials from; returns a sentence on what is different but no
    obstacle, or an empty text. Raises ConfigError if alphas or rate changes are not comparable."""
    name, theirs = earlier.path.name, earlier.settings
    if architecture(settings.model) != architecture(theirs.model):
        raise ConfigError(
            f"the trials of {name} are of the model {theirs.model}, not {settings.model}, so their alphas "
            f"are not comparable; omit --warm-start, or use --model {theirs.model}"
        )
    compared = {"regularizer": "alphas", "distortion": "rate changes", "objective": "rate changes"}
    if "scale" not in settings.tune:
        compared["scale"] = "alphas"
    for key, what in compared.items():
        if (own := getattr(settings, key)) != (other := getattr(theirs, key)):
            raise ConfigError(
                f"the trials of {name} have the {key} {other}, not {own}, so their {what} are not "
                f"comparable; omit --warm-start, or use --{key} {other}"
            )
    if settings.lambda_table != theirs.lambda_table:
        values = ",".join(map(repr, theirs.lambda_table.values()))
        raise ConfigError(
            f"the qualities of {name} have other lambdas ({values}), so its rate changes are not comparable; "
            "omit --warm-start, or use the same --lambdas"
        )
    for key in ("regularizer", "scale"):
        if key in theirs.tune and key not in settings.tune:
            raise ConfigError(
                f"the trials of {name} tuned {key}, so their alphas are not comparable; omit "
                f"--warm-start, or add --tune {key}={theirs.tune[key]}"
            )
    return _differences(settings, theirs, name)


def _differences(settings: Settings, theirs: Settings, name: str) -> str:
    """Raises ConfigError if the geometry differs and alpha is not made comparable."""
    found = {
        key: (getattr(theirs, key), getattr(settings, key))
        for key in (*_GEOMETRY, *_TRAINING)
        if getattr(theirs, key) != getattr(settings, key)
    }
    geometry = [key for key in found if key in _GEOMETRY]
    if geometry and settings.scale == "paper":
        key, (other, own) = geometry[0], found[geometry[0]]
        raise ConfigError(
            f"the trials of {name} have the {key} {other}, not {own}, so their alphas are not comparable "
            f"with --scale paper; omit --warm-start, or use --{key} {other}"
        )
    each = ", ".join(f"{key} {shown(other)} instead of {shown(own)}" for key, (other, own) in found.items())
    return each and f"the trials of {name} were trained with {each}: what they gained may not hold here"
