from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import lic.zoo
from lic.codec.bitstream import encode
from lic.codec.verification import VerificationError, verify
from lic.data.deadleaves import pack_dead_leaves
from lic.data.images import ImageError, read_rgb
from lic.data.sets import test_set as search_test_set
from lic.models.architectures import WEIGHTS
from lic.training.trainer import read_checkpoint
from search import export
from search.decide.belief import Prediction
from search.records.folder import OpenedSearch, last_checkpoint, open_search
from search.records.results import best_per_rate
from search.records.search_records import SearchRecords
from search.settings.config import Settings
from search.settings.plan import plan_of
from search.tracking.tracker import TRIAL_TAG
from search.zoo import exporting

NAME = "bmshj2018-hyperprior"
Real = tuple[Path, subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """Two pictures whose sides are multiples of 64, and one whose are not."""
    folder = tmp_path_factory.mktemp("images") / "leaves"
    folder.mkdir()
    leaves = pack_dead_leaves(700, 3, cache)
    for number, crop in enumerate(((256, 384), (256, 256), (200, 300))):
        Image.fromarray(leaves[number][: crop[0], : crop[1]]).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def exported(real: Real, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo of the real search at two rates, verified and registered."""
    results, _ = real
    out = tmp_path_factory.mktemp("out")
    wanted = ["--rates", "1,6", "--verify", "--images", str(images), "--with-baseline", "--register"]
    assert export.main(["real", "--results", str(results), "--out", str(out), *wanted]) == 0
    return out / NAME


def files_of(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def test_the_manifest_lists_every_file_and_tells_what_each_model_is(real: Real, exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    on_disk = files_of(exported)
    del on_disk["manifest.json"]
    assert {name: file["sha256"] for name, file in manifest["files"].items()} == on_disk
    records = open_search("real", real[0]).records
    for quality, record in best_per_rate(records).items():
        if quality not in (1, 6):
            continue
        entry = manifest["files"][f"q{quality}/model.safetensors"]
        for key, value in (("trial", record.name), ("alpha", record.alpha), ("lmbda", record.lmbda)):
            assert entry[key] == value
        assert entry["width"] == 32 and entry["latent_width"] == 96 and entry["scale"] == "reference"
        assert entry["mlflow_run"] and entry["figures"]["image_set"] == "leaves"
    assert manifest["complete"] and manifest["verified"] and manifest["search"] == "real"
    assert len(manifest["trained"]["git_commit"]) >= 40


def test_a_loaded_model_has_the_checkpoints_weights(real: Real, exported: Path) -> None:
    search = open_search("real", real[0])
    for quality in (1, 6):
        record = best_per_rate(search.records)[quality]
        trained = read_checkpoint(Path(last_checkpoint(search, record.name).path))["model"]
        model = lic.zoo.load(exported, quality)
        assert not model.training
        for key, value in model.state_dict().items():
            if not key.endswith(("_quantized_cdf", "_offset", "_cdf_length", "scale_table")):
                assert np.array_equal(value, trained[key]), key


@pytest.mark.parametrize("estimation", [False, True])
def test_compressais_own_tool_measures_what_the_manifest_says(
    exported: Path, images: Path, tmp_path: Path, estimation: bool
) -> None:
    whole = tmp_path / "images"  # of sides that its entropy estimation can take: it does not pad
    whole.mkdir()
    for name in ("0.png", "1.png") if estimation else ("0.png", "1.png", "2.png"):
        shutil.copy(images / name, whole)
    checkpoints = sorted(map(str, (exported / "compressai").glob("*.pth.tar")))
    assert [Path(path).name[: len(NAME) + 2] for path in checkpoints] == [f"{NAME}-1", f"{NAME}-6"]
    command = [
        sys.executable,
        "-m",
        "compressai.utils.eval_model",
        "checkpoint",
        str(whole),
        "-a",
        NAME,
        "-p",
    ]
    command += checkpoints + (["--entropy-estimation"] if estimation else [])
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    theirs = json.loads(done.stdout[done.stdout.index("{") :])["results"]
    table = pd.read_csv(exported / "verification.csv")
    prefix = "estimated_" if estimation else ""
    manifest = json.loads((exported / "manifest.json").read_text())
    for place, quality in enumerate((1, 6)):
        rows = table[(table["quality"] == quality) & (table["role"] == "tuned")]
        rows = rows[rows["image"].isin(path.name for path in whole.iterdir())]
        figures = manifest["files"][f"q{quality}/model.safetensors"]["figures"]
        for key, column in (("bpp", "bpp"), ("psnr-rgb", "psnr")):
            assert theirs[key][place] == pytest.approx(rows[prefix + column].mean(), abs=5e-5)
            if not estimation:
                assert theirs[key][place] == pytest.approx(figures[column], abs=5e-5)


def test_compressais_own_plot_draws_the_results(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "rd.png"
    command = [sys.executable, "-m", "compressai.utils.plot", "--output", str(target), "-f"]
    command += [str(exported / name) for name in ("results.json", "results-baseline.json")]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "MPLBACKEND": "Agg"})
    assert target.stat().st_size > 5000
    document = json.loads((exported / "results.json").read_text())
    assert set(document) == {"name", "description", "results"}
    assert {"bpp", "psnr-rgb", "ms-ssim-rgb", "encoding_time", "decoding_time"} == set(document["results"])
    assert all(len(values) == 2 for values in document["results"].values())


def test_mlflow_loads_each_rate_without_pickle(
    real: Real, exported: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    from mlflow import MlflowClient

    uri = f"sqlite:///{real[0]}/mlflow.db"
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias(f"{NAME}-q1", "champion")
    assert version.run_id is not None
    run = client.get_run(version.run_id)
    config = json.loads((exported / "q1" / "config.json").read_text())
    assert run.data.tags[TRIAL_TAG] == config["trial"]
    assert run.info.status == "FINISHED"
    # Not mlflow.set_tracking_uri: it sets the environment for good, and later searches follow that.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", uri)
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{NAME}-q1@champion"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pth", ".pt", ".tar")]
    codec = mlflow.pyfunc.load_model(f"models:/{NAME}-q1@champion")
    assert codec.metadata.signature.inputs.input_names() == ["content"]
    png = (images / "2.png").read_bytes()
    coded = codec.predict(pd.DataFrame({"content": [png]}))["content"][0]
    back = codec.predict(pd.DataFrame({"content": [coded]}), params={"task": "decode"})["content"][0]
    (images.parent / "back.png").write_bytes(back)
    expected = encode(lic.zoo.load(exported, 1), read_rgb(images / "2.png")).reconstruction
    assert np.array_equal(read_rgb(images.parent / "back.png"), expected)


def test_the_same_search_gives_the_same_bytes(real: Real, tmp_path: Path) -> None:
    for name in ("one", "two"):
        arguments = ["real", "--results", str(real[0]), "--out", str(tmp_path / name), "--rates", "2"]
        assert export.main(arguments) == 0
    assert files_of(tmp_path / "one") == files_of(tmp_path / "two")
    card = (tmp_path / "one" / NAME / "README.md").read_text()
    assert "**Not verified**" in card and "lic.zoo.load" in card


def test_a_zoo_is_not_overwritten_unless_told(
    real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["real", "--results", str(real[0]), "--out", str(tmp_path), "--rates", "2"]
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "precious.txt").write_text("mine")
    assert export.main(arguments) == 2
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert export.main([*arguments, "--overwrite"]) == 2
    assert "is not a zoo" in capsys.readouterr().err
    assert (tmp_path / NAME / "precious.txt").read_text() == "mine"
    shutil.rmtree(tmp_path / NAME)
    assert export.main(arguments) == export.main([*arguments, "--overwrite"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]


def test_a_killed_export_leaves_no_half_zoo(real: Real, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "search.export", "real", "--results", str(real[0])]
    command += ["--out", str(tmp_path), "--rates", "1,2"]
    for _ in range(2):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while running.poll() is None and not list(tmp_path.glob(".*.partial/zoo/q1/*")):
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert not (tmp_path / NAME).exists()
    assert export.main(command[3:]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME]
    assert len(lic.zoo.list_models(tmp_path / NAME)) == 2


@pytest.fixture
def copy(real: Real, tmp_path: Path) -> Path:
    """The real search in a results folder of its own."""
    shutil.copytree(real[0] / "real", tmp_path / "results" / "real")
    return tmp_path / "results"


def test_a_corrupt_checkpoint_is_skipped_by_name(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So short a search is sure of nothing, and may find nothing.
    monkeypatch.setattr(Prediction, "is_probable", True)
    monkeypatch.setattr(SearchRecords, "best", lambda _records, rivals: next(iter(rivals), None))
    search = open_search("real", copy)
    quality, record = next((q, r) for q, r in best_per_rate(search.records).items() if r.alpha)
    checkpoint = Path(last_checkpoint(search, record.name).path)
    arguments = ["real", "--results", str(copy), "--out", str(tmp_path / "zoo"), "--rates", str(quality)]

    (copy / "real" / "best" / f"q{quality}.pt").write_bytes(checkpoint.read_bytes())
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    assert export.main(arguments) == 0  # the copy in best/ serves
    assert f"quality {quality}: {record.name}" in capsys.readouterr().out

    (copy / "real" / "best" / f"q{quality}.pt").unlink()
    assert export.main([*arguments, "--overwrite"]) == 0
    assert f"skipped {record.name}: " in capsys.readouterr().out
    card = (tmp_path / "zoo" / NAME / "README.md").read_text()
    assert f"Quality {quality}: skipped {record.name}" in card

    for trial in (copy / "real" / "trials").iterdir():
        shutil.rmtree(trial) if trial.is_dir() else trial.unlink()
    before = files_of(tmp_path / "zoo")
    assert export.main([*arguments, "--overwrite"]) == 2
    assert f"quality {quality} has no readable checkpoint" in capsys.readouterr().err
    assert files_of(tmp_path / "zoo") == before


@pytest.mark.parametrize("probable", [True, False])
def test_a_doubtful_gain_is_not_exported(real: Real, monkeypatch: pytest.MonkeyPatch, probable: bool) -> None:
    """Nor does the search's own table select it."""
    monkeypatch.setattr(Prediction, "is_probable", probable)
    monkeypatch.setattr(SearchRecords, "best", lambda _records, rivals: next(iter(rivals), None))
    search = open_search("real", real[0])
    chosen = {quality: choice.record for quality, choice in exporting.choose(search).items()}
    assert chosen == best_per_rate(search.records)
    assert any(record.alpha for record in chosen.values()) == probable


def test_a_search_that_was_broken_off_is_exported_as_best_so_far(copy: Path, tmp_path: Path) -> None:
    settings = copy / "real" / "settings.yaml"
    settings.write_text(settings.read_text().replace("budget: 8 ", "budget: 99 "))
    assert not open_search("real", copy).complete
    assert export.main(["real", "--results", str(copy), "--out", str(tmp_path / "zoo"), "--rates", "1"]) == 0
    assert "**Unfinished search**: 8 of 99" in (tmp_path / "zoo" / NAME / "README.md").read_text()


def test_a_disk_that_takes_no_more_is_named(real: Real, tmp_path: Path) -> None:
    limit = (500_000, 500_000)  # no file of this process may be larger: writing fails as on a full disk
    done = subprocess.run(
        [sys.executable, "-m", "search.export", "real", "--results", str(real[0]), "--out", str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "cannot write" in done.stderr and "File too large" in done.stderr
    assert not list(tmp_path.iterdir())


def test_tables_that_do_not_fit_fail_the_verification(exported: Path, images: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    entry = next(model for model in lic.zoo.list_models(exported) if not model.baseline)
    weights = load_file(entry.folder / WEIGHTS)
    cdf = weights["gaussian_conditional._quantized_cdf"]
    weights["gaussian_conditional._quantized_cdf"] = cdf.roll(20, 0)
    weights["gaussian_conditional._cdf_length"] = weights["gaussian_conditional._cdf_length"].roll(20)
    weights["gaussian_conditional._offset"] = weights["gaussian_conditional._offset"].roll(20)
    save_file(weights, tmp_path / WEIGHTS)
    digest = hashlib.sha256((tmp_path / WEIGHTS).read_bytes()).hexdigest()
    broken = lic.zoo.ZooModel(tmp_path, digest, entry.config, False)
    with pytest.raises(VerificationError, match=r"0\.png.*tables do not fit"):
        verify([broken], [images / "0.png"], 1)


def searched_on(name: str, **settings: Any) -> OpenedSearch:
    """A search that recorded this name of its test images."""
    found: Any = SimpleNamespace(test_set=name)
    return OpenedSearch(Path(), Settings(**settings), plan_of(Settings(**settings)), found, {})


def test_images_to_verify_on_are_called_what_they_are(
    tmp_path: Path, kodak_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kodak = sorted(kodak_folder.resolve().glob("*.png"))
    assert exporting._images(kodak_folder.resolve(), searched_on("deadleaves")) == ("kodak", kodak)
    for test in ("auto", "deadleaves"):  # a given Kodak folder is what the search was tested on
        searched = searched_on("kodak", test=test, kodak=str(kodak_folder))
        assert exporting._images(None, searched) == ("kodak", kodak)
    assert capsys.readouterr().out.count("verifying on 24 Kodak images of") == 2
    first = searched_on("kodak_first2", kodak=str(kodak_folder), test_images=2)
    assert exporting._images(None, first) == ("kodak_first2", kodak[:2])
    for name, called in (("kodak", "folder_kodak"), ("Équipe", "équipe")):
        folder = tmp_path / name
        (folder / ".hidden").mkdir(parents=True)
        for path in (folder / "a.png", folder / ".hidden" / "b.png"):
            Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(path)
        assert exporting._images(folder, searched_on("deadleaves")) == (called, [folder / "a.png"])
        assert "ignored: 1 hidden (.hidden/b.png)" in capsys.readouterr().out
        assert exporting._images(None, searched_on(called, test=str(folder))) == (called, [folder / "a.png"])


@pytest.mark.parametrize("test", ["auto", "deadleaves"])
def test_without_kodak_a_model_is_verified_on_what_its_search_was_tested_on(
    test: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even if Kodak can be had by now."""

    def away(_cache: Path) -> Path:
        raise ImageError("cannot download Kodak")

    monkeypatch.setattr("lic.data.sets._TEST_LEAVES", 2)
    with monkeypatch.context() as offline:
        offline.setattr("lic.data.sets.fetch_kodak", away)
        tested = search_test_set(None, test, None, tmp_path)
    name, files = exporting._images(None, searched_on(tested.name, test=test, cache=str(tmp_path)))
    assert name == tested.name == "deadleaves" and len(files) == len(tested.images) == 2
    for number, path in enumerate(files):
        assert np.array_equal(np.asarray(Image.open(path)), tested.images[number])
    assert capsys.readouterr().out == "verifying on 2 generated dead leaves images\n"


def test_a_zoo_is_pushed_once_it_is_written(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[object] = []

    def open_hub(repo: str) -> str:
        asked.append(repo)
        return "hub"

    def push(hub: str, root: Path, repo: str, private: bool) -> str:
        assert "hf download me/zoo --local-dir" in (root / "README.md").read_text()
        asked.append((hub, root, repo, private))
        return "https://hub/me/zoo"

    monkeypatch.setattr(exporting, "open_hub", open_hub)
    monkeypatch.setattr(exporting, "push", push)
    arguments = ["real", "--results", str(real[0]), "--out", str(tmp_path), "--rates", "2"]
    assert export.main([*arguments, "--push-to-hub", "me/zoo", "--private"]) == 0
    assert asked == ["me/zoo", ("hub", tmp_path / NAME, "me/zoo", True)]
    assert "pushed to https://hub/me/zoo" in capsys.readouterr().out


def test_a_renamed_folder_is_still_the_search(copy: Path) -> None:
    (copy / "real").rename(copy / "other")
    before = (copy / "other" / "study.db").read_bytes()
    search = open_search("other", copy)
    assert search.records.name == "real" and len(search.records.trials) == 8
    assert (copy / "other" / "study.db").read_bytes() == before


def test_what_is_not_there_is_said(real: Real, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--results", str(real[0]), "--out", str(tmp_path)]
    for arguments, said in (
        (["nothing"], "there is no search 'nothing'"),
        (["real", "--rates", "9"], "quality 9 has no baseline"),
        (["real", "--format", "onnx"], "--format onnx"),
        (["real", "--verify", "--images", str(tmp_path / "none")], "there is no image folder"),
        (["real", "--private"], "--private has no effect without --push-to-hub"),
    ):
        assert export.main([*arguments, *common]) == 2
        assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
