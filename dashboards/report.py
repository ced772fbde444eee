"""Write the report of a search: one interactive, self-contained HTML page.

    python -m dashboards.report SEARCH

writes report.html, figures/ (PNG) and tables/ (CSV) into the folder of the
search, which may be finished, running or interrupted. With --out FILE it writes
only the page. The page also shows two images coded by the models of one
quality, if their checkpoints and the images are available.
"""

from __future__ import annotations

import sys

from lic.cli import Answers, answered, run_command
from lic.files import path_argument
from search.base.search_argument import search_parser
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = search_parser("dashboards.report", __doc__)
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
