"""A thousand lists of arguments to all commands: exit status 2 and a sentence, or 0; nothing is started."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dashboards import open as opening
from dashboards import report
from lic.codec import __main__ as codec
from search import export, run, simulate, track
from search.engine.remote import _for_head, remote_address
from search.settings.complaints import ConfigError
from search.settings.config import Settings
from tests.support.mutation import at_most

pytestmark = pytest.mark.slow

EACH = 125

#: Of every command its function, its options, and what every list for it has, so that nothing is started and
#: nothing takes long.
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str], list[str]]] = {
    "run": (
        run.main,
        ["--config", "--resume"]
        + [f"--{key.replace('_', '-')}" for key in Settings.model_fields if key != "address"],
        ["--print-config"],
    ),
    "export": (
        export.main,
        ["--out", "--rates", "--format", "--images", "--processes", "--data-licence", "--verify",
         "--nonsense"],
        ["--results", "RESULTS"],
    ),
    "track": (track.main, ["--tracking-uri", "--rebuild", "--nonsense"], ["--results", "RESULTS"]),
    "simulate": (
        simulate.main,
        ["--surface", "--table", "--member", "--noise", "--workers", "--seed", "--sampler", "--grace",
         "--eta", "--alpha-min", "--alpha-max", "--failures", "--json", "--export"],
        ["--budget", "1", "--epochs", "1"],
    ),
    "report": (report.main, ["--out", "--png", "--nonsense"], ["--results", "RESULTS"]),
    "open": (opening.main, ["--port", "--optuna-port", "--nonsense"], ["--results", "RESULTS"]),
    "encode": (codec.main, ["--zoo", "--quality", "--baseline", "--overwrite"], []),
    "decode": (codec.main, ["--zoo", "--overwrite", "--quiet"], []),
}  # fmt: skip

TEXTS = [
    "", " ", "x", "-1", "0", "1", "3", "nan", "inf", "1e999", "9" * 5000, "1-6", "1-999999999", "1,,", "yes",
    "--", "-", "a\0b", "a\nb", "\udcff", "x" * 5000, "../" * 1500, "..", "../..", "/", "/dev/null/x",
    "/proc/x/y", "~nobody-at-all/a", "last", "cheng", "%s", "{}", "s3://[", "foo://bar", "math:pi", ".x:y",
    ":", "no_such_module:f", "FILE", "FOLDER", "PIPE", "LOOP", "DANGLING", "ZERO", "PICTURE", "CODED", "NEW",
]  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What can lie at a path, by the words of TEXTS for it."""
    folder = tmp_path_factory.mktemp("places")
    for name in ("FOLDER", "RESULTS"):
        (folder / name).mkdir()
    (folder / "FILE").write_bytes(b"\x89PNG no\n")
    (folder / "PICTURE").write_bytes(b"P6 1 1 255\nabc")
    (folder / "CODED").write_bytes(b"LICT\1 nothing")
    os.mkfifo(folder / "PIPE")
    (folder / "LOOP").symlink_to(folder / "LOOP")
    (folder / "DANGLING").symlink_to(folder / "gone" / "gone")
    (folder / "ZERO").symlink_to("/dev/zero")
    names = [path.name for path in folder.iterdir()]
    return {name: str(folder / name) for name in [*names, "NEW"]}


