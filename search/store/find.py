"""Finds the folders of searches, by name or as the newest."""

from __future__ import annotations

import unicodedata
from pathlib import Path

from lic.errors import LictuneError
from lic.files import one_line, shown, user_path
from search.settings.config import SETTINGS

#: Optuna's storage in a search's folder, unless its settings name another.
STUDY = "study.db"

#: The folder of the trials' checkpoints in it.
TRIALS_FOLDER = "trials"


class FolderError(LictuneError):
    """A folder is not that of a search, or lacks files of a search; the message names it."""


def is_search(folder: Path) -> bool:
    """Whether the folder is that of a search that has started."""
    try:
        return (folder / STUDY).is_file() or (folder / SETTINGS).is_file()
    except OSError:  # such as that of a name too long for a file
        return False


def searches_in(results: Path) -> list[Path]:
    """The folders of all searches in a results folder, the most recently written last."""
    return sorted(filter(is_search, results.glob("*/")), key=recorded_at)


def recorded_at(folder: Path) -> float:
    """Time of the last record of a search, in seconds since 1970."""
    for name in (STUDY, TRIALS_FOLDER, SETTINGS):
        if (folder / name).exists():
            return (folder / name).stat().st_mtime
    return 0.0


def find_folder(name: str, results: Path) -> Path:
    """The folder of the search with this name in the results folder, or `name` itself if it is such a folder;
    'last' is the most recently written search. Raises FolderError."""
    try:
        folder, results = Path(user_path(name)), Path(user_path(str(results)))
    except ValueError as error:
        raise FolderError(f"there is no search {shown(name)} in {shown(str(results))}: {error}") from None
    found = searches_in(results)
    named = [results / folder, results / unicodedata.normalize("NFC", name), folder]
    places = found[-1:] if name == "last" else named
    for folder in places:
        if is_search(folder):
            return folder
    existing = one_line(", ".join(sorted(path.name for path in found)) or "none", 300)
    raise FolderError(f"there is no search {shown(name)} in {results}; existing searches: {existing}")


def check_inside(folder: Path, *names: str) -> None:
    """Check that no file with these names in a search's folder, which may come from someone else, is a link
    through which a file outside would be overwritten. Raises FolderError."""
    root = folder.resolve()
    for path in (found for name in names for found in (folder / name, *(folder / name).glob("*"))):
        if not path.resolve().is_relative_to(root):
            raise FolderError(f"{path} links to {path.resolve()}, outside the search's folder; remove it")
