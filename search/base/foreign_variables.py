"""Environment variables of libraries that would change what a search starts or writes.

They could make a local search join another Ray cluster, write its trials into another MLflow run, or train in
another precision than recorded. Variables that a user may set (MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL,
CUDA_VISIBLE_DEVICES, RAY_AUTH_MODE, ...) are documented and kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping

#: Removed for a local Ray: addresses, namespaces, hooks, resources, identities. Kept: lower-case variables,
#: which tune Ray's processes, and those for its temporary folder and authentication.
_OF_RAY = re.compile(r"RAY_(?!TMPDIR$|AUTH_)[A-Z]\w*|TUNE_\w+")

#: Removed for every search: MLflow's run, experiment or workspace to write to; asynchronous logging, which
#: can lose data; the precision of matrix products, which `--precision` sets.
_ALWAYS = re.compile(
    r"_?MLFLOW_(RUN_ID|PARENT_RUN_ID|EXPERIMENT_ID|EXPERIMENT_NAME|ACTIVE_MODEL_ID|WORKSPACE|TRACKING_DIR|REGISTRY_DIR"
    r"|ENABLE_ASYNC_LOGGING|TESTING)|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|NVIDIA_TF32_OVERRIDE"
)

#: Removed for the servers that show a search: where and how they serve. Variables that name or open stores
#: are kept.
_OF_SERVERS = re.compile(
    r"_?MLFLOW_(?!(TRACKING|S3|GCS|BOTO|AZURE|ARTIFACT|SQLALCHEMYSTORE|HTTP)_|ARTIFACTS_DESTINATION$)\w+"
    r"|GUNICORN_\w+|UVICORN_\w+|FLASK_\w+|OPTUNA_\w+|WEB_CONCURRENCY"
)


def _matching(names: Iterable[str], *patterns: re.Pattern[str]) -> list[str]:
    return sorted(name for name in names if any(pattern.fullmatch(name) for pattern in patterns))


def ignore_foreign(environment: MutableMapping[str, str], local: bool) -> list[str]:
    """Remove foreign variables from the environment; returns their names. `local`: the search starts its own
    Ray."""
    found = _matching(environment, _ALWAYS, *([_OF_RAY] if local else []))
    for name in found:
        del environment[name]
    return found


def for_server(environment: MutableMapping[str, str]) -> dict[str, str]:
    """The environment for a local MLflow server or Optuna dashboard."""
    foreign = _matching(environment, _OF_SERVERS)
    return {name: value for name, value in environment.items() if name not in foreign}
