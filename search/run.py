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
from pathlib import Path

from lic.cli import Answers, answered, command, run_command
from search.base.secrets import public
from search.base.signals import ends_in_time
from search.engine.remote import remote_address, run_on_head
from search.session.arguments import HERE, parse
from search.store.find import is_search


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

    def work() -> int:
        if head:
            return run_on_head(head, given)
        resolved, options = parse(given, __doc__)
        if options.print_config:
            print(public(resolved.report()))
            return 0
        from search.session import driver  # slow to import: only after the settings are validated

        if options.plan:
            gpu = None if options.plan == HERE else options.plan
            return driver.show_plan(resolved, options.price_per_gpu_hour, gpu)
        begun.append(options.resume or driver.new_folder(resolved.settings))
        return driver.search(resolved, begun[0])

    return answered(
        work,
        Answers(
            interrupted=lambda: _last_words(begun, "interrupted"),
            explain=functools.partial(_trouble, begun),
            error_log=lambda: begun[0] / "error.log" if begun else None,
            hint=lambda: _hint(begun, "to resume"),
            public=public,
        ),
    )


def _last_words(begun: list[Path], why: str) -> str:
    """The last line that an interrupted command prints."""
    return f"lictune: {why}{_hint(begun, 'to resume') or ' before the search started'}"


def _trouble(begun: list[Path], error: Exception) -> str:
    """What is wrong with the disk or the memory, if that is what went wrong, and how to resume."""
    from search.store.disk import trouble

    said = trouble(error)
    return said and said + _hint(begun, "fix this, then resume")


def _hint(begun: list[Path], what: str) -> str:
    """How to resume a search that has begun, as the end of a sentence."""
    for folder in filter(is_search, begun):
        return f"; {what}: {command('search.run', '--resume', folder)}"
    return ""


if __name__ == "__main__":
    sys.exit(run_command(main))
