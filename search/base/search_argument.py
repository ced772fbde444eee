"""The arguments of the commands that open a search: its name or folder, and where all searches are."""

from __future__ import annotations

import argparse
from pathlib import Path

from lic.files import path_argument


def search_parser(module: str, description: str | None, newest: bool = False) -> argparse.ArgumentParser:
    """A command's parser with SEARCH and --results; `newest`: the newest search is meant where none is
    named."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    if newest:
        text = "name or folder of the search (default: the newest)"
        parser.add_argument("search", nargs="?", metavar="SEARCH", help=text)
    else:
        parser.add_argument("search", metavar="SEARCH", help="name or folder of the search")
    parser.add_argument(
        "--results",
        type=path_argument,
        default=Path("results"),
        metavar="DIR",
        help="folder that holds all searches (default: results)",
    )
    return parser
