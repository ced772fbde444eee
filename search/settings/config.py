"""The settings of a search; precedence: defaults < preset < YAML file < environment < command line. What the
other rooms need of the settings is imported from here."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from lic.files import shown
from lic.models.architectures import ALIASES, ARCHITECTURES, ModelError, is_own
from search.base.space import RD_COST
from search.settings import plain_yaml
from search.settings.agreement import worked_out
from search.settings.complaints import ConfigError, disagreement, nearest, sentence, without_effect
from search.settings.presets import choose_preset, preset_layers
from search.settings.schema import PATHS, Settings, is_switch
from search.settings.texts import is_name
from search.settings.tuning import check_tuning

__all__ = [
    "ENVIRONMENT",
    "PATHS",
    "SETTINGS",
    "ConfigError",
    "Resolved",
    "Settings",
    "is_name",
    "is_switch",
    "recorded_settings",
    "resolve",
    "resolve_again",
]

ENVIRONMENT = "LICTUNE_"

#: The file of settings in a search's folder.
SETTINGS = "settings.yaml"


@dataclass(frozen=True)
class Resolved:
    """The settings and the source of each value."""

    settings: Settings
    sources: dict[str, str]
    #: One sentence for each setting or variable that was given but has no effect.
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

    `recorded` are the settings of a search that is resumed. `gpus` counts the GPUs of the cluster at an
    address, or of this machine (None); it is called only if a setting is `auto`. Raises ConfigError.
    """
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        layers.append((str(file), plain_yaml.read(file)))
    if recorded is not None:
        layers.append(("recorded", recorded))
    from_environment, ignored = _from_environment(environment)
    layers.append(("environment", from_environment))
    layers.append(("command line", command_line))
    _check_keys(layers)
    given = {key for _, layer in layers for key, value in layer.items() if value is not None}
    # A search has all settings on record: what of those had no effect was said when they were given.
    told = {key for name, layer in layers if name != "recorded" for key in layer} & given
    defaults = Settings().model_dump()
    first = _validated(*_merge(layers, defaults))
    count_gpus = functools.partial(gpus, first.address)
    preset, why = choose_preset(first.preset, count_gpus)
    layers[:0] = preset_layers(preset, first.model, first.optimizer if "optimizer" in given else None)
    _check_keys(layers)
    merged, sources = _merge(layers, defaults)
    merged["preset"], sources["preset"] = preset, f"{sources['preset']}{why}"
    resolved = _check(merged, sources, given, count_gpus)
    return replace(resolved, ignored=(*ignored, *without_effect(resolved.settings, told)))


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """The settings among the environment variables, and a sentence about each variable that has the prefix
    but names no setting. Such a variable may be foreign: Kubernetes sets some for each service."""
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
            ignored.append(f"ignored environment variable {shown(name)}: no such setting{meant}")
    return found, ignored


#: Settings of searches from before these existed, whatever the presets and defaults say today.
_BEFORE = {
    "optimizer": "adam", "objective": RD_COST, "regularizer": "covariance", "schedule": "constant-cosine",
    "ema": 0.0, "accumulate": 1, "distortion": "mse", "gpus_per_trial": 1,
}  # fmt: skip

#: Settings that may change when a search is resumed: they do not affect the metrics of any trial.
_CHANGEABLE = (
    "budget", "confirm", "seeds", "workers", "address", "max_hours", "max_gpu_hours", "results",
    "reuse_baselines", "retries", "study", "tracking_uri", "log_to",
)  # fmt: skip


def resolve_again(
    command_line: Mapping[str, Any], folder: Path, gpus: Callable[[str | None], int]
) -> Resolved:
    """The recorded settings of the search in this folder, with the changes of the command line. Raises
    ConfigError if a change would make its trials incomparable, or if the settings cannot be read."""
    recorded = recorded_settings(folder)
    began = resolve({}, {}, gpus, recorded=recorded).settings
    changed = {**command_line, "name": folder.resolve().name}
    if began.name not in (None, folder.resolve().name):
        raise ConfigError(f"the search in {folder} is named {began.name}; rename the folder to {began.name}")
    try:
        resolved = resolve(changed, {}, gpus, recorded=recorded)
    except ConfigError:
        # If a forbidden change caused the conflict, report the change rather than the conflict.
        _check_keys([("command line", changed)])
        _check_changes(
            command_line, began, _validated(*_merge([("command line", changed)], recorded)), folder
        )
        raise
    _check_changes(command_line, began, resolved.settings, folder)
    if "***" in str(resolved.settings.tracking_uri):
        raise ConfigError(
            f"the password in tracking_uri is not stored in {folder}; give --tracking-uri again"
        )
    return resolved


def _check_changes(keys: Collection[str], began: Settings, asked: Settings, folder: Path) -> None:
    for key in set(keys) - set(_CHANGEABLE):
        if getattr(began, key) != getattr(asked, key):
            raise ConfigError(
                f"{key} is {shown(getattr(began, key))} in {folder} and cannot change on resume; "
                f"omit it, or start a new search with --warm-start"
            )


def recorded_settings(folder: Path) -> dict[str, Any]:
    """The settings in a search's folder, without those unknown to this version of the package. Raises
    ConfigError."""
    found = {**_BEFORE, **plain_yaml.read(folder / SETTINGS)}
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
                f"{source}: unknown setting {shown(key)}{nearest(shown(key), Settings.model_fields)}"
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
        known = settings.model in (*ALIASES, *ARCHITECTURES) or is_own(settings.model)
        raise ConfigError(str(error) if known or "--help" in hint else f"{error}{hint}") from None
    for key in changes:
        if key not in given or key in ("start", "trials_per_gpu"):
            sources[key] += " (resolved)"
    settings = _validated(settings.model_dump() | changes, sources)
    if wrong := disagreement(settings, gpus):
        raise ConfigError(wrong)
    check_tuning(settings)
    return Resolved(settings, sources)
