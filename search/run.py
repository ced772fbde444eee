"""Search for the best decorrelation weight and strategy at every rate.

    python -m search.run --model cheng --budget 64

trains one baseline per rate, then trials, several at once; stops the poor ones early; logs each to
MLflow; and leaves the best checkpoint per rate in the results folder.
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

USER_ERROR, OWN_ERROR = 2, 1


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    given = sys.argv[1:] if argv is None else argv
    head = None if {"-h", "--help"} & set(given) else remote_address(given, os.environ)
    begun: list[Path] = []
    # The driver on a cluster's head answers signals there; Ctrl-C is passed on to it.
    with contextlib.nullcontext() if head else ends_in_time(functools.partial(_last_words, begun)):
        return _run(given, head, begun)


def _run(given: list[str], head: str | None, begun: list[Path]) -> int:
    """The command, on the `head` of a cluster or here; the search's folder is put into `begun` once it is
    known."""
    try:
        if head:
            return run_on_head(head, given)
        resolved, options = parse(given, __doc__)
        if options.print_config:
            print(public(resolved.report()))
            return 0
        from search.session import driver  # heavy imports wait until the settings are known to be good

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
    """What a command says that ends because of something that happened to it."""
    for folder in filter(is_search, begun):
        return f"lictune: {why}; to go on: {command('search.run', '--resume', folder)}"
    return f"lictune: {why} before the search began"


def _unexpected(error: Exception, folder: Path | None) -> int:
    """Say what went wrong with the disk, or what is a fault of ours; the exit status."""
    from search.store.disk import trouble

    begun = folder is not None and is_search(folder)
    if said := trouble(error):
        hint = f"; once that is mended: {command('search.run', '--resume', folder)}" if begun else ""
        print(f"lictune: {public(said)}{hint}", file=sys.stderr)
        return USER_ERROR
    text = public("".join(traceback.format_exception(error)))
    try:
        if folder is None:
            raise FileNotFoundError
        (folder / "error.log").write_text(text)
    except OSError:
        print(text, file=sys.stderr)
        return OWN_ERROR
    first = str(error).strip().splitlines()[-1:] or [type(error).__name__]
    hint = f"; to go on: {command('search.run', '--resume', folder)}" if begun else ""
    print(
        f"lictune: a fault of ours: {public(first[0])} (the whole of it: {folder / 'error.log'}){hint}",
        file=sys.stderr,
    )
    return OWN_ERROR


if __name__ == "__main__":
    sys.exit(run_command(main))
