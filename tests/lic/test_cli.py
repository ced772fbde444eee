"""Nothing that a command prints can end it, wherever its output goes."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lic.cli import INTERNAL_ERROR, INTERRUPTED, USER_ERROR, Answers, answered
from lic.cli import command as to_paste
from lic.errors import LictuneError

ROOT = Path(__file__).resolve().parents[2]

#: Prints so many lines, keeps what is lost in a file, and makes a second file at its end.
_COMMAND = """
import sys, time
from pathlib import Path
from lic import cli

def main():
    for number in range(int(sys.argv[2])):
        print(f"{number:05} ± 1 équipe 結果", "x" * 60)
        time.sleep(float(sys.argv[3]))
    cli.keep_lost_output(Path(sys.argv[1]))
    print("the end")
    open(sys.argv[1] + ".done", "w").close()
    return 3

sys.exit(cli.run_command(main))
"""


def command(log: Path, lines: int = 3, pause: float = 0.0) -> list[str]:
    return [sys.executable, "-c", _COMMAND, str(log), str(lines), str(pause)]


def test_what_is_printed_arrives_at_once_and_unchanged(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path / "log", 2, 1.0), stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        began = time.monotonic()
        lines = [process.stdout.readline()]
        first = time.monotonic() - began
        lines += process.stdout.readlines()
        assert time.monotonic() - began - first > 0.8
    assert process.returncode == 3
    assert lines == [f"{n:05} ± 1 équipe 結果 {'x' * 60}\n" for n in range(2)] + ["the end\n"]
    assert not (tmp_path / "log").exists()


def test_a_reader_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    """What it did not read is in the log, every line once, and no traceback is anywhere."""
    log = tmp_path / "log"
    with subprocess.Popen(
        command(log, 200, 0.002), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        read = [process.stdout.readline() for _ in range(5)]
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(20) == 3
    kept = log.read_text().splitlines(keepends=True)
    assert kept[-1] == "the end\n"
    assert [line[:5] for line in read] == [f"{n:05}" for n in range(5)]
    first = int(kept[0][:5])
    assert first < 199  # what lay in the pipe when its reader went away is lost to everybody
    assert [line[:5] for line in kept[:-1]] == [f"{n:05}" for n in range(first, 200)]


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_files_of_the_program(closed: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    words = " ".join(f"'{word}'" for word in command(log))
    done = subprocess.run(["bash", "-c", f"exec {words} {closed}"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (3, b"")
    assert (tmp_path / "log.done").read_bytes() == b""
    if ">&- " in f"{closed} " and not closed.startswith("2"):
        assert log.read_text().endswith("the end\n")
    else:
        assert done.stdout.decode().endswith("the end\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_printed_in_plain_signs(encoding: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command(tmp_path / "log", 1), capture_output=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (3, b"")
    line = {
        "ascii": "00000 +/- 1 equipe \\u7d50\\u679c",
        "latin-1": "00000 ± 1 équipe \\u7d50\\u679c",
        "cp1252": "00000 ± 1 équipe \\u7d50\\u679c",
        "utf-8": "00000 ± 1 équipe 結果",
    }[encoding]
    assert done.stdout.decode(encoding).splitlines()[0] == f"{line} {'x' * 60}"


def test_a_full_buffer_that_does_not_block_is_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writing, False)
    with subprocess.Popen(command(tmp_path / "log", 300), stdout=writing, stderr=subprocess.PIPE) as process:
        os.close(writing)
        time.sleep(1.0)
        with os.fdopen(reading, "rb") as read:
            lines = read.read().decode().splitlines()
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 3
    assert [line[:5] for line in lines[:-1]] == [f"{n:05}" for n in range(300)]


def test_a_terminal_that_is_lost_is_no_reason_to_end(tmp_path: Path) -> None:
    """With SIGHUP ignored, as under nohup or in a session that outlives its terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        command(tmp_path / "log", 50, 0.02), stdout=theirs, stderr=subprocess.PIPE
    ) as process:
        os.close(theirs)
        os.read(ours, 10)
        os.close(ours)
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert process.returncode == 3
    assert (tmp_path / "log").read_text().endswith("the end\n")


def test_arguments_come_through_a_shell_as_they_are() -> None:
    given = ["--resume", Path("/a b/it's é/$HOME;x"), "--alpha-min", 1e-8, "*", ""]
    assert shlex.split(to_paste("search.run", *given)) == ["python", "-m", "search.run", *map(str, given)]
    assert to_paste("search.run", "--resume", Path("results/x")) == "python -m search.run --resume results/x"


def test_no_command_is_put_together_by_hand() -> None:
    """With a value in it, that is: `python -m x {folder}` in an f-string."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for part in ("lic", "search", "dashboards")
        for path in (ROOT / part).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"python -m [\w.]+[^\"']*\{", line)
    ]
    assert found == []


def raising(error: BaseException) -> Callable[[], int]:
    def work() -> int:
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (LictuneError("no such model; choose cheng"), USER_ERROR, "lictune: no such model; choose cheng"),
        (FileNotFoundError(2, "gone", "x.csv"), USER_ERROR, "lictune: [Errno 2] gone: 'x.csv'"),
        (KeyboardInterrupt(), INTERRUPTED, "lictune: interrupted"),
    ],
)
def test_what_ends_a_command_is_one_sentence(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert answered(raising(error)) == status
    assert capsys.readouterr().err == f"{said}\n"


def test_a_command_ends_with_its_works_status() -> None:
    assert (answered(lambda: None), answered(lambda: 3)) == (0, 3)


def test_the_traceback_of_an_internal_error_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = KeyError("secret")
    answers = Answers(
        error_log=lambda: tmp_path / "error.log", hint=lambda: "; again: x",
        public=lambda text: text.replace("secret", "***"),
    )  # fmt: skip
    assert answered(raising(error), answers) == INTERNAL_ERROR
    line = f"lictune: internal error: '***' (traceback in {tmp_path / 'error.log'}); again: x\n"
    assert capsys.readouterr().err == line
    assert "KeyError: '***'" in (tmp_path / "error.log").read_text()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # without a folder of its own
    assert answered(raising(ZeroDivisionError("division"))) == INTERNAL_ERROR
    (log,) = tmp_path.glob("lictune-error-*.log")
    assert f"internal error: division (traceback in {log})" in capsys.readouterr().err
    assert "ZeroDivisionError" in log.read_text()

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "full"))  # nowhere
    assert answered(raising(ZeroDivisionError("division"))) == INTERNAL_ERROR
    assert "Traceback" in capsys.readouterr().err
