"""Imports what a user wrote: a regularizer or a model, named MODULE:NAME."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from lic.files import one_line
from lic.models.architectures import ModelError


def imported(name: str, what: str) -> Any:
    """The object MODULE:NAME of an installed package, or of a module in the current folder. Importing runs
    the module. Raises ModelError, which begins with `what` it is."""
    module, _, attribute = name.partition(":")
    if "" not in sys.path:
        sys.path.append("")  # for a module in the current folder
    try:
        return getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module can raise anything
        raise ModelError(f"{what} {name} cannot be imported: {one_line(error)}") from error


def source_of(name: str) -> bytes:
    """The content of the source file that defines a model MODULE:NAME; empty if it has none. Raises
    ModelError, OSError."""
    found = imported(name, "model")
    try:
        file = inspect.getsourcefile(found)
    except TypeError:  # an object that is neither a class nor a function
        file = None
    return Path(file).read_bytes() if file else b""
