"""Whether what tests.bench.gpu_pack packed works: `python -m tests.bench.gpu_check`.

A model of CompressAI codes an image, Optuna asks and tells and MLflow logs in SQLite, and Ray starts and runs
a task in another process. Prints a line for each, and fails on the first that does not work.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def _version(name: str) -> str:
    return f"{name} {importlib.metadata.version(name)}"


def _process() -> int:
    return os.getpid()


def check_ray() -> str:
    import ray
    import ray.tune

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        other = ray.get(ray.remote(_process).remote())
    finally:
        ray.shutdown()
    assert other != os.getpid()
    return f"{_version('ray')}: a task ran in process {other}"


def check_mlflow(folder: Path) -> str:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.create_run(client.create_experiment("check", str(folder))).info.run_id
    client.log_metric(run, "loss", 0.5)
    assert client.get_run(run).data.metrics == {"loss": 0.5}
    return f"{_version('mlflow')}: logged to SQLite"


def check_optuna(folder: Path) -> str:
    import optuna

    study = optuna.create_study(storage=f"sqlite:///{folder}/study.db")
    study.tell(study.ask({"x": optuna.distributions.FloatDistribution(0, 1)}), 1.0)
    assert study.best_value == 1.0
    return f"{_version('optuna')}: asked and told"


def check_compressai() -> str:
    import torch

    from lic.models.build import build

    model: Any = build("bmshj2018-hyperprior", 8, 12).eval()
    model.update()
    image = torch.rand(1, 3, 64, 64)
    coded = model.compress(image)
    decoded = model.decompress(coded["strings"], coded["shape"])["x_hat"]
    assert decoded.shape == image.shape
    return f"{_version('compressai')}, torch {torch.__version__}: coded an image"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        print(f"Python {sys.version.split()[0]}, {_version('numpy')}, {_version('pandas')}", flush=True)
        print(check_compressai(), flush=True)
        print(check_optuna(Path(folder)), flush=True)
        print(check_mlflow(Path(folder)), flush=True)
        print(check_ray(), flush=True)


if __name__ == "__main__":
    main()
