"""The number of cores and the memory that this process may use, as limited by the hardware, the CPU affinity
and control groups (containers, Slurm, systemd).

psutil and os consider only affinity and hardware, joblib only the topmost group. Here the smallest limit of
all groups from this process's own upwards applies.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")


def processors(process: Path = _PROCESS) -> float:
    """Available processor time in cores, such as 0.5."""
    shares = [float(len(os.sched_getaffinity(0)))]
    for group in _groups(process, "cpu"):
        version_1 = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        for limit in (_numbers(group / "cpu.max"), version_1):
            # Microseconds of processor time per period, or no limit ('max' or -1).
            if len(limit) == 2 and min(limit) > 0:
                shares.append(limit[0] / limit[1])
    return min(shares)


def usable_cores(process: Path = _PROCESS) -> int:
    """Number of compute processes that each get a core; at least 1."""
    return max(1, int(processors(process)))


def usable_memory(process: Path = _PROCESS) -> int:
    """Memory limit of this process in bytes, including memory that other processes use."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(process, "memory"):
        # memory.high does not kill, but throttles a process above it until training is unusably slow.
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limits += [limit for limit in _numbers(group / name) if limit > 0]
    return min(limits)


def _groups(process: Path, controller: str) -> Iterator[Path]:
    """The folders of the control groups (v1 and v2) that limit this process, from its own upwards."""
    own: dict[str, PurePosixPath] = {}
    for line in _lines(process / "cgroup"):  # such as '4:cpu,cpuacct:/user/1', of version 2 '0::/user/1'
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), PurePosixPath(path))
    for line in _lines(process / "mountinfo"):
        mount, _, kind = line.partition(" - ")
        root, point = map(_unescaped, mount.split()[3:5])
        system, *_, options = kind.split()
        if system == "cgroup2" or (system == "cgroup" and controller in options.split(",")):
            group = own.get("" if system == "cgroup2" else controller, PurePosixPath("/"))
            # In a container, the mount may start at its own group, or its path may be the host's.
            below = group.relative_to(root) if group.is_relative_to(root) else PurePosixPath()
            yield from (Path(point) / part for part in (below, *below.parents))


def _unescaped(field: str) -> str:
    """Decode a path of mountinfo, which writes blanks as octal escapes."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), field)


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text().splitlines()
    return []


def _numbers(file: Path) -> list[int]:
    """The integers in a group's file; empty if the file does not exist."""
    with contextlib.suppress(OSError):
        return [int(word) for word in re.findall(r"-?\d+", file.read_text())]
    return []
