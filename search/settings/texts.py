"""Names of searches and lists of NAME=TEXT, as a user writes them."""

from __future__ import annotations

import unicodedata
from typing import Any

#: Characters allowed in a name besides letters and digits of any script, and its maximum length: it names a
#: folder (at most 255 bytes), an Optuna study, an MLflow experiment and a prefix in an object store.
_NAME_MARKS, NAME_LENGTH, NAME_BYTES = " ._-+=@", 100, 200


def pairs(value: Any) -> Any:
    """NAME=TEXT, of which there may be several in a list or separated by spaces or semicolons, as a mapping;
    lists in a mapping with commas. Raises ValueError."""
    if isinstance(value, str):
        value = value.replace(";", " ").split()
    if isinstance(value, list | tuple):
        split = [str(part).partition("=") for part in value]
        if wrong := [name for name, sign, text in split if not (name and sign and text)]:
            raise ValueError(f"write NAME=VALUE; {wrong[0][:50]!r} has no name or no value")
        if twice := [name for i, (name, *_) in enumerate(split) if name in [n for n, *_ in split[:i]]]:
            raise ValueError(f"{twice[0][:50]} is given twice")
        value = {name.strip().replace("-", "_"): text.strip() for name, _, text in split}
    if not isinstance(value, dict):
        return value
    listed = {
        str(key): ",".join(map(str, item)) if isinstance(item, list | tuple) else str(item)
        for key, item in value.items()
    }
    if not all(text.isprintable() and len(text) <= 300 for pair in listed.items() for text in pair):
        raise ValueError("names and values must be of at most 300 printable characters")
    return listed


def is_name(value: str) -> bool:
    """Whether `value` is a valid name of a search. 'last' is not: --resume uses it for the newest search."""
    # Marks (category M) are accents and vowel signs that combine with the character before them.
    written = all(c.isalnum() or c in _NAME_MARKS or unicodedata.category(c)[0] == "M" for c in value)
    begins = value[:1].isalnum() or value[:1] in ("_", "+", "=", "@")
    short = len(value) <= NAME_LENGTH and len(value.encode(errors="replace")) <= NAME_BYTES
    return written and begins and short and value[-1:] != " " and value != "last"
