"""The command line of `python -m search.run`: one option per setting, and a few more."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal

from lic.files import number_argument, path_argument, user_path
from search.engine import cluster
from search.session.pace import GPUS, check_gpu
from search.settings.addresses import storage_address
from search.settings.complaints import ConfigError
from search.settings.config import (
    PATHS,
    Resolved,
    Settings,
    is_switch,
    resolve,
    resolve_again,
)
from search.store.find import FolderError, find_folder

#: What --plan is without the name of a GPU.
HERE = "here"


def parse(argv: list[str], description: str | None) -> tuple[Resolved, argparse.Namespace]:
    """The settings, and the options that are not settings: config, print_config, plan, price_per_gpu_hour and
    resume (the folder of the search to resume). Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m search.run",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Each setting can also be given in a YAML file ('budget: 32') or as an\n"
        "environment variable (LICTUNE_BUDGET=32). The command line overrides both.\n"
        "Defaults that are not shown come from the preset; --print-config shows them.",
    )
    parser.add_argument("--config", type=path_argument, metavar="FILE", help="YAML file with settings")
    parser.add_argument(
        "--print-config", action="store_true", help="print every setting and its source, then exit"
    )
    parser.add_argument(
        "--plan",
        nargs="?",
        const=HERE,
        metavar="GPU",
        help="measure a few steps, print the estimated time and cost, then exit; with the name of a GPU "
        f"({', '.join(GPUS)}): for one such GPU, by steps measured on it, without measuring",
    )
    parser.add_argument(
        "--price-per-gpu-hour",
        type=number_argument(0, 1e9),
        metavar="X",
        help="with --plan: price of a GPU hour, to estimate the cost",
    )
    parser.add_argument(
        "--resume", metavar="SEARCH", help="resume a search, given by name, by folder or as 'last'"
    )
    add_arguments(parser)
    known, unknown = parser.parse_known_args(argv)
    own = ("config", "print_config", "plan", "price_per_gpu_hour", "resume")
    values = {key: value for key, value in vars(known).items() if key not in own}
    if unknown:
        # Let the settings' check reject it, with its 'did you mean'.
        values[unknown[0].lstrip("-").split("=")[0].replace("-", "_")] = ""
    resolved = _resolved(known, values)
    for sentence in resolved.ignored:
        print(f"lictune: {sentence}", file=sys.stderr)
    return resolved, known


def _resolved(known: argparse.Namespace, values: dict[str, str]) -> Resolved:
    def gpus(address: str | None) -> int:
        return cluster.gpus(address) if known.plan in (None, HERE) else 1

    if known.plan not in (None, HERE):
        check_gpu(known.plan)
    if known.resume is None:
        return resolve(values, os.environ, gpus, known.config)
    if known.config is not None:
        raise ConfigError("--resume uses the recorded settings of the search; omit --config")
    try:
        results = Path(user_path(values.get("results", "results")))
    except ValueError as error:
        raise ConfigError(f"results cannot be used: {error}") from None
    known.resume = _find_again(known.resume, results, values.get("storage"))
    return resolve_again({**values, "results": str(known.resume.parent)}, known.resume, gpus)


def _find_again(name: str, results: Path, storage: str | None) -> Path:
    """The folder of the search to resume, downloaded from the storage if it is not here. Raises FolderError,
    ConfigError, StorageError."""
    try:
        return find_folder(name, results)
    except FolderError:
        if storage is None or name == "last" or "/" in name:
            raise
    from search.records.folder import fetch_folder

    return fetch_folder(name, results, storage_address(storage))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one option per setting to the parser, grouped, with its default."""
    groups: dict[str, Any] = {}
    for key, field in Settings.model_fields.items():
        extra = typing.cast(dict[str, Any], field.json_schema_extra)
        group = groups.setdefault(extra["group"], parser.add_argument_group(extra["group"]))
        option, default = f"--{key.replace('_', '-')}", field.default
        if is_switch(field.annotation):
            group.add_argument(
                option, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS,
                help=_help(field.description),
            )  # fmt: skip
            continue
        if key in ("tune", "fix"):
            group.add_argument(
                option, action="append", default=argparse.SUPPRESS, help=_help(field.description),
                metavar="NAME=RANGE" if key == "tune" else "NAME=VALUE",
            )  # fmt: skip
            continue
        shown = "" if default in (None, (), {}) or "default:" in (field.description or "") else default
        if key == "rates":
            shown = "1-6"
        if extra["group"] == "Training" or key in ("grace", "eta", "val_images", "val_crop", "cadence"):
            shown = ""  # depends on the preset
        group.add_argument(
            option,
            default=argparse.SUPPRESS,
            metavar=_metavar(key, field.annotation),
            help=_help(f"{field.description}{f' (default: {shown})' if shown != '' else ''}"),
        )


def _metavar(key: str, annotation: Any) -> str:
    if key in PATHS:
        return "PATH"
    if typing.get_origin(annotation) is dict:
        return "KEY=VALUE,..."
    if typing.get_origin(annotation) in (UnionType, typing.Union):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) is Literal:
        return f"{{{','.join(choice for choice in typing.get_args(annotation) if choice != 'auto')}}}"
    return {int: "N", float: "X", str: "TEXT"}.get(annotation, "LIST")


def _help(text: str | None) -> str:
    """For argparse, to which a percent sign begins a format."""
    return (text or "").replace("%", "%%")
