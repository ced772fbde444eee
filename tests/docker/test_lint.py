"""The files of the cluster pass the checks of their own kinds; none of them needs a container engine."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_validate import ValidationError, validate

from tests.docker.stack import BIN, DOCKER, PROMETHEUS, ROOT

SCHEMA = json.loads((Path(__file__).parent / "rayjob.schema.json").read_text())
KUBERNETES = "1.34"

SCRIPTS = [*DOCKER.glob("*.sh"), *DOCKER.glob("slurm/*.sbatch")]


def passes(tool: str, *arguments: str | Path) -> None:
    command = [str(BIN / tool), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile() -> None:
    passes("hadolint", "--failure-threshold", "info", DOCKER / "Dockerfile")


def test_the_compose_file() -> None:
    passes("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml")


def test_the_yaml() -> None:
    passes("yamllint", "--strict", DOCKER, PROMETHEUS.parent)


def test_the_scripts() -> None:
    assert len(SCRIPTS) == 4
    passes("shellcheck", *SCRIPTS)


@pytest.fixture
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DOCKER / "kubernetes" / "rayjob.yaml").read_text()))


def test_no_service_adds_variables_to_a_pod(documents: list[dict[str, Any]]) -> None:
    """Of one called lictune-x they would look like settings, and of one called mlflow like MLflow's own."""
    cluster = documents[1]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["enableServiceLinks"] is False


def check(claim: dict[str, Any], job: dict[str, Any]) -> None:
    """Raises ValidationError of either kind."""
    validate(claim, KUBERNETES, strict=True)
    jsonschema.validate(job, SCHEMA)
    cluster = job["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        template = {"apiVersion": "v1", "kind": "PodTemplate", "template": group["template"]}
        validate(template, KUBERNETES, strict=True)


def test_the_kubernetes_objects(documents: list[dict[str, Any]]) -> None:
    check(*documents)


def _head(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["rayClusterSpec"]["headGroupSpec"]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(entryPoint=job["spec"].pop("entrypoint")),
        lambda job: _head(job).update(rayStartParams={"num-cpus": 0}),
        lambda job: _head(job)["template"]["spec"]["containers"][0].update(imagePullpolicy="Always"),
        lambda job: job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
    ],
)
def test_a_mistake_in_the_job_is_found(
    documents: list[dict[str, Any]], spoil: Callable[[dict[str, Any]], object]
) -> None:
    claim, job = copy.deepcopy(documents)
    spoil(job)
    with pytest.raises((ValidationError, jsonschema.ValidationError)):
        check(claim, job)
