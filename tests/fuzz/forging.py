"""What a forger makes of a sound document, and how many of each the tests damage or forge."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch

CHECKPOINTS, FORGED_CHECKPOINTS = 700, 150
SETTINGS_FILES, DATABASES, FORGED_TRIALS = 120, 80, 50
MANIFESTS, FORGED_WEIGHTS, CODED, FORGED_CODED = 240, 80, 700, 100

#: What a forger puts where something else was; JSON can hold all of it but the bytes.
WRONG: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**200, 1e308, math.nan, math.inf, -math.inf, "", "x",
    "../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, [], [1], {}, {"a": 1}, [[[[]]]], 0.5, "0",
]  # fmt: skip


def replaced(document: Any, draw: np.random.Generator) -> Any:
    """The document with one of its values, keys or items, at any depth, gone or forged."""
    document = copy.deepcopy(document)
    place, parents = document, []
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(draw.integers(len(keys)))]
        parents.append((place, key))
        place = place[key]
        if draw.random() < 0.2:
            break
    parent, key = parents[-1]
    kind = draw.random()
    if kind < 0.2:
        del parent[key]
    elif kind < 0.35 and isinstance(parent, dict):
        parent[WRONG[int(draw.integers(12, 19))] or "-"] = parent.pop(key)
    else:
        parent[key] = WRONG[int(draw.integers(len(WRONG)))]
    return document


def said(error: Exception) -> str:
    """The error's message, which is one short line."""
    message = str(error)
    assert "\n" not in message and 10 < len(message) < 1200, message[:1500]
    return message


def same(one: Any, other: Any) -> bool:
    """Whether two states, nested and with tensors in them, are equal to the last bit and in their types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
