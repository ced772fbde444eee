"""Open a search in the browser.

    python -m dashboards.open SEARCH

starts MLflow and Optuna's dashboard on 127.0.0.1, writes the report if it is
missing or outdated, and prints the links. Ctrl-C stops the servers. `make ui`
opens the newest search.
"""

from __future__ import annotations

import contextlib
import sys

from lic.cli import Answers, answered, run_command
from lic.files import whole_argument
from search.base.search_argument import search_parser
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Start the servers, print the links and wait for Ctrl-C; returns the exit status."""
    parser = search_parser("dashboards.open", __doc__, newest=True)
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
