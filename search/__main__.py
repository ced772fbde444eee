"""The console script: `lictune COMMAND ...` is `python -m search.COMMAND ...` and so on."""

from __future__ import annotations

import importlib
import sys

from lic.cli import run_command

#: For each command, its module and a one-line description.
COMMANDS = {
    "run": ("search.run", "search the best decorrelation weight and strategy per quality"),
    "report": ("dashboards.report", "write the report of a search as one HTML page"),
    "open": ("dashboards.open", "open a search in MLflow, Optuna's dashboard and the report"),
    "export": ("search.export", "export the best model per quality as a model zoo"),
    "track": ("search.track", "compare MLflow with the records of a search, or complete it"),
    "simulate": ("search.simulate", "simulate a search without training"),
    "reproduce": ("search.reproduce", "run the paper's protocol and compare with its tables"),
    "encode": ("lic.codec.__main__", "encode an image with a model of a zoo"),
    "decode": ("lic.codec.__main__", "decode a file written by encode"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: lictune COMMAND [options]\n\ncommands:")
        for command, (_, does) in COMMANDS.items():
            print(f"  {command:<10} {does}")
        print("\nRun 'lictune COMMAND --help' for the options of a command.")
        return 0 if arguments else 2
    if name not in COMMANDS:
        print(f"lictune: unknown command {name!r}; 'lictune --help' lists the commands", file=sys.stderr)
        return 2
    module = COMMANDS[name][0]
    # encode and decode are subcommands of lic.codec.
    rest = arguments if module == "lic.codec.__main__" else arguments[1:]
    sys.argv = [sys.argv[0], *rest]  # a search records its command line
    status: int = importlib.import_module(module).main(rest)
    return status


def run() -> None:
    """The console script."""
    sys.exit(run_command(main))


if __name__ == "__main__":
    run()
