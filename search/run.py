"""Search for the best decorrelation weight and strategy at every rate.

    python -m search.run --model cheng --budget 64

trains one baseline per rate, then trials, several at once; stops the poor ones early; logs each to
MLflow; and leaves the best checkpoint per rate in the results folder.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from lic.errors import LictuneError
from search.arguments import parse
from search.find import is_search
from search.provenance import public
from search.remote import remote_address, run_on_head

USER_ERROR, OWN_ERROR, INTERRUPTED = 2, 1, 130


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    folder: Path | None = None
    given = sys.argv[1:] if argv is None else argv
    try:
        if (address := remote_address(given, os.environ)) and not {"-h", "--help"} & set(given):
            return run_on_head(address, given)
        resolved, options = parse(given, __doc__)
        if options.print_config:
            print(public(resolved.report()))
            return 0
        from search import driver  # heavy imports wait until the settings are known to be good

        if options.plan:
            return driver.show_plan(resolved, options.price_per_gpu_hour)
        folder = options.resume or driver.new_folder(resolved.settings)
        return driver.search(resolved, folder)
    except LictuneError as error:
        print(f"lictune: {public(str(error))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        begun = folder is not None and is_search(folder)
        hint = f"at once; to go on: python -m search.run --resume {folder}"
        print(f"lictune: interrupted {hint if begun else 'before the search began'}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _unexpected(error, folder)


def _unexpected(error: Exception, folder: Path | None) -> int:
    """Say what went wrong with the disk, or what is a fault of ours; the exit status."""
    from search.disk import trouble

    begun = folder is not None and is_search(folder)
    if said := trouble(error):
        hint = f"; once that is mended: python -m search.run --resume {folder}" if begun else ""
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
    hint = f"; to go on: python -m search.run --resume {folder}" if begun else ""
    print(
        f"lictune: a fault of ours: {public(first[0])} (the whole of it: {folder / 'error.log'}){hint}",
        file=sys.stderr,
    )
    return OWN_ERROR


if __name__ == "__main__":
    sys.exit(main())
