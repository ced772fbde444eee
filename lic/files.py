"""Checks user-given paths and arguments, and reads files without blocking on pipes or devices."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import reprlib
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

#: Maximum length of a path in bytes; with file names appended, it stays below the system's limit.
_LONGEST = 3000

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel = 2


def shown(value: object) -> str:
    """A value for an error message: its repr on one line, at most 200 characters."""
    try:
        return _short.repr(value)[:200]
    except (ValueError, RecursionError):  # Python refuses to print numbers of more than 4300 digits
        return f"a very large {type(value).__name__}"


def one_line(error: BaseException | str, most: int = 200) -> str:
    """An error's text as one short line of printable characters, cut between words."""
    text = " ".join(str(error).split())
    if len(text) > most:
        text = f"{text[: most - 3].rpartition(' ')[0] or text[: most - 4]} ..."
    return "".join(c if c.isprintable() else "?" for c in text) or type(error).__name__


def home() -> Path:
    """The user's home folder, or a temporary one if neither HOME nor the system defines it."""
    try:
        return Path.home()
    except RuntimeError:
        place = Path(tempfile.gettempdir()) / f"lictune-{os.getuid()}"
        with contextlib.suppress(OSError):  # a later write reports the problem
            place.mkdir(mode=0o700, exist_ok=True)
        return place


def user_path(text: str) -> str:
    """A path given on the command line, in a settings file or in the environment, with ~ expanded (shells do
    not expand `--data=~/x`). A relative path is relative to the current folder. Does not check whether the
    path exists. Raises ValueError, with a sentence about `text`, if no file can have this path."""
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("a path cannot have control characters, or bytes that are not UTF-8")
    try:
        path = str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:  # ~nobody: there is no such user
        raise ValueError(f"the home folder in {shown(text)} is unknown; give the full path") from error
    try:
        Path(path).stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise ValueError(f"{shown(text)} is not a usable path ({error.strerror})") from error
    if len(os.fsencode(path)) > _LONGEST:
        raise ValueError(f"{shown(text)} is not a usable path (longer than {_LONGEST} bytes)")
    return path


def path_argument(text: str) -> Path:
    """The path of a command-line argument. Raises argparse's error if it is unusable."""
    try:
        return Path(user_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_argument(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: an integer in this range."""
    return lambda text: int(_between(int, text, low, high))


def number_argument(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: a number in this range."""
    return lambda text: _between(float, text, low, high)


def _between(kind: Callable[[str], float], text: str, low: float, high: float) -> float:
    with contextlib.suppress(ValueError):
        if low <= (value := kind(text)) <= high:
            return value
    what = "a whole number" if kind is int else "a number"
    raise argparse.ArgumentTypeError(f"{shown(text)} is not {what} from {low:g} to {high:g}")


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises OSError, also for a pipe or a device, which may
    never end, and for an invalid file name."""
    try:
        # O_NONBLOCK: opening a pipe without a writer would block.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            check_regular(os.fstat(file.fileno()).st_mode, path)
            content = file.read(most + 1)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"invalid file name ({error})") from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most / 2**20:g} MiB", str(path))
    return content


def check_regular(mode: int, path: Path) -> None:
    """Raise OSError unless this is the mode (os.stat) of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
