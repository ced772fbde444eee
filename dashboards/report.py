"""A search as one page that can be sent: interactive, self-contained, made from its folder.

    python -m dashboards.report SEARCH

writes report.html into the folder of a search that is finished, still runs or was broken off, its figures
as PNG to figures/ and its tables as CSV to tables/; --out FILE writes the page alone, elsewhere. Two images
are coded by the models of one rate, if their checkpoints and the images are still there.
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
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.report", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("search", metavar="SEARCH", help="its name, or its folder")
    parser.add_argument(
        "--results", type=path_argument, default=Path("results"), help="folder of all searches"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="write the page here (default: its folder)"
    )
    parser.add_argument("--png", type=path_argument, metavar="DIR", help="write the figures as PNG here")
    args = parser.parse_args(argv)
    try:
        from dashboards import page  # heavy: not before the arguments are known to be good

        page.write(args)
    except LictuneError as error:
        print(f"lictune: {error}", file=sys.stderr)
        return USER_ERROR
    except OSError as error:
        print(f"lictune: the report could not be written ({error})", file=sys.stderr)
        return USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
