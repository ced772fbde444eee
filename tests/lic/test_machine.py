"""Cores and memory in control groups, over trees of files that look like the kernel's."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from lic.machine import processors, usable_cores, usable_memory

CORES, MEMORY = len(os.sched_getaffinity(0)), psutil.virtual_memory().total


def machine(tmp_path: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    """A folder as /proc/self, and control groups as they are mounted; {} is where."""
    root = tmp_path / "cgroup root"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    process = tmp_path / "self"
    process.mkdir()
    (process / "cgroup").write_text(cgroup)
    (process / "mountinfo").write_text(mountinfo.replace("{}", str(root).replace(" ", "\\040")))
    return process


V2 = "31 24 0:28 / {} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:28 / {} rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 / {}/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 31 0:32 / {}/memory rw - cgroup cgroup rw,memory\n"
)


def test_half_a_core_is_one_and_a_nested_limit_counts(tmp_path: Path) -> None:
    process = machine(tmp_path, "0::/slurm/job/step\n", V2, {
        "slurm/job/step/cpu.max": "max 100000", "slurm/job/cpu.max": "50000 100000",
        "slurm/cpu.max": "400000 100000",
        "slurm/job/step/memory.max": "max", "slurm/job/step/memory.high": "max",
        "slurm/job/memory.max": str(3 << 30), "slurm/memory.max": str(8 << 30),
    })  # fmt: skip
    assert processors(process) == 0.5
    assert usable_cores(process) == 1
    assert usable_memory(process) == 3 << 30
    (tmp_path / "cgroup root" / "slurm" / "memory.high").write_text(str(2 << 30))
    assert usable_memory(process) == 2 << 30


def test_a_container_of_version_2_sees_its_limit_at_the_root(tmp_path: Path) -> None:
    files = {"cpu.max": "150000 100000", "memory.max": "1073741824"}
    process = machine(tmp_path, "0::/\n", V2, files)
    assert processors(process) == min(1.5, CORES) and usable_cores(process) == 1
    assert usable_memory(process) == 1 << 30


@pytest.mark.parametrize("path", ["/user/one", "/docker/0123abc"])
def test_version_1_has_a_tree_for_each_controller(path: str, tmp_path: Path) -> None:
    """In a container without a name space of groups the path is the host's, and its group is the mount."""
    within = path.strip("/") if path == "/user/one" else "."
    mounts = (
        V1 if path == "/user/one" else V1.replace("0:29 /", f"0:29 {path}").replace("0:32 /", "0:32 " + path)
    )
    process = machine(tmp_path, f"9:cpu,cpuacct:{path}\n4:memory:{path}\n0::/\n", mounts, {
        f"cpu,cpuacct/{within}/cpu.cfs_quota_us": "25000",
        f"cpu,cpuacct/{within}/cpu.cfs_period_us": "100000",
        f"memory/{within}/memory.limit_in_bytes": str(5 << 28),
    })  # fmt: skip
    assert processors(process) == 0.25 and usable_cores(process) == 1
    assert usable_memory(process) == 5 << 28


def test_no_limit_leaves_the_affinity_and_the_machine(tmp_path: Path) -> None:
    free = {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": "9223372036854771712"}  # fmt: skip
    process = machine(tmp_path, "9:cpu,cpuacct:/a\n4:memory:/a\n", V1, free)
    assert processors(process) == usable_cores(process) == CORES
    assert usable_memory(process) == MEMORY
    assert usable_cores(tmp_path / "no procfs") == CORES and usable_memory(tmp_path / "none") == MEMORY


def test_the_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)))
    process = machine(tmp_path, "0::/\n", V2, {"cpu.max": "400000 100000"})
    assert usable_cores(process) == 4
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3})
    assert usable_cores(process) == 1
