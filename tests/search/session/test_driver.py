"""The start of a search, with a cluster, images and an MLflow that are made up; nothing is trained."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from optuna.storages import InMemoryStorage

from lic.data.sets import ImageSet
from search.decide.core import make_studies
from search.engine import cluster
from search.engine.cluster import ClusterError
from search.engine.sharing import Footprint, Sharing
from search.session import driver
from search.session.estimate import Estimate
from search.session.pace import Pace
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, Resolved, Settings, resolve
from search.store.checkpoints import Checkpoints
from search.store.provenance import ENVIRONMENT
from search.tracking.tracker import TrackingError


class Packed:
    """A set of no images."""

    images = ()
    fingerprint = "0123"

    def __len__(self) -> int:
        return 0


class Tracker:
    """An MLflow, which remembers how a search was ended there."""

    ended: list[str]

    def __init__(self, *_: Any) -> None:
        type(self).ended = []

    def close(self, status: str) -> None:
        self.ended.append(status)


class Session:
    """A session that ends at once, and keeps what it was given."""

    given: tuple[Any, ...] = ()

    def __init__(self, *given: Any) -> None:
        type(self).given = given

    def run(self) -> int:
        return 7


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies outside of the driver."""
    sets = tuple(ImageSet(name, Packed(), f"made-up {name}") for name in ("train", "val", "leaves"))  # type: ignore[arg-type]
    monkeypatch.setattr("lic.training.trial.open_images", lambda _: sets)
    monkeypatch.setattr(cluster, "prepare", lambda _: [])
    monkeypatch.setattr(cluster, "gpus", lambda _: 0)
    monkeypatch.setattr(cluster, "connect", lambda *_: None)
    monkeypatch.setattr(driver, "Tracker", Tracker)
    monkeypatch.setattr(driver, "_log_to", lambda _: None)
    monkeypatch.setattr(driver, "keep_lost_output", lambda _: None)
    monkeypatch.setattr("search.session.session.Session", Session)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def settled(results: Path, gpus: int = 0, **given: Any) -> Resolved:
    own = {"model": "hyperprior", "preset": "tiny", "start": "scratch", "workers": "2", "data": "deadleaves"}
    return resolve({**own, "results": str(results), **given}, {}, lambda _: gpus)


def failing(error: Exception) -> Callable[..., None]:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    return fail


def test_a_search_without_a_name_is_called_after_its_model_and_the_moment(tmp_path: Path) -> None:
    folder = driver.new_folder(Settings(results=str(tmp_path)))
    assert folder.parent == tmp_path and re.fullmatch(r"cheng-\d{8}-\d{6}", folder.name)


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    settings = Settings(results=str(tmp_path), name="mine")
    folder = tmp_path / "mine"
    assert driver.new_folder(settings) == folder
    folder.mkdir()
    (folder / ".lock").touch()  # of a search that was killed before it wrote its settings
    assert driver.new_folder(settings) == folder
    (folder / "notes.txt").touch()
    with pytest.raises(ConfigError, match=r"mine exists; choose another --name, resume it with --resume"):
        driver.new_folder(settings)
    with pytest.raises(ConfigError, match="exists"):
        driver.new_folder(Settings(results=str(folder), name="notes.txt"))


