"""Lists the images in a folder, and the files that are ignored, by reason.

Symbolic links to folders are followed, each real folder once. Hidden files are ignored: those whose own name,
or that of a folder above, begins with a dot, such as copies made by editors, desktops and notebooks.
"""

from __future__ import annotations

import mimetypes
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lic.data.images import SUFFIXES, ImageError
from lic.files import one_line

#: Ignored files: reason -> names, relative to the folder.
LeftOut = dict[str, list[str]]

#: Maximum number of names to show per reason.
_NAMED = 3


@dataclass(frozen=True)
class ImageFolder:
    """The image files below a folder, sorted by path, and the ignored files."""

    files: list[Path]
    left_out: LeftOut = field(default_factory=dict)


def look_through(folder: Path) -> ImageFolder:
    """Every image file below `folder`, at any depth. Raises ImageError if there is none."""
    if not folder.is_dir():
        raise ImageError(f"there is no image folder {folder}")
    files: list[Path] = []
    left_out: LeftOut = {}
    seen: set[Path] = set()
    # Links are followed last, so that a folder reached both directly and by a link keeps its own name.
    waiting, linked = [folder], list[Path]()
    while waiting or linked:
        here = waiting.pop() if waiting else linked.pop(0)
        inside, real = here.relative_to(folder), here.resolve()
        if real in seen:
            _add(left_out, "linked to a folder already read", str(inside))
            continue
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            _add(left_out, "not readable", f"{inside}: {error.strerror}")
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
        raise ImageError(f"no image in {folder} or its subfolders (looked for {kinds}{note(left_out)})")
    return ImageFolder(sorted(files), left_out)


def find_images(folder: Path) -> list[Path]:
    """The files of `look_through`. Raises ImageError."""
    return look_through(folder).files


def _add(left_out: LeftOut, reason: str, name: str) -> None:
    left_out.setdefault(reason, []).append(name)


def _mode(path: Path) -> int:
    """The file mode (os.stat); 0 for a broken link, or without permission."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _reason(path: Path, mode: int, hidden: bool) -> str:
    """Why an image file is ignored; empty if it is used, or if it is not an image."""
    if path.suffix.lower() not in SUFFIXES:
        kind = mimetypes.guess_type(path.name)[0] or ""
        return "in an unsupported format" if kind.startswith("image/") and not hidden else ""
    if hidden:
        return "hidden"
    return "" if stat.S_ISREG(mode) else "not a file"


def note(left_out: Mapping[str, Sequence[str]]) -> str:
    """The ignored files as the end of a line: counts by reason, with the first names; empty if none."""
    parts = []
    for reason, names in left_out.items():
        first = [one_line(name, 300) for name in names[:_NAMED]]
        more = [f"and {len(names) - _NAMED} more"] if len(names) > _NAMED else []
        parts.append(f"{len(names)} {reason} ({', '.join(first + more)})")
    return f"; ignored: {', '.join(parts)}" if parts else ""
