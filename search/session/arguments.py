"""The command line of `python -m search.run`: one option for every setting, and a few of its own."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from pathlib import Path
from types import UnionType
from typing import Annotated, Any

from lic.files import number_argument, path_argument, user_path
from search.engine import cluster
from search.settings.addresses import storage_address
from search.settings.complaints import ConfigError
from search.settings.config import (
    Resolved,
    Settings,
    is_switch,
    resolve,
    resolve_again,
)
from search.store.find import FolderError, find_folder


def parse(argv: list[str], description: str | None) -> tuple[Resolved, argparse.Namespace]:
    """The settings, and the options that are none: config, print_config, plan, price_per_gpu_hour, and
    resume, the folder of the search to go on with. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m search.run",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Each setting can also be a line of a YAML file ('budget: 32') or an environment variable "
        "(LICTUNE_BUDGET=32); the command line wins. Training settings default to the preset's.",
    )
    parser.add_argument("--config", type=path_argument, metavar="FILE", help="a YAML file of settings")
    parser.add_argument(
        "--print-config", action="store_true", help="show every setting and its source, and stop"
    )
    parser.add_argument(
        "--plan", action="store_true", help="measure a few steps, show what the search will take, and stop"
    )
    parser.add_argument(
        "--price-per-gpu-hour",
        type=number_argument(0, 1e9),
        metavar="X",
        help="with --plan: money in the same currency",
    )
    parser.add_argument(
        "--resume", metavar="SEARCH", help="go on with an interrupted search: its name or folder, or 'last'"
    )
    add_arguments(parser)
    known, unknown = parser.parse_known_args(argv)
    own = ("config", "print_config", "plan", "price_per_gpu_hour", "resume")
    values = {key: value for key, value in vars(known).items() if key not in own}
    if unknown:
        # Through the settings' own check, for its 'did you mean'.
        values[unknown[0].lstrip("-").split("=")[0].replace("-", "_")] = ""
    resolved = _resolved(known, values)
    for sentence in resolved.ignored:
        print(f"lictune: {sentence}", file=sys.stderr)
    return resolved, known


def _resolved(known: argparse.Namespace, values: dict[str, str]) -> Resolved:
    if known.resume is None:
        return resolve(values, os.environ, cluster.gpus, known.config)
    if known.config is not None:
        raise ConfigError("--resume goes on with the settings that the search has; leave --config out")
    try:
        results = Path(user_path(values.get("results", "results")))
    except ValueError as error:
        raise ConfigError(f"results cannot be used: {error}") from None
    known.resume = _find_again(known.resume, results, values.get("storage"))
    return resolve_again({**values, "results": str(known.resume.parent)}, known.resume, cluster.gpus)


def _find_again(name: str, results: Path, storage: str | None) -> Path:
    """The folder of the search to go on with, fetched from the storage if it is not here. Raises FolderError,
    ConfigError, StorageError."""
    try:
        return find_folder(name, results)
    except FolderError:
        if storage is None or name == "last" or "/" in name:
            raise
    from search.records.folder import fetch_folder

    return fetch_folder(name, results, storage_address(storage))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser one option per setting, grouped, with its default."""
    groups: dict[str, Any] = {}
    for key, field in Settings.model_fields.items():
        extra = typing.cast(dict[str, Any], field.json_schema_extra)
        group = groups.setdefault(extra["group"], parser.add_argument_group(extra["group"]))
        option, default = f"--{key.replace('_', '-')}", field.default
        if is_switch(field.annotation):
            group.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
                help=field.description,
            )  # fmt: skip
            continue
        shown = "" if default in (None, ()) or "default:" in (field.description or "") else default
        if key == "rates":
            shown = "1-6"
        if extra["group"] == "Training" or key in ("grace", "eta", "val_images", "val_crop", "cadence"):
            shown = ""  # the preset says
        group.add_argument(
            option,
            default=argparse.SUPPRESS,
            metavar=_metavar(field.annotation),
            help=f"{field.description}{f' (default: {shown})' if shown != '' else ''}",
        )


def _metavar(annotation: Any) -> str:
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    return {int: "N", float: "X", str: "TEXT"}.get(
        annotation, "LIST" if "tuple" in str(annotation) else "NAME"
    )
