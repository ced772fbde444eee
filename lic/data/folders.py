"""What is in a folder of images: which files count, and which are left out, by reason.

Linked folders are followed, each real folder once. What is hidden does not count: a name that begins with a
dot, of the file or of a folder above it, as editors, desktops and notebooks call their copies.
"""

from __future__ import annotations

import mimetypes
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lic.data.images import SUFFIXES, ImageError
from lic.files import one_line

#: What is left out: reason -> names, relative to the folder.
LeftOut = dict[str, list[str]]

#: So many names are given for a reason.
_NAMED = 3


@dataclass(frozen=True)
class ImageFolder:
    """The image files below a folder, sorted by path, and what was left out of them."""

    files: list[Path]
    left_out: LeftOut = field(default_factory=dict)


def look_through(folder: Path) -> ImageFolder:
    """Every image file below `folder`, at any depth. Raises ImageError if there is none."""
    if not folder.is_dir():
        raise ImageError(f"there is no image folder {folder}")
    files: list[Path] = []
    left_out: LeftOut = {}
    seen: set[Path] = set()
    # Links come last: a folder that is also here by itself goes by its own name, whatever links to it.
    waiting, linked = [folder], list[Path]()
    while waiting or linked:
        here = waiting.pop() if waiting else linked.pop(0)
        inside, real = here.relative_to(folder), here.resolve()
        if real in seen:
            _add(left_out, "linked to a folder that is read already", str(inside))
            continue
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            _add(left_out, "that cannot be opened", f"{inside}: {error.strerror}")
            continue
        below_hidden = any(part.startswith(".") for part in inside.parts)
        if not below_hidden:
            seen.add(real)
        for path in entries:
            mode, hidden = _mode(path), below_hidden or path.name.startswith(".")
            if stat.S_ISDIR(mode):
                if not path.is_symlink():
                    waiting.append(path)
                elif not hidden:
                    linked.append(path)
            elif reason := _reason(path, mode, hidden):
                _add(left_out, reason, str(inside / path.name))
            elif path.suffix.lower() in SUFFIXES:
                files.append(path)
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in SUFFIXES))
        raise ImageError(f"there is no image in {folder} or below it (looked for {kinds}{note(left_out)})")
    return ImageFolder(sorted(files), left_out)


def find_images(folder: Path) -> list[Path]:
    """The files of `look_through`. Raises ImageError."""
    return look_through(folder).files


def _add(left_out: LeftOut, reason: str, name: str) -> None:
    left_out.setdefault(reason, []).append(name)


def _mode(path: Path) -> int:
    """What kind of file it is (os.stat); 0 for a link to nothing, or to where this user may not look."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _reason(path: Path, mode: int, hidden: bool) -> str:
    """Why a file that seems to be an image does not count; empty if it does, or is none."""
    if path.suffix.lower() not in SUFFIXES:
        kind = mimetypes.guess_type(path.name)[0] or ""
        return "of a kind that is not read" if kind.startswith("image/") and not hidden else ""
    if hidden:
        return "hidden"
    return "" if stat.S_ISREG(mode) else "not a file"


def note(left_out: Mapping[str, Sequence[str]]) -> str:
    """What was left out, as the end of a line: counts by reason, with the first names; empty if nothing."""
    parts = []
    for reason, names in left_out.items():
        first = [one_line(name, 300) for name in names[:_NAMED]]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        parts.append(f"{len(names)} {reason} ({', '.join(first + more)})")
    return f"; left out: {', '.join(parts)}" if parts else ""
