"""Registers the models of a zoo in the MLflow model registry, loadable with mlflow.pyfunc without pickle.

codec = mlflow.pyfunc.load_model("models:/cheng2020-anchor-q3@champion")
coded = codec.predict(pandas.DataFrame({"content": [png_bytes]}))["content"][0]
png = codec.predict(pandas.DataFrame({"content": [coded]}), params={"task": "decode"})["content"][0]
"""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

from lic import zoo
from lic.cli import command
from lic.models.architectures import WEIGHTS
from search.records.folder import OpenedSearch
from search.tracking import registered_codec
from search.tracking.tracker import (
    TrackingError,
    first_line,
    held_runs,
    missing_file,
    tracking_address,
)

ALIAS, DIGEST_TAG = "champion", "lictune.sha256"


def _client(search: OpenedSearch) -> Any:
    from mlflow import MlflowClient

    uri = _address(search)
    return None if missing_file(uri) else MlflowClient(uri)


def _address(search: OpenedSearch) -> str:
    return tracking_address(search.settings.tracking_uri, search.folder.parent)


def run_ids(search: OpenedSearch) -> dict[str, str]:
    """The MLflow run ids of a search's training runs by name; empty if MLflow lacks them or is
    unreachable."""
    try:
        runs = held_runs(_address(search), search.records.name)
    except TrackingError:
        return {}
    return {name: run.info.run_id for name, run in runs.items()}


def register(root: Path, search: OpenedSearch) -> dict[str, str]:
    """Register each tuned model of a zoo as ARCHITECTURE-qN, with its weights as artifacts of the run that
    trained it, and set the alias champion; existing versions are kept. Returns name -> version.

    Raises TrackingError if MLflow cannot be written to, or lacks the runs.
    """
    from mlflow.exceptions import MlflowException

    client, runs, done = _client(search), run_ids(search), {}
    if client is None or not runs:
        raise TrackingError(
            f"MLflow has no runs of the search {search.records.name}; the zoo was written but not registered"
        )
    try:
        for entry in zoo.list_models(root):
            if entry.baseline:
                continue
            if entry.config.trial not in runs:
                complete = command("search.track", search.folder, "--rebuild")
                raise TrackingError(
                    "the zoo was written, but could not be registered (MLflow has no run of "
                    f"{entry.config.trial}); to complete MLflow: {complete}"
                )
            name = f"{entry.config.architecture}-q{entry.config.quality}"
            done[name] = _register(client, name, entry, runs[entry.config.trial])
    except (MlflowException, OSError) as error:
        why = first_line(error)
        raise TrackingError(f"the zoo was written, but could not be registered ({why})") from error
    return done


def _register(client: Any, name: str, entry: zoo.ZooModel, run: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description=f"{entry.config.name}, tuned with a decorrelation loss"
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.tags.get(DIGEST_TAG) == entry.sha256:
            client.set_registered_model_alias(name, ALIAS, known.version)
            return str(known.version)
    folder = f"model-{entry.sha256[:8]}"
    with tempfile.TemporaryDirectory() as work:
        save(entry, Path(work) / folder)
        client.log_artifacts(run, str(Path(work) / folder), folder)
    source = f"{client.get_run(run).info.artifact_uri}/{folder}"
    config = entry.config
    tags = {
        DIGEST_TAG: entry.sha256, "alpha": f"{config.alpha:.3g}", "strategy": config.strategy or "baseline",
        "lambda": f"{config.lmbda:g}",
    }  # fmt: skip
    made = client.create_model_version(name, source, run, tags=tags)
    client.set_registered_model_alias(name, ALIAS, made.version)
    return str(made.version)


def save(entry: zoo.ZooModel, path: Path) -> None:
    """Write a model as an MLflow pyfunc: its code is `search.tracking.registered_codec`, its data are the two
    files of the zoo."""
    import mlflow.pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    content = Schema([ColSpec(DataType.binary, "content")])
    signature = ModelSignature(content, content, ParamSchema([ParamSpec("task", DataType.string, "encode")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # MLflow recommends an input example
        mlflow.pyfunc.save_model(
            path,
            python_model=registered_codec.__file__,
            artifacts={"weights": str(entry.folder / WEIGHTS), "config": str(entry.folder / zoo.CONFIG)},
            signature=signature,
            pip_requirements=["lictune"],
        )