def arguments(command: str, seed: int, places: dict[str, str]) -> list[str]:
    """A list of arguments for a command, its paths put in."""
    _, options, always = COMMANDS[command]
    draw = np.random.default_rng([seed, len(command)])

    def text() -> str:
        return TEXTS[int(draw.integers(len(TEXTS)))]

    given = []
    for _ in range(int(draw.integers(0, 4))):
        given.append(options[int(draw.integers(len(options)))])
        if draw.random() < 0.9:
            given.append(text())
    if command == "decode":
        given = ["decode", text(), text() if seed % 3 else "NEW.png", *given]
    elif command == "encode":
        zoo = ["--zoo", text()] if seed % 4 else []
        given = ["encode", text() if seed % 3 else "PICTURE", text() if seed % 5 else "NEW", *zoo, *given]
    elif command not in ("run", "simulate") and seed % 8:
        given = [text(), *given]
    found = []
    for word in [*given, *always]:
        place, dot, suffix = word.partition(".")
        found.append(places[place] + dot + suffix if place in places else word)
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_any_arguments_end_in_a_sentence(
    command: str,
    places: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    main, ends = COMMANDS[command][0], Counter[object]()
    for seed in range(EACH):
        given = arguments(command, seed, places)
        with at_most(20):
            try:
                status = main(given)
            except SystemExit as error:  # argparse's
                assert isinstance(error.code, int), given
                status = error.code
                assert status in (0, 2), given
        said = capfd.readouterr().err
        ends[status] += 1
        assert status in (0, 2), (given, said)
        if status == 2:
            lines = said.strip().splitlines()
            sentence = lines[-1].startswith("lictune: ") and len(lines) == 1 and len(said) < 1000
            assert sentence or lines[0].startswith("usage: "), (given, said)
            assert "Traceback" not in said, (given, said)
    assert ends[2] > EACH // 4, ends
    assert not list(Path(places["RESULTS"]).iterdir())


def test_they_are_more_than_two_hundred() -> None:
    assert EACH * len(COMMANDS) > 200


@pytest.mark.parametrize("seed", range(40))
def test_a_search_from_elsewhere_is_parsed_or_refused(seed: int, places: dict[str, str]) -> None:
    given = arguments("run", seed, places)
    for address in ([], ["--address", "ray://head:1"], ["--address=\0"]):
        try:
            found = remote_address([*given, *address], {})
            assert found in (None, "ray://head:1")
            options, environment = _for_head([*given, *address])
            assert options[-2:] == ["--address", "auto"] and "LICTUNE_ADDRESS" not in environment
            assert "--config" not in options
        except ConfigError as error:
            assert "--config" in str(error)
        except SystemExit as error:
            assert error.code == 2


def test_no_command_takes_what_is_no_file(places: dict[str, str], capfd: pytest.CaptureFixture[str]) -> None:
    """Where a file is expected, a pipe and a device, which would never end."""
    for place in ("PIPE", "ZERO", "LOOP", "DANGLING", "FOLDER"):
        path, new = places[place], places["NEW"]
        for main, given in (
            (run.main, ["--print-config", "--config", path]),
            (simulate.main, ["--table", path]),
            (codec.main, ["encode", path, new, "--zoo", places["FOLDER"]]),
            (codec.main, ["decode", path, f"{new}.png", "--zoo", places["FOLDER"]]),
        ):
            with at_most(5):
                try:
                    assert main(given) == 2, given
                except SystemExit as error:
                    assert error.code == 2
            assert "lictune: " in (said := capfd.readouterr().err) or "error: argument" in said, given


@pytest.mark.parametrize("key", ["results", "cache"])
@pytest.mark.parametrize(
    "place", ["FILE", "PIPE", "LOOP", "DANGLING", "ZERO", "FILE/x", "DANGLING/x", "/dev/null/x"]
)
def test_no_file_is_taken_for_a_folder(
    key: str, place: str, places: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    name, slash, rest = place.partition("/")
    path = places.get(name, name) + slash + rest
    assert run.main(["--print-config", f"--{key}", path]) == 2
    assert capfd.readouterr().err.startswith(f"lictune: {key} ")
    assert run.main(["--print-config", f"--{key}", places["FOLDER"] + "/new/new"]) == 0


def test_no_output_replaces_a_folder_or_a_device(
    places: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    for place in ("FOLDER", "LOOP", "DANGLING"):
        try:
            status = simulate.main(["--budget", "1", "--epochs", "1", "--json", places[place]])
        except SystemExit as error:
            status = int(str(error.code))
        assert status == 2 and "Traceback" not in capfd.readouterr().err
