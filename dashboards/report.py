"""Write the report of a search: one interactive, self-contained HTML page.

    python -m dashboards.report SEARCH

writes report.html, figures/ (PNG) and tables/ (CSV) into the folder of the
search, which may be finished, running or interrupted. With --out FILE it writes
only the page. The page also shows two images coded by the models of one
quality, if their checkpoints and the images are available.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lic.cli import Answers, answered, run_command
from lic.files import path_argument
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.report", description=__doc__,
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
    parser.add_argument(
        "--out",
        type=path_argument,
        metavar="FILE",
        help="write only the page, to this file (default: report.html in the search's folder)",
    )
    parser.add_argument(
        "--png", type=path_argument, metavar="DIR", help="write the figures as PNG to this folder"
    )
    args = parser.parse_args(argv)

    def work() -> None:
        from dashboards import page  # slow to import: only after the arguments are checked

        page.write(args)

    def explain(error: Exception) -> str:
        return f"cannot write the report ({error})" if isinstance(error, OSError) else ""

    return answered(work, Answers(explain=explain, public=public))


if __name__ == "__main__":
    sys.exit(run_command(main))
