"""The common frame of all commands: start, exit status, and output that cannot crash them.

    if __name__ == "__main__":
        sys.exit(run_command(main))

The reader of the output may go away (`| head`, a lost ssh connection), standard streams may be closed
(`>&-`), and a terminal may lack characters. None of this must end hours of training: output that cannot be
printed is written to a file or dropped, and the command continues.
"""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import re
import select
import shlex
import sys
import tempfile
import threading
import traceback
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic.errors import LictuneError

#: Exit status: an error that the user can fix, an internal error, Ctrl-C or a signal.
USER_ERROR, INTERNAL_ERROR, INTERRUPTED = 2, 1, 130

#: ASCII replacements of the symbols that commands print; letters lose their accents.
_PLAIN = {
    "\N{PLUS-MINUS SIGN}": "+/-", "\N{MULTIPLICATION SIGN}": "x", "\N{HORIZONTAL ELLIPSIS}": "...",
    "\N{EN DASH}": "-", "\N{EM DASH}": "-", "\N{RIGHTWARDS ARROW}": "->",
    "\N{GREEK SMALL LETTER ALPHA}": "alpha", "\N{GREEK SMALL LETTER LAMDA}": "lambda",
}  # fmt: skip

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _in_plain_signs(error: UnicodeError) -> tuple[str, int]:
    """Replacement for characters that an encoding lacks (codecs.register_error)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = ""
    for character in error.object[error.start : error.end]:
        letters = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
        plain += _PLAIN.get(character) or letters or character.encode("ascii", "backslashreplace").decode()
    return plain, error.end


codecs.register_error("lictune.plain", _in_plain_signs)


class Output:
    """A line-buffered standard stream whose `write` never raises. Characters that its encoding lacks are
    replaced. Once its reader is `gone`, the output goes to a file (`keep_lost_output`)."""

    def __init__(self, stream: Any, descriptor: int) -> None:
        self._stream, self._descriptor = stream, descriptor
        self._encoding: str = getattr(stream, "encoding", None) or "utf-8"
        self._waiting = ""
        self._lock = threading.RLock()
        #: Whether the stream is closed or has no reader.
        self.gone = stream is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return not self.gone and bool(self._stream.isatty())

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        with self._lock:
            self._waiting += text
            if "\n" in text or "\r" in text:
                self.flush()
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        with self._lock:
            text, self._waiting = self._waiting, ""
            if not text:
                return
            if not self.gone and not self._send(text):
                self._give_up()
            if self.gone:
                _kept.add(text)

    def _send(self, text: str) -> bool:
        """Write the whole text, however slow the reader; returns False if there is no reader."""
        data = text.encode(self._encoding, "lictune.plain")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # the stream does not block, and its buffer is full
                select.select([], [self._descriptor], [])
            except OSError:
                return False
        return True

    def _give_up(self) -> None:
        """Redirect the descriptor to /dev/null, for this process and its children."""
        self.gone = True
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._descriptor)
            os.close(nowhere)


class _Kept:
    """Collects output that could not be printed, and writes it to a file once the path is known."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._text = ""
        self._lock = threading.Lock()

    def add(self, text: str) -> None:
        with self._lock:
            self._text = (self._text + _CONTROL.sub("", text))[-(1 << 16) :]
            self._write()

    def keep_in(self, path: Path | None) -> None:
        with self._lock:
            self._path = path
            self._write()

    def _write(self) -> None:
        if self._path is None or not self._text:
            return
        with (
            contextlib.suppress(OSError),
            self._path.open("a", encoding="utf-8", errors="backslashreplace") as log,
        ):
            log.write(self._text)
            self._text = ""


_kept = _Kept()


def keep_lost_output(path: Path | None) -> None:
    """Write output that cannot be printed to this file, including what was lost so far."""
    _kept.keep_in(path)


def output_is_gone() -> bool:
    """Whether the reader of standard output is gone."""
    return bool(getattr(sys.stdout, "gone", False))


def open_standard_streams() -> None:
    """Make standard input, output and error safe to use even if they were closed: otherwise the first files
    to be opened would take their descriptors and receive the output."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free descriptor
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    sys.stdout, sys.stderr = Output(sys.stdout, 1), Output(sys.stderr, 2)


def command(module: str, *arguments: object) -> str:
    """The command line that runs a module, quoted for any POSIX shell."""
    return shlex.join(["python", "-m", module, *map(str, arguments)])


@dataclass(frozen=True)
class Answers:
    """What a command prints if its work does not come to its end.

    `interrupted` is the line after Ctrl-C. `explain` gives the sentence for an error that is no LictuneError
    but that the user can fix, or an empty text. `error_log` is where the traceback of an internal error goes
    (None: a new temporary file), and `hint` what its line ends with. `public` removes secrets from all."""

    interrupted: Callable[[], str] = lambda: "lictune: interrupted"
    explain: Callable[[Exception], str] = lambda error: str(error) if isinstance(error, OSError) else ""
    error_log: Callable[[], Path | None] = lambda: None
    hint: Callable[[], str] = lambda: ""
    public: Callable[[str], str] = lambda text: text


def answered(work: Callable[[], int | None], answers: Answers | None = None) -> int:
    """Do a command's work; returns the exit status: that of the work (None: 0), USER_ERROR after one sentence
    for what the user can fix, INTERNAL_ERROR for any other error, whose traceback goes to a file, or
    INTERRUPTED."""
    answers = answers or Answers()
    try:
        return work() or 0
    except KeyboardInterrupt:
        print(answers.interrupted(), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        sentence = str(error) if isinstance(error, LictuneError) else answers.explain(error)
        if sentence:
            print(f"lictune: {answers.public(sentence)}", file=sys.stderr)
            return USER_ERROR
        return _internal_error(error, answers)


def _internal_error(error: Exception, answers: Answers) -> int:
    text = answers.public("".join(traceback.format_exception(error)))
    path = _written(text, answers.error_log())
    if path is None:
        print(text, file=sys.stderr)
        return INTERNAL_ERROR
    first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    print(
        f"lictune: internal error: {answers.public(first[0])} (traceback in {path}){answers.hint()}",
        file=sys.stderr,
    )
    return INTERNAL_ERROR


def _written(text: str, path: Path | None) -> Path | None:
    """The file that the text was written to: this one, if it can be, else a new temporary one; None if there
    is no room for it anywhere."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.write_text(text)
            return path
    try:
        descriptor, name = tempfile.mkstemp(prefix="lictune-error-", suffix=".log")
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        return Path(name)
    except OSError:
        return None


def run_command(main: Callable[[], int]) -> int:
    """Run a command's `main`; returns its exit status."""
    open_standard_streams()
    try:
        return main()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
