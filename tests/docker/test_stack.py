"""The files of the cluster agree with one another and with the program."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from search.session.arguments import add_arguments
from search.session.metrics import GAUGES
from tests.docker.stack import DOCKER, PROMETHEUS, ROOT, option, queries, services, variables

#: Ray's own metrics that the board draws; test_live.py asks a running Ray for all but the GPUs'.
RAY = {
    "ray_node_cpu_count", "ray_node_cpu_utilization", "ray_node_mem_used", "ray_node_mem_total",
    "ray_resources", "ray_node_gpus_utilization", "ray_node_gram_used",
}  # fmt: skip


def test_every_figure_of_the_board_is_one_that_is_exported() -> None:
    drawn = {name for _, _, query in queries() for name in re.findall(r"\bray_\w+", query)}
    assert drawn - RAY == {f"ray_{name}" for name in GAUGES}  # and every gauge is drawn
    assert drawn >= RAY


def test_every_service_that_is_spoken_to_is_there() -> None:
    names = set(services())
    config = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"][0]["http_sd_configs"][0]
    source = yaml.safe_load(
        (ROOT / "dashboards/grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"][0]
    script = (DOCKER / "search.sh").read_text()
    spoken = {
        *re.findall(r"//(?:\w+@)?([\w-]+)[:/]", f"{config['url']} {source['url']} {script}"),
        *re.findall(r"--address=([\w-]+):", script),
        *re.findall(r"--address=([\w-]+):", " ".join(services()["worker"]["command"])),
        *re.findall(r"@([\w-]+)/", option("mlflow", "--backend-store-uri")),
        *re.findall(r"@([\w-]+)/", (DOCKER / "mlflow-users.ini").read_text()),
        *re.findall(r"@([\w-]+)/", services()["optuna-dashboard"]["environment"]["STUDY"]),
    }
    assert spoken == {"head", "mlflow", "postgres", "prometheus"} <= names
    allowed = option("mlflow", "--allowed-hosts").split(",")
    assert "mlflow:5000" in allowed and "*" not in allowed
    assert re.search(r"--tracking-uri http://(\S+)", script).group(1) in allowed  # type: ignore[union-attr]


def test_nothing_is_published_but_to_this_machine() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert len(published) == 5
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in published)


def test_every_node_asks_for_the_token() -> None:
    for name in ("head", "worker", "cpu-worker", "search"):
        service = services()[name]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        path = Path(service["environment"]["RAY_AUTH_TOKEN_PATH"])
        assert path.name in service["secrets"] and service["shm_size"]


def test_the_example_of_the_environment_says_the_defaults() -> None:
    lines = (DOCKER / ".env.example").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert said == variables()


def test_every_secret_is_made_and_read(tmp_path: Path) -> None:
    folder = tmp_path / "docker"
    folder.mkdir()
    for name in ("secrets.sh", "entrypoint.sh"):
        (folder / name).write_bytes((DOCKER / name).read_bytes())
    subprocess.run(["sh", folder / "secrets.sh"], check=True, capture_output=True)
    declared = yaml.safe_load((DOCKER / "compose.yaml").read_text())["secrets"]
    made = {path.name: path.read_text() for path in (folder / "secrets").iterdir()}
    assert made.keys() == declared.keys() and len(set(made.values())) == len(made)
    assert (folder / "secrets").stat().st_mode & 0o777 == 0o700
    subprocess.run(["sh", folder / "secrets.sh"], check=True, capture_output=True)
    assert made["ray_token"] == (folder / "secrets" / "ray_token").read_text()  # never made again

    for service in services().values():
        wanted = {
            key: value for key, value in service.get("environment", {}).items()
            if key.endswith("_FILE") and service["image"] == "lictune"
        }  # fmt: skip
        given = {key: str(folder / "secrets" / Path(value).name) for key, value in wanted.items()}
        shown = subprocess.run(
            ["sh", folder / "entrypoint.sh", "env"], env={"PATH": os.environ["PATH"], **given},
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        for key, value in wanted.items():
            assert Path(value).name in service["secrets"]
            assert f"{key.removesuffix('_FILE')}={made[Path(value).name]}\n" in shown
        assert "_FILE=" not in shown


@pytest.mark.parametrize(
    "path", ["docker/search.sh", "docker/slurm/search.sbatch", "docker/kubernetes/rayjob.yaml",
             "docs/how-to/containers.md", "docs/how-to/slurm.md"]
)  # fmt: skip
def test_every_option_of_the_search_is_one_that_it_has(path: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    known = {option for action in parser._actions for option in action.option_strings} | {"--resume"}
    text = (ROOT / path).read_text()
    called = re.findall(r"(?:search\.run|--rm search|search\.sbatch) ((?:\\\n|\n\s+--|[^\n])*)", text)
    used = {option for call in called for option in re.findall(r"(?<![\w-])--[a-z-]+", call)}
    assert used and used <= known, used - known


def test_the_images_of_the_stack_are_pinned() -> None:
    base = re.search(r"^FROM (\S+)", (DOCKER / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    images = {service["image"] for service in services().values()} - {"lictune"} | {base.group(1)}
    assert len(images) == 4
    assert all(re.search(r":v?\d+\.\d+", image) for image in images)


def test_uv_and_ray_are_of_one_version_everywhere() -> None:
    def version(path: str, pattern: str) -> str:
        found = re.search(pattern, (ROOT / path).read_text(), re.MULTILINE)
        assert found is not None, path
        return found.group(1)

    assert version("docker/Dockerfile", r"uv==(\S+)") == version("Makefile", r"uv==(\S+)")
    ray = version("requirements.lock", r"^ray(?:\[[\w,]+\])?==(\S+)")
    assert version("docker/kubernetes/rayjob.yaml", r'rayVersion: "(\S+)"') == ray
