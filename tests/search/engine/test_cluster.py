"""Searches on a Ray cluster of two hosts that share nothing but a folder, a database and MLflow."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from search.base.space import SearchPoint
from search.records.search_records import FINISHED, TrialRecord
from search.settings.config import Settings
from search.settings.plan import template_of
from tests.conftest import assert_as_trained_alone
from tests.support.hosts import MISSING, Host, TwoHosts, two_hosts

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]

SMALL = [
    *("--preset", "tiny", "--width", "8", "--start", "scratch", "--no-stopping", "--strategies", "y"),
    *("--patch", "64", "--batch", "2", "--val-images", "2"),
]

_RECORDS = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from search.records.folder import open_search
records = open_search(sys.argv[1], Path(sys.argv[2]), with_model=False).records.everything()
print(json.dumps([asdict(record) for record in records]))
"""


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    if " " in sys.executable:
        pytest.skip(f"`ray start` puts {sys.executable} into a shell's line as it is, and then ends")
    draw = np.random.default_rng(0)
    with two_hosts() as made:
        for part, count in (("train", 6), ("test", 2)):
            (made.shared / part).mkdir()
            for number in range(count):
                pixels = draw.integers(0, 256, (192, 200, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(made.shared / part / f"{number}.png")
        yield made


def command(hosts: TwoHosts, *arguments: str, results: Path | None = None) -> list[str]:
    return [
        sys.executable, "-m", "search.run", "--address", hosts.head,
        "--results", str(results or hosts.shared / "results"), *arguments,
    ]  # fmt: skip


def new(hosts: TwoHosts, name: str, *arguments: str) -> list[str]:
    where = ("--name", name, "--study", hosts.study, "--tracking-uri", hosts.mlflow)
    return command(hosts, *where, *SMALL, *pictures(hosts), *arguments)


def pictures(hosts: TwoHosts) -> list[str]:
    return ["--data", str(hosts.shared / "train"), "--test", str(hosts.shared / "test")]


def records_of(hosts: TwoHosts, name: str, results: Path) -> list[TrialRecord]:
    done = hosts.first.run(sys.executable, "-c", _RECORDS, name, str(results), timeout=120)
    assert done.returncode == 0, done.stderr
    found = []
    for record in json.loads(done.stdout):
        readings = {
            int(epoch): figures for epoch, figures in record["readings"].items()
        }  # JSON's keys are text
        found.append(TrialRecord(**{**record, "point": SearchPoint(**record["point"]), "readings": readings}))
    return found


def check(hosts: TwoHosts, name: str, trainings: int, cache: Path, results: Path | None = None) -> None:
    """Every training once, in Optuna's storage and in MLflow, with the figures that an undisturbed training
    of its point has."""
    results = results or hosts.shared / "results"
    records = records_of(hosts, name, results)
    assert len({record.name for record in records}) == len(records) == trainings
    assert {record.state for record in records} == {FINISHED}, [(r.name, r.reason) for r in records]
    folder = results / name
    template = template_of(Settings(**yaml.safe_load((folder / "settings.yaml").read_text())))
    template = dataclasses.replace(template, images=dataclasses.replace(template.images, cache=str(cache)))
    for record in records:
        assert len(record.readings) == template.training.epochs
        assert_as_trained_alone(record, template)
    words = ("-m", "search.track", name, "--results", str(folder.parent))
    compared = hosts.first.run(sys.executable, *words, timeout=120)
    assert compared.returncode == 0, compared.stdout + compared.stderr
    assert f"MLflow has {trainings} of {trainings} training runs" in compared.stdout


def packed_images(host: Host) -> list[str]:
    """The image sets in a host's own cache."""
    found = host.run("find", str(host.private / ".cache"), "-name", "*.bin", timeout=20)
    return found.stdout.split()


def test_searches_of_both_models_begin_at_once_on_both_hosts(hosts: TwoHosts, cache: Path) -> None:
    size = ("--rates", "1", "--budget", "3", "--epochs", "2", "--steps-per-epoch", "30")
    drivers = {}
    for model in ("hyperprior", "cheng"):
        log = hosts.logs / f"{model}.log"
        drivers[model] = hosts.first.start(*new(hosts, model, "--model", model, *size), log=log)
    for model, driver in drivers.items():
        said = hosts.logs / f"{model}.log"
        assert driver.wait(timeout=500) == 0, said.read_text()
        check(hosts, model, 4, cache)
        settings = (hosts.shared / "results" / model / "settings.yaml").read_text()
        assert hosts.first.token not in settings + said.read_text()
    assert len(packed_images(hosts.first)) == len(packed_images(hosts.second)) == 3


@pytest.mark.chaos
def test_a_machine_outside_the_cluster_starts_a_search_on_its_head(hosts: TwoHosts, cache: Path) -> None:
    words = new(hosts, "outside", "--model", "hyperprior", *LONG)
    words[words.index("--address") + 1] = f"ray://{hosts.first.address}:10001"
    done = hosts.first.run(*words, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Comparison with the baselines on test" in done.stdout
    check(hosts, "outside", 5, cache)


@pytest.mark.chaos
def test_a_wrong_token_is_refused(hosts: TwoHosts) -> None:
    words = new(hosts, "stranger", "--model", "hyperprior")
    done = hosts.first.run(*words, timeout=120, RAY_AUTH_TOKEN="0" * 64)
    assert done.returncode == 2
    told = done.stderr.splitlines()[-1]  # after what Ray says of every attempt
    assert told.startswith(
        f"lictune: cannot join a Ray cluster at {hosts.head}: it does not run, or needs another token"
    )
    assert not (hosts.shared / "results" / "stranger").exists()


@pytest.mark.parametrize("setting", ["--results", "--storage"])
def test_a_node_that_does_not_see_the_storage_is_refused_by_name(hosts: TwoHosts, setting: str) -> None:
    private, name = hosts.first.private / setting.strip("-"), f"unseen{setting}"
    words = [*new(hosts, name, "--model", "hyperprior"), setting, str(private)]
    done = hosts.first.run(*words, timeout=180)
    assert done.returncode == 2
    place = private if setting == "--storage" else private / name
    assert f"({hosts.second.address}) does not see {place}; {setting} must be" in done.stderr
    assert hosts.first.run("ls", "-A", str(private), timeout=20).stdout == ""
    assert not (hosts.shared / "results" / name).exists()


@pytest.mark.chaos
def test_only_the_storage_need_be_shared(hosts: TwoHosts, cache: Path) -> None:
    private, storage = hosts.first.private / "own", hosts.shared / "storage"
    words = [*new(hosts, "apart", "--model", "hyperprior"), "--results", str(private), "--rates", "1"]
    size = ("--budget", "3", "--epochs", "2", "--steps-per-epoch", "30", "--storage", str(storage))
    done = hosts.first.run(*words, *size, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(packed_images(hosts.first)) == len(packed_images(hosts.second)) == 3
    assert (storage / "apart" / "best" / "q1.pt").is_file()
    # Another host goes on with it from what is beside the checkpoints.
    words = ["--resume", "apart", "--storage", str(storage), "--budget", "4"]
    elsewhere = hosts.shared / "fetched"
    done = hosts.second.run(*command(hosts, *words, results=elsewhere), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    check(hosts, "apart", 5, cache, elsewhere)


@pytest.mark.chaos
def test_a_name_that_the_database_has_is_refused(hosts: TwoHosts) -> None:
    # That of the search from outside, above.
    elsewhere = str(hosts.shared / "elsewhere")
    words = [*new(hosts, "outside", "--model", "hyperprior"), "--results", elsewhere]
    done = hosts.first.run(*words, timeout=120)
    assert (done.returncode, done.stderr.count("has a search named outside")) == (2, 1)


def kill_trainings(hosts: TwoHosts) -> None:
    """kill -9 for what trains on the second host."""
    found = subprocess.run(
        ["ip", "netns", "pids", hosts.second.name], capture_output=True, text=True, check=True
    )
    training = [
        int(pid)
        for pid in found.stdout.split()
        if re.match(rb"ray::(RayTrial|ResourceTrainable)", Path(f"/proc/{pid}/cmdline").read_bytes())
    ]
    assert training, "nothing trains on the second host"
    for pid in training:
        os.kill(pid, signal.SIGKILL)


def cut_the_link(hosts: TwoHosts) -> None:
    """60 s without a link; what Ray gave up meanwhile is started again, as a service manager would."""
    hosts.cut()
    time.sleep(60)
    hosts.restore()
    joined = hosts.second.processes[-1]
    time.sleep(10)
    if joined.poll() is not None:
        hosts.start_ray(hosts.second)


def restart_the_database(hosts: TwoHosts) -> None:
    hosts.database.stop()
    time.sleep(5)
    hosts.database.start()


LONG = ("--no-reuse-baselines", "--rates", "1", "--budget", "4", "--epochs", "4", "--steps-per-epoch", "150")


@pytest.mark.chaos
def test_a_killed_driver_is_resumed_from_the_other_host(hosts: TwoHosts, cache: Path) -> None:
    log = hosts.logs / "driver.log"
    driver = hosts.first.start(*new(hosts, "driver", "--model", "hyperprior", *LONG), log=log)
    wait_for_the_second_epoch(hosts, "driver", driver, log)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    done = hosts.second.run(*command(hosts, "--resume", "driver"), timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    check(hosts, "driver", 5, cache)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", [kill_trainings, restart_the_database, cut_the_link])
def test_a_fault_changes_no_figure(hosts: TwoHosts, fault: Callable[[TwoHosts], None], cache: Path) -> None:
    name = fault.__name__
    log = hosts.logs / f"{name}.log"
    driver = hosts.first.start(*new(hosts, name, "--model", "hyperprior", *LONG), log=log)
    wait_for_the_second_epoch(hosts, name, driver, log)
    fault(hosts)
    assert driver.wait(timeout=400) == 0, log.read_text()
    check(hosts, name, 5, cache)


def wait_for_the_second_epoch(hosts: TwoHosts, name: str, driver: subprocess.Popen[bytes], log: Path) -> None:
    until, trials = time.monotonic() + 120, hosts.shared / "results" / name / "trials"
    while not any(trials.glob("*/epoch-0002.pt")):
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < until, f"no checkpoints: {log.read_text()}"
        time.sleep(0.2)
