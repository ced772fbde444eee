"""Compare MLflow with what a search recorded, or bring it up to it.

python -m search.track SEARCH             what MLflow lacks
python -m search.track SEARCH --rebuild   writes it: every run, figure and table, from Optuna's
                                          storage and the results folder; what is there stays
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lic.cli import run_command
from lic.errors import LictuneError
from lic.files import path_argument

USER_ERROR = 2


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status: 1 if MLflow lacks something."""
    parser = argparse.ArgumentParser(
        prog="python -m search.track", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="its name, or its folder")
    parser.add_argument(
        "--results", type=path_argument, default=Path("results"), help="folder of all searches"
    )
    parser.add_argument("--tracking-uri", metavar="URI", help="of MLflow (default: as the search had it)")
    parser.add_argument("--rebuild", action="store_true", help="write what MLflow lacks")
    args = parser.parse_args(argv)
    try:
        from search.tracking import rebuilding  # heavy: not before the arguments are known to be good

        return rebuilding.run(args)
    except LictuneError as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR


if __name__ == "__main__":
    sys.exit(run_command(main))
