"""Runs a search from a machine outside the cluster (`--address ray://HEAD:10001`).

The driver runs on the cluster's head node, where paths are resolved (relative ones from the home folder).
This process prints its output and forwards Ctrl-C. The search continues if the connection is lost.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lic.files import path_argument
from search.engine import cluster
from search.engine.cluster import ClusterError
from search.settings.complaints import ConfigError
from search.settings.config import ENVIRONMENT

SCHEME = "ray://"

#: Seconds between requests for new output.
_ASK_EVERY = 1.0


def remote_address(argv: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """The ray:// address on the command line or in the environment, if any."""
    address = _options(argv)[0].address or environment.get(f"{ENVIRONMENT}ADDRESS")
    return address if address and address.startswith(SCHEME) else None


def _options(argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options that must be changed for the head node, and all others."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--address")
    parser.add_argument("--config", type=path_argument)
    return parser.parse_known_args(list(argv))


class Driver:
    """The actor that runs the command on the head node."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self._lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "search.run", *argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True, cwd=Path.home(),
            env={**os.environ, **environment, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    def news(self, known: int) -> tuple[list[str], int | None]:
        """The lines after the first `known`, and the exit status once the command has ended."""
        status = None if self._reader.is_alive() else self._process.wait()
        return self._lines[known:], status

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)


def run_on_head(address: str, argv: Sequence[str]) -> int:
    """Run the command on the cluster's head node and print its output; returns its exit status. Raises
    ClusterError, ConfigError."""
    options, environment = _for_head(argv)
    cluster.connect(address)
    import ray

    # Detached: the search survives a lost connection.
    place = {"num_cpus": 0, "resources": {"node:__internal_head__": 0.001}, "lifetime": "detached"}
    driver: Any = ray.remote(Driver).options(**place).remote(options, environment)
    known = 0
    status: int | None = None
    while status is None:
        try:
            lines, status = ray.get(driver.news.remote(known))
            known += len(lines)
            print("".join(lines), end="", flush=True)
            time.sleep(_ASK_EVERY if status is None else 0.0)
        except KeyboardInterrupt:
            ray.get(driver.interrupt.remote())
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ClusterError(
                f"lost the connection to {address} ({cluster.last_line(error)}); the search continues on the "
                "head node; if it ends there, resume it with --resume"
            ) from error
    ray.kill(driver)
    cluster.disconnect()
    return status


def _for_head(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The command line for the head node, and this environment's settings."""
    known, rest = _options(argv)
    if known.config is not None:
        raise ConfigError(
            f"--config {known.config} is a file on this machine, but the search runs on the cluster's head "
            "node; give its settings as options"
        )
    kept = ("PGPASSWORD", "MLFLOW_TRACKING_", "WANDB_")
    environment = {k: v for k, v in os.environ.items() if k.startswith((ENVIRONMENT, *kept))}
    environment.pop(f"{ENVIRONMENT}ADDRESS", None)
    return [*rest, "--address", "auto"], environment
