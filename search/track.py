"""Compare MLflow with the records of a search, or complete it.

    python -m search.track SEARCH             lists what MLflow lacks
    python -m search.track SEARCH --rebuild   writes it

--rebuild writes missing runs, metrics and tables from the Optuna storage and
the results folder. It keeps what MLflow already has.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lic.cli import Answers, answered, run_command
from lic.files import path_argument
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if MLflow lacks something."""
    parser = argparse.ArgumentParser(
        prog="python -m search.track", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="name or folder of the search")
    parser.add_argument(
        "--results",
        type=path_argument,
        default=Path("results"),
        metavar="DIR",
        help="folder that holds all searches (default: results)",
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow tracking URI (default: the search's)")
    parser.add_argument("--rebuild", action="store_true", help="write what MLflow lacks")
    args = parser.parse_args(argv)

    def work() -> int:
        from search.tracking import rebuilding  # slow to import: only after the arguments are checked

        return rebuilding.run(args)

    return answered(work, Answers(explain=lambda _: "", public=public))


if __name__ == "__main__":
    sys.exit(run_command(main))
