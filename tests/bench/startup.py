"""What it takes until something happens: `python -m tests.bench.startup --against FOLDER`.

Processor seconds (user and system, median of --repeat) of every command's --help, its refusal of a misspelt
flag, and of search.run --print-config; and of a small search those of its driver and of a worker, up to the
end of the first training step, with the wall time to it. With --against another checkout of this repository,
such as an earlier commit's worktree, both sides take turns in one run. All modules are compiled beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
import psutil

from tests.bench import machine

HERE = Path(__file__).resolve().parents[2]

COMMANDS = {
    "search.run": [], "search.simulate": [], "search.export": ["last"], "search.track": ["last"],
    "search.reproduce": [], "dashboards.report": ["last"], "dashboards.open": ["last"], "lic.codec": [],
    "lic.codec encode": ["a.png", "a.lic", "--zoo", "zoo"], "lic.codec decode": ["a.lic", "a.png"],
    "lic.training.starter": ["cheng", "--width", "8"],
}  # fmt: skip

SEARCH = [
    "--preset=tiny", "--model=hyperprior", "--width=8", "--patch=64", "--budget=2", "--epochs=1",
    "--steps-per-epoch=1", "--batch=2", "--start=scratch", "--val-images=4", "--rates=1,3", "--test-images=2",
    "--trials-per-gpu=0", "--name=startup",
]  # fmt: skip

#: Imported by every Python of a measured search: it writes down when a process has trained its first epoch,
#: which has one step.
_HOOK = """
import importlib.abc, importlib.machinery, json, os, sys, time

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "lic.training.trainer":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            train = module.Trainer.run_epoch
            def run_epoch(trainer):
                found = train(trainer)
                if module.Trainer.run_epoch is not train:
                    module.Trainer.run_epoch = train
                    times = os.times()
                    seconds = {"worker": times.user + times.system, "at": time.time()}
                    with open(os.environ["FIRST_STEPS"], "a") as file:
                        file.write(json.dumps(seconds) + chr(10))
                return found
            module.Trainer.run_epoch = run_epoch
        spec.loader.exec_module = exec_module
        return spec

if "FIRST_STEPS" in os.environ:
    sys.meta_path.insert(0, Finder())
"""


def environment(folder: Path, *before: Path) -> dict[str, str]:
    """The environment of a command that imports this repository's packages from a folder."""
    path = os.pathsep.join(map(str, (*before, folder)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def compile_modules(folder: Path) -> None:
    """Write the bytecode of a checkout's modules, as `make` does."""
    packages = [name for name in ("lic", "search", "dashboards", "configs") if (folder / name).is_dir()]
    subprocess.run([sys.executable, "-m", "compileall", "-q", *packages], cwd=folder, check=True)


def command_seconds(folder: Path, words: list[str]) -> float:
    """Processor seconds of a command."""
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env=environment(folder),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def search_seconds(folder: Path, images: list[str]) -> dict[str, float]:
    """Of a search up to its first training step: processor seconds of the driver and of the worker that was
    the first, and wall seconds."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "sitecustomize.py").write_text(_HOOK)
        steps, log = work / "steps", work / "log"
        steps.touch()
        variables = {**environment(folder, work), "FIRST_STEPS": str(steps)}
        command = [sys.executable, "-m", "search.run", *SEARCH, *images, "--results", str(work / "results")]
        began = time.time()
        with log.open("w") as out:
            process = subprocess.Popen(command, cwd=folder, env=variables, stdout=out, stderr=out)
        driver = psutil.Process(process.pid)
        while not (lines := steps.read_text().splitlines()):
            if process.poll() is not None:
                raise RuntimeError(f"the search ended before it trained: {log.read_text()[-2000:]}")
            time.sleep(0.02)
        times, first = driver.cpu_times(), json.loads(lines[0])
        for each in [*driver.children(recursive=True), driver]:
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait()
    return {
        "search: driver": times.user + times.system,
        "search: worker": first["worker"],
        "search: wall": first["at"] - began,
    }


def measure(sides: dict[str, Path], args: argparse.Namespace) -> pd.DataFrame:
    """A row for everything that is measured, a side and a turn."""
    rows = []
    words = {
        **{f"{command} --help": [*command.split(), "--help"] for command in COMMANDS},
        **{f"{c} --quallity": [*c.split(), *more, "--quallity", "3"] for c, more in COMMANDS.items()},
        "search.run --print-config": ["search.run", "--print-config", "--trials-per-gpu", "0"],
    }
    images = [f"--{key}={value.resolve()}" for key in ("data", "kodak") if (value := getattr(args, key))]
    for folder in sides.values():
        compile_modules(folder)
    for turn in range(args.repeat):
        for side, folder in sides.items():
            found = {} if args.search_alone else {k: command_seconds(folder, w) for k, w in words.items()}
            found |= search_seconds(folder, images)
            rows += [{"what": k, "side": side, "turn": turn, "seconds": v} for k, v in found.items()]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout, the first side")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="turns of each side (default: 3)")
    parser.add_argument("--search-alone", action="store_true", help="leave out --help and the like")
    parser.add_argument("--data", type=Path, help="folder of training images (default: generated)")
    parser.add_argument("--kodak", type=Path, help="folder of the Kodak images (default: fetched)")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    sides = {**({"before": args.against.resolve()} if args.against else {}), "here": HERE}
    found = measure(sides, args)
    table = found.groupby(["what", "side"], sort=False)["seconds"].median().unstack()
    if args.against:
        table["ratio"] = table["before"] / table["here"]
    print(table.round(2).to_string())
    print(machine.described("compressai", "ray", "mlflow", "optuna"))
    if args.out:
        found.round(3).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
