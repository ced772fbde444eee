"""Open MLflow on the searches of this machine: `make ui`, or for one search

    python -m dashboards.open results/NAME

Serves the SQLite store of the results folder on 127.0.0.1 and prints links that work in any browser.
"""

from __future__ import annotations

import argparse
import os
import sys
import urllib.parse
from pathlib import Path

from search.tracking import TRIAL_TAG


def link(base: str, experiment: str, test_set: str) -> str:
    """A link to the table of trials of an experiment, best rate change first."""
    query = urllib.parse.urlencode(
        {
            "searchFilter": f"tags.`{TRIAL_TAG}` != ''",
            "orderByKey": f"metrics.`{test_set}/rate_change`",
            "orderByAsc": "true",
        }
    )
    return f"{base}/#/experiments/{experiment}/runs?{query}"


def main(argv: list[str] | None = None) -> int:
    """Print the links and become the MLflow server; returns only on bad input, with its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dashboards.open", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("search", nargs="?", help="a search's folder or name (default: all of --results)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of all searches")
    parser.add_argument("--port", type=int, default=5000)
    args = parser.parse_args(argv)
    folder = Path(args.search) if args.search else args.results
    if args.search and not folder.is_dir():
        folder = args.results / args.search
    database = (folder.parent if args.search else folder) / "mlflow.db"
    if not database.is_file():
        print(
            f"lictune: there is no MLflow store at {database}; run a search first, or name its folder",
            file=sys.stderr,
        )
        return 2
    from mlflow import MlflowClient

    uri, base = f"sqlite:///{database.resolve()}", f"http://127.0.0.1:{args.port}"
    for experiment in MlflowClient(uri).search_experiments():
        if args.search and experiment.name != folder.name:
            continue
        runs = MlflowClient(uri).search_runs(
            [experiment.experiment_id], "tags.`lictune.role` = 'search'", max_results=1
        )
        for run in runs:
            test_set = run.data.tags.get("lictune.test_set", "kodak")
            print(f"{experiment.name}: {link(base, experiment.experiment_id, test_set)}", flush=True)
    server = ["mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    server += ["--port", str(args.port), "--workers", "1"]
    # Its job workers serve evaluations of language models, and outlive the server.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    return os.execv(sys.executable, [sys.executable, "-m", *server])


if __name__ == "__main__":
    sys.exit(main())
