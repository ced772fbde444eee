"""Variables of the environment by which libraries change what a search starts or writes.

Left to themselves they make a local search join another Ray, write its trials into another run of MLflow, or
train in another precision than its records say. What a user may set is a setting of the search, or named in
the README (MLFLOW_TRACKING_URI, AWS_ENDPOINT_URL, CUDA_VISIBLE_DEVICES, RAY_AUTH_MODE, ...).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, MutableMapping

#: Ray's own, of a local search: addresses, namespaces, hooks, resources, identities. Of those in small
#: letters, which tune its processes, and of where they write and how they are protected, a user's are kept.
_OF_RAY = re.compile(r"RAY_(?!TMPDIR$|AUTH_)[A-Z]\w*|TUNE_\w+")

#: Of every search: the run, experiment or workspace that MLflow would write to; logging that loses what it
#: cannot send; the arithmetic of every matrix product, which `--precision` decides.
_ALWAYS = re.compile(
    r"_?MLFLOW_(RUN_ID|PARENT_RUN_ID|EXPERIMENT_ID|EXPERIMENT_NAME|ACTIVE_MODEL_ID|WORKSPACE|TRACKING_DIR|REGISTRY_DIR"
    r"|ENABLE_ASYNC_LOGGING|TESTING)|TORCH_ALLOW_TF32_CUBLAS_OVERRIDE|NVIDIA_TF32_OVERRIDE"
)

#: Of a server that is started to look at a search: where and how it serves. What names and opens stores is
#: kept.
_OF_SERVERS = re.compile(
    r"_?MLFLOW_(?!(TRACKING|S3|GCS|BOTO|AZURE|ARTIFACT|SQLALCHEMYSTORE|HTTP)_)\w+|GUNICORN_\w+|UVICORN_\w+|FLASK_\w+"
    r"|OPTUNA_\w+|WEB_CONCURRENCY"
)


def _matching(names: Iterable[str], *patterns: re.Pattern[str]) -> list[str]:
    return sorted(name for name in names if any(pattern.fullmatch(name) for pattern in patterns))


def ignore_foreign(environment: MutableMapping[str, str], local: bool) -> list[str]:
    """Take out of the environment what would change what this search starts; the names of what was there.
    `local`: it starts a Ray of its own."""
    found = _matching(environment, _ALWAYS, *([_OF_RAY] if local else []))
    for name in found:
        del environment[name]
    return found


def for_server(environment: MutableMapping[str, str]) -> dict[str, str]:
    """The environment for a server of MLflow or Optuna's dashboard on this machine."""
    foreign = _matching(environment, _OF_SERVERS)
    return {name: value for name, value in environment.items() if name not in foreign}
