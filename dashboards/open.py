"""Open a search in the browser.

    python -m dashboards.open SEARCH

starts MLflow and Optuna's dashboard on 127.0.0.1, writes the report if it is
missing or outdated, and prints the links. Ctrl-C stops the servers. `make ui`
opens the newest search.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from lic.cli import Answers, answered, run_command
from lic.files import path_argument, whole_argument
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Start the servers, print the links and wait for Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.open",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "search", nargs="?", metavar="SEARCH", help="name or folder of the search (default: the newest)"
    )
    parser.add_argument(
        "--results",
        type=path_argument,
        default=Path("results"),
        metavar="DIR",
        help="folder that holds all searches (default: results)",
    )
    parser.add_argument(
        "--port",
        type=whole_argument(1, 65_535),
        default=5000,
        metavar="N",
        help="port of MLflow (default: 5000)",
    )
    parser.add_argument(
        "--optuna-port",
        type=whole_argument(1, 65_535),
        default=8080,
        metavar="N",
        help="port of Optuna's dashboard (default: 8080)",
    )
    args = parser.parse_args(argv)

    def work() -> None:
        from dashboards import links  # slow to import: only after the arguments are checked

        with contextlib.suppress(KeyboardInterrupt):  # which is how it is ended
            links.show(args)

    return answered(work, Answers(explain=lambda _: "", public=public))


if __name__ == "__main__":
    sys.exit(run_command(main))
