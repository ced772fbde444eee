"""`lictune COMMAND ...`, the same as `python -m search.COMMAND ...` and its like."""

from __future__ import annotations

import importlib
import sys

from lic.cli import run_command

#: By command, the module whose `main` it is, and what it does.
COMMANDS = {
    "run": ("search.run", "search the best decorrelation weight and strategy for every rate"),
    "report": ("dashboards.report", "write a search's report, a single HTML page"),
    "open": ("dashboards.open", "open MLflow and Optuna's dashboard on a search"),
    "export": ("search.export", "export the best model of every rate as a zoo"),
    "track": ("search.track", "write a search's MLflow runs again"),
    "simulate": ("search.simulate", "try the search's decisions on a simulated clock"),
    "reproduce": ("search.reproduce", "train the paper's protocol and compare with its tables"),
    "encode": ("lic.codec.__main__", "code an image with a model of a zoo"),
    "decode": ("lic.codec.__main__", "decode a file of encode"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print("usage: lictune COMMAND [options]\n\ncommands:")
        for command, (_, does) in COMMANDS.items():
            print(f"  {command:<10} {does}")
        print("\n'lictune COMMAND --help' shows the options of one.")
        return 0 if arguments else 2
    if name not in COMMANDS:
        print(f"lictune: there is no command {name!r}; 'lictune --help' lists them", file=sys.stderr)
        return 2
    module = COMMANDS[name][0]
    # The codec has two commands of its own.
    rest = arguments if module == "lic.codec.__main__" else arguments[1:]
    sys.argv = [sys.argv[0], *rest]  # a search records how it was called
    status: int = importlib.import_module(module).main(rest)
    return status


def run() -> None:
    """The console script."""
    sys.exit(run_command(main))


if __name__ == "__main__":
    run()
