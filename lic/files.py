"""Paths and small files that a user hands over: checked, and read without hanging on what is no file."""

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

#: Longer than any path in use; with the names that are put behind it, still shorter than the system's limit.
_LONGEST = 3000

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60
_short.maxlevel = 2


def shown(value: object) -> str:
    """A value as an error message shows it: as Python writes it, on one line, cut to 200 characters."""
    try:
        return _short.repr(value)[:200]
    except (ValueError, RecursionError):  # Python writes no number of more than 4300 digits
        return f"a very large {type(value).__name__}"


def one_line(error: BaseException | str, most: int = 200) -> str:
    """What an error of someone else's says, on one short line of printable characters, cut between words."""
    text = " ".join(str(error).split())
    if len(text) > most:
        text = f"{text[: most - 3].rpartition(' ')[0] or text[: most - 4]} ..."
    return "".join(c if c.isprintable() else "?" for c in text) or type(error).__name__


def home() -> Path:
    """The user's home folder; one in the temporary folder where neither HOME nor the system names any."""
    try:
        return Path.home()
    except RuntimeError:
        place = Path(tempfile.gettempdir()) / f"lictune-{os.getuid()}"
        with contextlib.suppress(OSError):  # whoever writes there says what is wrong
            place.mkdir(mode=0o700, exist_ok=True)
        return place


def user_path(text: str) -> str:
    """The path that a user wrote on the command line, in a settings file or in the environment: with the home
    folder in place of ~ (shells leave `--data=~/x` as it is). A relative one is relative to the current
    folder, wherever it was written. Raises ValueError, a sentence about `text`, if the system cannot be asked
    about it: then neither it nor a place below it can be used. Whether anything is there is not asked."""
    if any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("a path cannot have control characters, or bytes that are not UTF-8")
    try:
        path = str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError as error:  # ~nobody: there is no such user
        raise ValueError(f"the home folder in {shown(text)} is unknown; write the path out") from error
    try:
        Path(path).stat()
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):
            raise ValueError(f"{shown(text)} is no usable path ({error.strerror})") from error
    if len(os.fsencode(path)) > _LONGEST:
        raise ValueError(f"{shown(text)} is no usable path (it is longer than {_LONGEST} bytes)")
    return path


def path_argument(text: str) -> Path:
    """The path of a command-line argument. Raises argparse's error if it is unusable."""
    try:
        return Path(user_path(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole_argument(low: int, high: int) -> Callable[[str], int]:
    """What makes a command-line argument a whole number of this range, or raises argparse's error."""
    return lambda text: int(_between(int, text, low, high))


def number_argument(low: float, high: float) -> Callable[[str], float]:
    """The same for any number."""
    return lambda text: _between(float, text, low, high)


def _between(kind: Callable[[str], float], text: str, low: float, high: float) -> float:
    with contextlib.suppress(ValueError):
        if low <= (value := kind(text)) <= high:
            return value
    what = "a whole number" if kind is int else "a number"
    raise argparse.ArgumentTypeError(f"{shown(text)} is not {what} from {low:g} to {high:g}")


def read_regular(path: Path, most: int) -> bytes:
    """The content of a file of at most `most` bytes. Raises OSError, also for a pipe or a device, which would
    never end, and for a name that no file can have."""
    try:
        # A pipe that nobody writes to would keep the opening waiting.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            check_regular(os.fstat(file.fileno()).st_mode, path)
            content = file.read(most + 1)
    except ValueError as error:
        raise OSError(errno.EINVAL, f"its name cannot be one ({error})") from error
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most / 2**20:g} MiB", str(path))
    return content


def check_regular(mode: int, path: Path) -> None:
    """Raise OSError if this is not the mode (os.stat) of a regular file."""
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))
