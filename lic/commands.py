"""Commands of this package as they are printed, to be pasted."""

from __future__ import annotations

import shlex


def command(module: str, *arguments: object) -> str:
    """The command that runs a module, for any POSIX shell, whatever its arguments hold."""
    return shlex.join(["python", "-m", module, *map(str, arguments)])