def test_a_search_begins_with_its_settings_and_provenance(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    assert driver.search(settled(tmp_path, budget="8", rates="1,3"), folder) == 7
    recorded = yaml.safe_load((folder / SETTINGS).read_text())
    assert (recorded["name"], recorded["budget"], recorded["rates"]) == ("mine", 8, [1, 3])
    assert json.loads((folder / ENVIRONMENT).read_text())["test_set"] == "leaves"
    assert (folder / "tables").is_dir() and Tracker.ended == []
    opened, experiment, resources, tracker, _ = Session.given
    assert (opened.path, experiment.test_set, resources.workers) == (folder, "leaves", 2)
    assert isinstance(tracker, Tracker)
    printed = capsys.readouterr().out
    assert "budget       8 trials and 2 baselines; rungs for early stopping" in printed
    assert "test images  leaves: made-up leaves" in printed
    assert "device       CPU (no GPU found), 2 concurrent trials" in printed


def test_a_search_that_goes_on_keeps_its_provenance_and_takes_the_new_settings(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    driver.search(settled(tmp_path, budget="8"), folder)
    (folder / ENVIRONMENT).write_text('{"test_set": "leaves", "git_commit": "then"}')
    driver.search(settled(tmp_path, budget="16"), folder)
    assert json.loads((folder / ENVIRONMENT).read_text())["git_commit"] == "then"
    assert yaml.safe_load((folder / SETTINGS).read_text())["budget"] == 16


def test_no_password_is_written_or_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    driver.search(settled(tmp_path, tracking_uri="http://me:s3cret@mlflow"), tmp_path / "mine")
    written = "".join(path.read_text() for path in (tmp_path / "mine").iterdir() if path.is_file())
    assert "http://me:***@mlflow" in written
    assert "s3cret" not in written + capsys.readouterr().out


def test_where_ray_does_not_start_a_new_search_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "connect", failing(ClusterError("no cluster")))
    with pytest.raises(ClusterError, match="no cluster"):
        driver.search(settled(tmp_path), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == [] and Tracker.ended == ["FAILED"]


def test_where_mlflow_does_not_answer_a_new_search_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "Tracker", failing(TrackingError("no answer")))
    with pytest.raises(TrackingError, match="no answer"):
        driver.search(settled(tmp_path), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


def test_a_search_that_cannot_go_on_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    driver.search(settled(tmp_path), folder)
    monkeypatch.setattr(cluster, "connect", failing(ClusterError("no cluster")))
    with pytest.raises(ClusterError):
        driver.search(settled(tmp_path), folder)
    assert (folder / SETTINGS).is_file() and Tracker.ended == ["FAILED"]


def test_a_name_that_the_storage_has_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    storage, here = tmp_path / "storage", tmp_path / "results"
    driver.search(settled(tmp_path / "other", storage=str(storage)), tmp_path / "other" / "mine")
    assert Checkpoints(str(storage), "mine").kept(SETTINGS) is not None
    with pytest.raises(ConfigError, match=r"a search exists at .*mine; choose another --name, or resume"):
        driver.search(settled(here, storage=str(storage)), here / "mine")
    assert not here.exists()


def test_a_name_that_the_database_has_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    database = InMemoryStorage()
    make_studies(database, "mine")
    monkeypatch.setattr(driver, "open_storage", lambda _: database)
    settings = Settings(study="postgresql+psycopg://me:s3cret@db/optuna")
    with pytest.raises(ConfigError, match="has a search named mine; choose another --name") as refused:
        driver._check_new(settings, "mine")
    assert "s3cret" not in str(refused.value)
    driver._check_new(settings, "another")


def test_a_selection_on_kodak_needs_kodak(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs the Kodak images, but found made-up leaves; give --kodak"):
        driver.search(settled(tmp_path, select_on="kodak"), tmp_path / "mine")
    assert list(tmp_path.iterdir()) == []


SHARING = Sharing((100.0, 150.0, 160.0), Footprint(2**30, 2**33), 2, "a third is no faster")


def test_the_trials_of_a_gpu_are_measured_before_they_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "gpus", lambda _: 4)
    monkeypatch.setattr("search.engine.sharing.measure_sharing", lambda *_: SHARING)
    driver.search(settled(tmp_path, 4, trials_per_gpu="auto"), tmp_path / "mine")
    (line,) = (s for s in (tmp_path / "mine" / SETTINGS).read_text().splitlines() if "trials_per_gpu" in s)
    assert line.startswith("trials_per_gpu: 2 ") and line.endswith("# command line (measured)")
    printed = capsys.readouterr().out
    assert "device       4 GPU, 2 trials per GPU" in printed and "a third is no faster" in printed


def test_the_nodes_of_a_cluster_are_checked_for_what_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined: list[Any] = []
    checked: list[Any] = []
    monkeypatch.setattr(cluster, "connect", lambda address, *_: joined.append(address))
    monkeypatch.setattr(cluster, "check_nodes", lambda *asked: checked.append(asked))
    (tmp_path / "images").mkdir()
    given = Settings(address="auto", data=str(tmp_path / "images"), kodak="nothing", storage="/kept")
    driver._join_cluster(given, tmp_path / "mine")
    own = Settings(address="auto", data="deadleaves", model="my_models:Mine", regularizer="my_losses:smooth")
    driver._join_cluster(own, tmp_path / "mine")
    assert joined == ["auto", "auto"]
    assert [(str(place), *rest) for place, *rest in checked] == [
        ("/kept", "--storage", [tmp_path / "images"], []),
        (str(tmp_path / "mine"), "--results", [], ["my_models:Mine", "my_losses:smooth"]),
    ]


def test_a_node_without_the_users_module_says_so(tmp_path: Path) -> None:
    place = Checkpoints(str(tmp_path))
    place.write(".probe", ".probe")
    visit = functools.partial(cluster._visit, place, "--results", ".probe", [], version("lictune"))
    assert visit([]) == visit(["tests.support.own_models:Plain"]) == ""
    assert visit(["nowhere:Mine"]) == (
        "reports: module nowhere:Mine cannot be imported: No module named 'nowhere'; install it on every node"
    )


def plan_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, price: float | None, **given: str) -> None:
    monkeypatch.setattr(cluster, "gpus", lambda _: 1)
    monkeypatch.setattr("search.session.estimate.measure", lambda _: Pace(0.25, 2.0, 6.0))
    steps: list[float] = []

    def estimated(_: Any, __: Any, pace: Pace, *___: Any) -> Estimate:
        steps.append(pace.step)
        return Estimate(36.0, 18.0, 54.0, 54, 1.5, 3.0, 0.1)

    monkeypatch.setattr("search.session.estimate.estimate", estimated)
    most = SimpleNamespace(hours=3.0, gpu_hours=5.0)
    monkeypatch.setattr("search.session.estimate.confirmation_at_most", lambda *_: most)
    monkeypatch.setattr("search.engine.sharing.measure_sharing", lambda *_: SHARING)
    assert driver.show_plan(settled(tmp_path, 1, budget="8", epochs="9", **given), price) == 0
    slowdown = SHARING.slowdown if given.get("trials_per_gpu") == "auto" else 1.0
    assert steps == [pytest.approx(0.25 * slowdown)]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_has_time_and_cost_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_of(tmp_path, monkeypatch, 2.5, confirm="1")
    printed = capsys.readouterr().out.splitlines()
    for line in (
        "estimated    36 epochs of trials (50 % of full training; 25 to 75 %, by what there is to gain), "
        "54 epochs of baselines, by simulation; without start-up time",
        "wall time    90 min with 2 concurrent trials",
        "GPU hours    3.00; cost 7.50 at 2.5 per hour",
        "confirming   at most 3 h 00 min more, GPU hours 5.00; cost 12.50 at 2.5 per hour",
    ):
        assert line in printed
    assert any(line.startswith("measured     250.0 ms per step") for line in printed)


def test_a_plan_without_a_price_has_no_cost_and_counts_the_sharing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan_of(tmp_path, monkeypatch, None, trials_per_gpu="auto")
    printed = capsys.readouterr().out
    assert "GPU hours    3.00\n" in printed and "cost" not in printed and "confirming" not in printed


def test_images_that_have_no_ms_ssim_are_refused_where_one_is_needed() -> None:
    def of(name: str, side: int) -> Any:
        return SimpleNamespace(
            name=name, images=SimpleNamespace(images=[SimpleNamespace(name="a.png", height=side, width=300)])
        )

    def refused(validation: int, test: int, **given: str) -> str:
        settings = resolve({"preset": "tiny", **given}, {}, lambda _: 0).settings
        try:
            driver._check_ms_ssim(settings, (of("train", 9), of("val", validation), of("photos", test)))
        except ConfigError as error:
            return str(error)
        return ""

    trained, compared = {"distortion": "ms-ssim"}, {"objective": "bd-rate-msssim"}
    assert refused(150, 150) == refused(161, 150, **compared) == refused(161, 161, **trained) == ""
    assert refused(150, 161, **compared).startswith(
        "MS-SSIM needs images of at least 161 pixels on each side"
    )
    assert "a.png is 300 x 160, so the objective" in refused(160, 200, **trained, objective="bd-rate-psnr")
    assert "has no value on photos; give larger images" in refused(200, 160, **trained)
