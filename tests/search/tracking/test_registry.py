"""Models of a zoo in the registry, over a client that is made up; MLflow's own is in tests/search/zoo."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_ALREADY_EXISTS

from lic.zoo import ModelConfig, ZooModel
from search.tracking import registry
from search.tracking.registry import ALIAS, DIGEST_TAG, register, run_ids
from search.tracking.tracker import TrackingError


@dataclass
class Registry:
    """A client of MLflow's registry."""

    described: dict[str, str] = field(default_factory=dict)
    versions: dict[str, list[SimpleNamespace]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)
    logged: list[tuple[str, str, list[str]]] = field(default_factory=list)

    def create_registered_model(self, name: str, description: str) -> None:
        if name in self.described:
            raise MlflowException("it exists", error_code=RESOURCE_ALREADY_EXISTS)
        self.described[name], self.versions[name] = description, []

    def search_model_versions(self, query: str) -> list[SimpleNamespace]:
        return self.versions[query.removeprefix("name = '").removesuffix("'")]

    def log_artifacts(self, run: str, local: str, folder: str) -> None:
        self.logged.append((run, folder, sorted(path.name for path in Path(local).iterdir())))

    def get_run(self, run: str) -> SimpleNamespace:
        return SimpleNamespace(info=SimpleNamespace(artifact_uri=f"file:///artifacts/{run}"))

    def create_model_version(self, name: str, source: str, run: str, tags: dict[str, str]) -> SimpleNamespace:
        version = len(self.versions[name]) + 1
        made = SimpleNamespace(version=version, source=source, run=run, tags=tags)
        self.versions[name].append(made)
        return made

    def set_registered_model_alias(self, name: str, alias: str, version: int) -> None:
        self.aliases[name, alias] = str(version)


def entry(quality: int, sha256: str = "0123456789ab", alpha: float = 1.234e-7) -> ZooModel:
    config = ModelConfig(
        "cheng2020-anchor", 8, None, quality, 0.0067, alpha, "y+z" if alpha else "", "paper", 0,
        f"trial-00{quality}" if alpha else f"baseline-q{quality}",
    )  # fmt: skip
    return ZooModel(Path("zoo"), sha256, config, baseline=not alpha)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(registry, "_client", lambda _: made)
    monkeypatch.setattr(registry, "run_ids", lambda _: {"trial-001": "run1", "trial-003": "run3"})
    monkeypatch.setattr(registry, "save", lambda _, path: (path.mkdir(), (path / "MLmodel").touch()))
    return made


SEARCH: Any = SimpleNamespace(records=SimpleNamespace(name="mine"), folder=Path("mine"))


def registered(monkeypatch: pytest.MonkeyPatch, *entries: ZooModel) -> dict[str, str]:
    monkeypatch.setattr("search.tracking.registry.zoo.list_models", lambda _: list(entries))
    return register(Path("zoo"), SEARCH)


def test_every_tuned_model_is_the_champion_of_its_name(
    client: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = registered(monkeypatch, entry(1), entry(3), entry(3, "ffff", alpha=0.0))
    names = ["cheng2020-anchor-q1", "cheng2020-anchor-q3"]
    assert done == dict.fromkeys(names, "1") and list(client.described) == names
    assert client.aliases == {(name, ALIAS): "1" for name in names}


def test_a_version_lies_with_the_run_that_trained_it(
    client: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(monkeypatch, entry(3))
    assert client.logged == [("run3", "model-01234567", ["MLmodel"])]
    (made,) = client.versions["cheng2020-anchor-q3"]
    assert (made.source, made.run) == ("file:///artifacts/run3/model-01234567", "run3")
    assert made.tags == {
        DIGEST_TAG: "0123456789ab", "alpha": "1.23e-07", "strategy": "y+z", "lambda": "0.0067"
    }  # fmt: skip


def test_the_same_weights_are_registered_once_and_become_the_champion_again(
    client: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert registered(monkeypatch, entry(3, "a" * 12)) == {"cheng2020-anchor-q3": "1"}
    assert registered(monkeypatch, entry(3, "b" * 12)) == {"cheng2020-anchor-q3": "2"}
    assert client.aliases["cheng2020-anchor-q3", ALIAS] == "2"
    assert registered(monkeypatch, entry(3, "a" * 12)) == {"cheng2020-anchor-q3": "1"}
    assert client.aliases["cheng2020-anchor-q3", ALIAS] == "1"
    assert len(client.versions["cheng2020-anchor-q3"]) == len(client.logged) == 2


def test_another_error_of_the_registry_is_said_in_one_line(
    client: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise MlflowException("the disk\nis full", error_code=INTERNAL_ERROR)

    for method in ("create_registered_model", "create_model_version"):
        with monkeypatch.context() as patch:
            patch.setattr(client, method, failing)
            with pytest.raises(TrackingError, match=r"written, but could not be registered \(the disk\)$"):
                registered(patch, entry(3))


@pytest.mark.usefixtures("client")
def test_a_model_whose_run_mlflow_lacks_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        TrackingError, match=r"\(MLflow has no run of trial-004\); .*search\.track mine --rebuild"
    ):
        registered(monkeypatch, entry(4))


def searched(folder: Path, uri: str | None) -> Any:
    settings = SimpleNamespace(tracking_uri=uri)
    return SimpleNamespace(settings=settings, folder=folder, records=SimpleNamespace(name="mine"))


def test_without_a_store_nothing_is_registered_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    search = searched(tmp_path / "mine", None)
    assert run_ids(search) == {}
    with pytest.raises(TrackingError, match="MLflow has no runs of the search mine; the zoo was written"):
        register(tmp_path / "zoo", search)
    assert list(tmp_path.iterdir()) == []


def test_runs_are_known_by_the_names_of_their_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = {"trial-000": SimpleNamespace(info=SimpleNamespace(run_id="a1"))}
    monkeypatch.setattr(registry, "held_runs", lambda *asked: runs if asked == ("http://m", "mine") else {})
    assert run_ids(searched(tmp_path / "mine", "http://m")) == {"trial-000": "a1"}


def test_an_mlflow_that_cannot_be_reached_has_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any) -> None:
        raise TrackingError("cannot read from MLflow")

    monkeypatch.setattr(registry, "held_runs", unreachable)
    assert run_ids(searched(tmp_path / "mine", "http://m")) == {}
