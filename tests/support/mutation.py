"""Damaged copies of a file: the same for the same seed."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np


def mutated(content: bytes, seed: int, others: list[bytes]) -> bytes:
    """`content` with one to four damages, sometimes with a part of one of the others; never `content`."""
    draw = np.random.default_rng(seed)
    damaged = content
    for _ in range(int(draw.integers(1, 5))):
        damaged = DAMAGES[int(draw.integers(len(DAMAGES)))](damaged, draw, others)
    return damaged if damaged != content else damaged + b"\0"


def _place(content: bytes, draw: np.random.Generator) -> int:
    """Somewhere in the content; as often as not in its head, where the sizes and kinds are."""
    end = len(content) if draw.random() < 0.5 else min(len(content), 128)
    return int(draw.integers(0, end + 1))


def _span(content: bytes, draw: np.random.Generator) -> tuple[int, int]:
    start = _place(content, draw)
    return start, min(len(content), start + int(draw.integers(1, 65)))


def _flip(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _number in range(int(draw.integers(1, 9))):
        place = _place(content, draw)
        if place < len(changed):
            changed[place] ^= 1 << int(draw.integers(8))
    return bytes(changed)


def _truncate(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    return content[: _place(content, draw)]


def _splice(content: bytes, draw: np.random.Generator, others: list[bytes]) -> bytes:
    other = others[int(draw.integers(len(others)))]
    return content[: _place(content, draw)] + other[_place(other, draw) :]


def _insert(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    place = _place(content, draw)
    return content[:place] + draw.bytes(int(draw.integers(1, 33))) + content[place:]


def _zero(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    start, end = _span(content, draw)
    return content[:start] + bytes(end - start) + content[end:]


def _repeat(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    start, end = _span(content, draw)
    return content[:end] + content[start:end] * int(draw.integers(1, 9)) + content[end:]


def _enlarge(content: bytes, draw: np.random.Generator, _: list[bytes]) -> bytes:
    """A size, of one of the usual widths and orders of bytes, becomes huge, negative or nothing."""
    order = "<>"[int(draw.integers(2))]
    kind = ("u2", "u4", "i4", "u8")[int(draw.integers(4))]
    huge = (0, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 20_000, 1_000_000)
    number = np.array(huge[int(draw.integers(len(huge)))] % (1 << 8 * int(kind[1])), "u" + kind[1])
    value = number.astype(order + "u" + kind[1]).tobytes()
    place = min(_place(content, draw), max(0, len(content) - len(value)))
    return content[:place] + value + content[place + len(value) :]


DAMAGES = (_flip, _truncate, _splice, _insert, _zero, _repeat, _enlarge)


class Hang(BaseException):
    """Something took longer than it may. No Exception: the code under test must not swallow it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise Hang here if what is done takes longer."""

    def ring(_signal: int, _frame: FrameType | None) -> None:
        raise Hang(f"over {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
