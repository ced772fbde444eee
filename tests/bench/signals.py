"""What a search does when a signal ends it: SIGTERM, SIGINT, SIGHUP and SIGQUIT, each sent to the driver and
to its process group, at six moments of a real search, which then goes on. With --targets job: to every
process of it.

    python -m tests.bench.signals --out docs/bench/signals.csv

Each must end it with status 130 within 30 seconds, with one sentence that says how to go on and no traceback,
and with no process left; and the search that was ended six times must end as one that was not
(tests.bench.kills).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from tests.bench.kills import check
from tests.bench.machine import described
from tests.bench.scenes import MOMENTS, SEARCH, Scene, scene_of, undisturbed_search, wait_for

SIGNALS = ("TERM", "INT", "HUP", "QUIT")

#: Seconds in which a search must have ended, and after which nothing of it may be left.
_IN_TIME, _GONE = 30, 5


def _while_ray_starts(scene: Scene) -> Callable[[], bool]:
    """It has said where MLflow is, the last line before Ray starts, once more than it had."""
    log = scene.folder / "driver.log"
    return lambda: log.read_text().count("\nMLflow       sqlite") > scene.starts - 1


#: As for kills, but for one: MLflow's database is written while all the others come.
_MOMENTS = {
    "while Ray starts": (_while_ray_starts, 4.0, 0.05),
    **{name: how for name, how in MOMENTS.items() if name != "while tracking flushes"},
}


@dataclass(frozen=True)
class Ended:
    """One signal to a search, `after_s` seconds after the moment was seen; how it ended, in how many
    `seconds`, and what was left of it."""

    signal: str
    target: str
    moment: str
    after_s: float
    status: int
    seconds: float
    left: str
    result: str


def end(scene: Scene, number: signal.Signals, target: str, moment: str, delay: float) -> Ended:
    """Send the signal; AssertionError if the search does not end as it must."""
    assert scene.driver is not None
    log = scene.folder / "driver.log"
    before, began = len(log.read_text()), time.monotonic()
    _send(scene.driver.pid, number, target)
    status = scene.driver.wait(120)
    seconds, said = time.monotonic() - began, log.read_text()[before:]
    time.sleep(_GONE)
    left = sorted(process.name() for process in psutil.process_iter() if _belongs(process, scene))
    if status != 0:  # all was done already
        assert (status, left) == (130, []), (status, left, said)
        assert said.count(f"--resume {scene.search}") == 1, said
        assert "Traceback" not in said, said
    assert seconds < _IN_TIME, seconds
    return Ended(number.name, target, moment, round(delay, 2), status, round(seconds, 1), " ".join(left), "")


def _send(driver: int, number: signal.Signals, target: str) -> None:
    if target == "group":
        os.killpg(driver, number)
        return
    process = psutil.Process(driver)
    for receiver in (process, *(process.children(recursive=True) if target == "job" else ())):
        with contextlib.suppress(psutil.NoSuchProcess):
            receiver.send_signal(number)


def _belongs(process: psutil.Process, scene: Scene) -> bool:
    try:
        mine = process.environ().get("SCENE") == scene.name and process.pid != os.getpid()
        return mine and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def run_scene(scene: Scene, number: signal.Signals, target: str, undisturbed: Path) -> list[Ended]:
    """A search that gets the signal at every moment."""
    scene.start("--name", scene.name, *SEARCH, "--workers", "1", "--cache", str(scene.cache),
                "--tracking-uri", scene.mlflow)  # fmt: skip
    ended: list[Ended] = []
    for moment, (make, most, pause) in _MOMENTS.items():
        delay = scene.draw.uniform(0, most)
        ahead = f"{scene.name} ended before the moment {moment}"
        assert wait_for(scene, make(scene), pause), f"{ahead}: {(scene.folder / 'driver.log').read_text()}"
        time.sleep(delay)
        ended.append(end(scene, number, target, moment, delay))
        print(f"{scene.name}: {moment}, {ended[-1].seconds} s", flush=True)
        if ended[-1].status == 0:
            break
        scene.start("--resume", scene.name, "--tracking-uri", scene.mlflow)
    assert scene.driver is not None
    status = scene.driver.wait(300)
    assert status == 0, (scene.folder / "driver.log").read_text()[-3000:]
    check(scene, undisturbed)
    return [Ended(**{**asdict(one), "result": "as undisturbed"}) for one in ended]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="CSV file for the table; what it holds is not done again")
    parser.add_argument("--signals", default=",".join(SIGNALS), help="some of them (default: all)")
    parser.add_argument(
        "--targets", default="driver,group",
        help="driver; group: its process group, as terminals and Slurm do; job: every process of the "
        "search, Ray's as well, as systemd does (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the random timing")
    args = parser.parse_args()
    rows: list[Any] = pd.read_csv(args.out).to_dict("records") if args.out and args.out.is_file() else []
    done = {(row["signal"], row["target"]) for row in rows}
    with tempfile.TemporaryDirectory(prefix="lictune-signals-") as work:
        cache = Path(work) / "cache"
        undisturbed = undisturbed_search(Path(work), cache)
        for name in args.signals.split(","):
            number = signal.Signals[f"SIG{name}"]
            for target in args.targets.split(","):
                if (number.name, target) in done:
                    continue
                with scene_of(f"{name.lower()}-{target}", 1, cache, args.seed) as scene:
                    rows += map(asdict, run_scene(scene, number, target, undisturbed))
                if args.out:
                    pd.DataFrame(rows).to_csv(args.out, index=False)
    print(pd.DataFrame(rows).to_string())
    print(described())


if __name__ == "__main__":
    main()
