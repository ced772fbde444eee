"""Search for the best decorrelation weight and strategy at every quality level.

    python -m search.run --model cheng --budget 64

trains one baseline per quality, then runs trials in parallel, stops poor trials
early, logs all of them to MLflow and saves the best checkpoint per quality in
the results folder.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from pathlib import Path

from lic.cli import command, run_command
from lic.errors import LictuneError
from search.base.secrets import public
from search.base.signals import INTERRUPTED, ends_in_time
from search.engine.remote import remote_address, run_on_head
from search.session.arguments import parse
from search.store.find import is_search

USER_ERROR, INTERNAL_ERROR = 2, 1


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = sys.argv[1:] if argv is None else argv
    head = None if {"-h", "--help"} & set(given) else remote_address(given, os.environ)
    begun: list[Path] = []
    # With --address ray://, the driver on the cluster's head handles signals; Ctrl-C is forwarded to it.
    with contextlib.nullcontext() if head else ends_in_time(functools.partial(_last_words, begun)):
        return _run(given, head, begun)


def _run(given: list[str], head: str | None, begun: list[Path]) -> int:
    """Run the command on the `head` of a cluster or here; append the search's folder to `begun` once it is
    known."""
    try:
        if head:
            return run_on_head(head, given)
        resolved, options = parse(given, __doc__)
        if options.print_config:
            print(public(resolved.report()))
            return 0
        from search.session import driver  # slow to import: only after the settings are validated

        if options.plan:
            return driver.show_plan(resolved, options.price_per_gpu_hour)
        begun.append(options.resume or driver.new_folder(resolved.settings))
        return driver.search(resolved, begun[0])
    except LictuneError as error:
        print(f"lictune: {public(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print(_last_words(begun, "interrupted"), file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _unexpected(error, begun[0] if begun else None)


def _last_words(begun: list[Path], why: str) -> str:
    """The last line that an interrupted command prints."""
    for folder in filter(is_search, begun):
        return f"lictune: {why}; to resume: {command('search.run', '--resume', folder)}"
    return f"lictune: {why} before the search started"


def _unexpected(error: Exception, folder: Path | None) -> int:
    """Print a message about a disk problem or an internal error; returns the exit status."""
    from search.store.disk import trouble

    begun = folder is not None and is_search(folder)
    if said := trouble(error):
        hint = f"; fix this, then resume: {command('search.run', '--resume', folder)}" if begun else ""
        print(f"lictune: {public(said)}{hint}", file=sys.stderr)
        return USER_ERROR
    text = public("".join(traceback.format_exception(error)))
    try:
        if folder is None:
            raise FileNotFoundError
        (folder / "error.log").write_text(text)
    except OSError:
        print(text, file=sys.stderr)
        return INTERNAL_ERROR
    first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    hint = f"; to resume: {command('search.run', '--resume', folder)}" if begun else ""
    print(
        f"lictune: internal error: {public(first[0])} (traceback in {folder / 'error.log'}){hint}",
        file=sys.stderr,
    )
    return INTERNAL_ERROR


if __name__ == "__main__":
    sys.exit(run_command(main))
