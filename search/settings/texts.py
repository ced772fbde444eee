"""Names of searches, as a user writes them."""

from __future__ import annotations

import unicodedata

#: Characters allowed in a name besides letters and digits of any script, and its maximum length: it names a
#: folder (at most 255 bytes), an Optuna study, an MLflow experiment and a prefix in an object store.
_NAME_MARKS, NAME_LENGTH, NAME_BYTES = " ._-+=@", 100, 200


def is_name(value: str) -> bool:
    """Whether `value` is a valid name of a search. 'last' is not: --resume uses it for the newest search."""
    # Marks (category M) are accents and vowel signs that combine with the character before them.
    written = all(c.isalnum() or c in _NAME_MARKS or unicodedata.category(c)[0] == "M" for c in value)
    begins = value[:1].isalnum() or value[:1] in ("_", "+", "=", "@")
    short = len(value) <= NAME_LENGTH and len(value.encode(errors="replace")) <= NAME_BYTES
    return written and begins and short and value[-1:] != " " and value != "last"
