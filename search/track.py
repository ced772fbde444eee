"""Compare MLflow with the records of a search, or complete it.

    python -m search.track SEARCH             lists what MLflow lacks
    python -m search.track SEARCH --rebuild   writes it

--rebuild writes missing runs, metrics and tables from the Optuna storage and
the results folder. It keeps what MLflow already has.
"""

from __future__ import annotations

import sys

from lic.cli import Answers, answered, run_command
from search.base.search_argument import search_parser
from search.base.secrets import public


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status, 1 if MLflow lacks something."""
    parser = search_parser("search.track", __doc__)
    parser.add_argument("--tracking-uri", metavar="URI", help="MLflow tracking URI (default: the search's)")
    parser.add_argument("--rebuild", action="store_true", help="write what MLflow lacks")
    args = parser.parse_args(argv)

    def work() -> int:
        from search.tracking import rebuilding  # slow to import: only after the arguments are checked

        return rebuilding.run(args)

    return answered(work, Answers(explain=lambda _: "", public=public))


if __name__ == "__main__":
    sys.exit(run_command(main))
