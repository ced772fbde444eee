"""The reproduction: what is trained and when, slices that go on, and tables whose truth is known."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lic.cli import INTERRUPTED, USER_ERROR
from lic.data.cache import default_cache
from lic.recipe import LAMBDAS
from lic.training.trial import ImagesConfig, Trial
from search import reproduce
from search.base.limits import Limits
from search.base.space import BASELINE, CONFIRMATION, TRIAL, Candidate, SearchPoint
from search.reproduction import evidence, report, trainings
from search.reproduction.evidence import BEST
from search.reproduction.protocol import Protocol, Record, Records, planned
from search.reproduction.trainings import Parts

IMAGES = 24

PROTOCOL = Protocol(
    model="bmshj2018-hyperprior", width=8, latent_width=8, start="", fraction=0.01, rates=(1, 3, 6),
    strategies=("y", "z"), alphas={"y": [1e-8, 1e-7, 1e-6], "z": [1e-7, 1e-6, 1e-5, 1e-4]},
    refined=1, seeds=3, longer=2,
    training={"epochs": 4, "steps_per_epoch": 10, "batch": 2, "patch": 64, "scale": "reference"},
    val_images=8, val_crop=None, test_set="kodak", fingerprints={},
)  # fmt: skip

#: By how much a point changes the rate, percent: the best of y is 1e-7, refined 3.16e-8; z is inert.
GAINS = {"y": {1e-8: -1.0, 3.16e-8: -4.0, 1e-7: -3.0, 3.16e-7: -1.0, 1e-6: 40.0}, "z": {}}


def made(candidate: Candidate, noise: float = 0.0) -> Record:
    """A training of known truth: a curve of 2 dB a rate, a change of the rate alone, noise of each in the
    rate (percent, a standard deviation), and images that are harder and easier."""
    draw = np.random.default_rng(zlib.crc32(candidate.name.encode()))
    gain = GAINS.get(candidate.strategy_name, {}).get(candidate.alpha, 0.0) + noise * draw.normal()
    rate = 0.2 * 2**candidate.quality * (1 + 0.01 * gain)
    images: dict[str, list[float]] = {}
    for image_set, count in (("val", 8), ("kodak", IMAGES)):
        spread = np.linspace(0.6, 1.4, count)
        psnr = 28 + 2 * candidate.quality - spread
        images |= {
            f"{image_set}/bpp": (rate * spread).tolist(), f"{image_set}/psnr": psnr.tolist(),
            f"{image_set}/mse": (255**2 / 10 ** (psnr / 10)).tolist(),
            f"{image_set}/ms_ssim": (1 - 10 ** (-(8 + candidate.quality - spread) / 10)).tolist(),
        }  # fmt: skip
    seconds = 1.05 if candidate.strategy == "y" else 1.0
    mse = float(np.mean(images["val/mse"]))
    beside = 1.0 if candidate.alpha else 3.0  # other work, during all epochs of the baselines but one
    curve = {
        e: {"bpp": rate * (1 + 0.1 * (4 - e)), "mse": mse, "seconds": seconds * (1 if e == 2 else beside)}
        for e in range(1, 5)
    }
    correlation = {"kodim07": 100 * (0.5 if candidate.strategy == "y" else 1.0), "kodim08": 100.0}
    return Record(
        candidate.name, candidate.role, candidate.point, candidate.seed, steps=40, curve=curve, images=images,
        correlation=correlation, device="cpu",
        covariance={name: value**2 for name, value in correlation.items()},
    )  # fmt: skip


def everything(noise: float = 0.0, protocol: Protocol = PROTOCOL) -> Records:
    records = Records()
    while new := [c for c in planned(protocol, records) if c.name not in records]:
        records = Records([*records.values(), *(made(candidate, noise) for candidate in new)])
    return records


@pytest.fixture(scope="module")
def exact() -> Records:
    return everything()


def test_the_plan_goes_from_the_grid_to_what_is_between_and_to_fresh_seeds(exact: Records) -> None:
    first = planned(PROTOCOL, Records())
    assert [c.role for c in first[:3]] == [BASELINE] * 3 and {c.seed for c in first if c.role == TRIAL} == {0}
    assert not any(c.role == CONFIRMATION for c in first)
    alphas = {r.alpha for r in exact.of(TRIAL) if r.strategy == "y"}
    assert alphas == {1e-8, 3.16e-8, 1e-7, 3.16e-7, 1e-6}
    assert {r.alpha for r in exact.of(TRIAL) if r.strategy == "z"} >= {1e-7, 1e-6, 1e-5, 1e-4}
    confirmed = {
        (r.quality, r.strategy, r.alpha, r.seed) for r in exact.of(CONFIRMATION) if r.strategy == "y"
    }
    assert confirmed == {(q, "y", 3.16e-8, s) for q in (1, 3, 6) for s in (1, 2)}
    assert len(exact.of(BASELINE)) == 9 and {r.quality for r in exact.of("longer")} == {1, 3, 6}


def test_what_the_test_set_would_have_chosen_is_asked_about_last(exact: Records) -> None:
    """Of every rate the best alone: at quality 3 y is better there, too, but z more so."""
    flattered = {"q1-z-1e-06-s0": 0.5, "q3-y-1e-08-s0": 0.9, "q3-z-1e-05-s0": 0.8}
    records = Records([
        dataclasses.replace(r, images=r.images | {
            "kodak/bpp": [flattered.get(r.name, 1.0) * bpp for bpp in r.images["kodak/bpp"]]
        })
        for r in exact.values()
    ])  # fmt: skip
    again = [c.name for c in planned(PROTOCOL, records) if c.role == CONFIRMATION]
    assert again[:-4] == [c.name for c in planned(PROTOCOL, exact) if c.role == CONFIRMATION]
    assert again[-4:] == ["q1-z-1e-06-s1", "q3-z-1e-05-s1", "q1-z-1e-06-s2", "q3-z-1e-05-s2"]


def test_a_training_that_failed_is_neither_tried_again_nor_chosen(exact: Records) -> None:
    best = exact["q1-y-3.16e-08-s0"]
    failed = dataclasses.replace(best, failure="diverged", images={}, curve={}, correlation={})
    records = Records([r if r.name != best.name else failed for r in exact.values()])
    assert failed.name not in {c.name for c in planned(PROTOCOL, records) if c.name not in records}
    assert evidence.chosen(records, PROTOCOL, "val")["y"][1] == SearchPoint(1, "y", 1e-7)


def test_bd_rate_is_that_of_the_chosen_points(exact: Records) -> None:
    table: Any = evidence.verdicts(exact, PROTOCOL).set_index(["strategy", "metric", "seeds"])
    for metric in ("psnr", "ms_ssim"):
        for seeds in ("chosen on", "fresh"):
            assert table.loc[("y", metric, seeds), "bd_rate"] == pytest.approx(-4, abs=0.01)
            assert table.loc[(BEST, metric, seeds), "bd_rate"] == pytest.approx(-4, abs=0.01)
    assert len(table.loc[("y", "psnr", "fresh"), "by_seed"]) == 2
    assert table.loc[("z", "psnr", "fresh"), "bd_rate"] == pytest.approx(0, abs=1e-6)


def test_an_error_that_is_no_curves_is_not_called_a_refusal(
    exact: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> float:
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr(evidence, "bd_quality", broken)
    with pytest.raises(ValueError, match="broadcast"):
        evidence.verdicts(exact, PROTOCOL)


def test_equal_codecs_differ_by_what_was_put_in(exact: Records) -> None:
    """Seed 1 spends 1 % more bits at every rate, seed 2 as many."""
    dearer = [
        dataclasses.replace(r, images=r.images | {"kodak/bpp": [1.01 * bpp for bpp in r.images["kodak/bpp"]]})
        for r in exact.of(BASELINE) if r.seed == 1
    ]  # fmt: skip
    records = Records([*exact.values(), *dearer])
    noise: Any = evidence.seed_noise(records, PROTOCOL).set_index("metric").loc["psnr"]
    assert noise[["s0 to s1", "s0 to s2", "s1 to s2"]].tolist() == pytest.approx([1, 0, 100 / 1.01 - 100])
    assert noise["root mean square"] == pytest.approx((2 / 3) ** 0.5, rel=0.02)
    # A third of the pairs has none of seed 1; of three rates' draws the mean is what counts.
    assert 0.2 < noise["mixed"] < 1
    by_rate = evidence.rate_noise(records, PROTOCOL)
    assert by_rate["kodak s1"].to_numpy() == pytest.approx(1)
    assert by_rate["kodak s2"].to_numpy() == pytest.approx(0)
    one = [bpp * (0.6 if number == 2 else 1) for number, bpp in enumerate(dearer[0].images["kodak/bpp"])]
    odd = dataclasses.replace(dearer[0], images=dearer[0].images | {"kodak/bpp": one})
    by_rate = evidence.rate_noise(Records([*records.values(), odd]), PROTOCOL)
    assert by_rate["one image s1"].tolist() == pytest.approx([60.6 - 100, 1, 1])


def test_what_tuning_on_the_test_set_flatters_by_is_gone_on_fresh_seeds() -> None:
    """Where no point does anything, the best of them still reads below zero where it was chosen."""
    many = dataclasses.replace(PROTOCOL, seeds=13)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(GAINS, "y", {})
        table: Any = evidence.optimism(everything(1.0, many), many).set_index("chosen on")
    assert table.loc["kodak", "same seed"] < -1
    # The mean of 36 trainings against their baselines: a quarter of a percent off.
    assert abs(table.loc["kodak", "fresh seeds"]) < 0.75


def test_times_flatness_and_correlation(exact: Records) -> None:
    times = {row.strategy: row for row in evidence.times(exact)}
    assert times[BASELINE].seconds == pytest.approx(0.1) and times[BASELINE].increase is None
    assert times["y"].increase is not None and times["y"].increase.value == pytest.approx(5.0)
    assert times["z"].increase is not None and times["z"].increase.value == pytest.approx(0.0)
    assert times["y"].distinguishable and not times["z"].distinguishable
    table: Any = evidence.baselines(exact, PROTOCOL).set_index("quality")
    assert table.loc[3, ["seeds", "bpp", "psnr", "psnr sd"]].tolist() == pytest.approx([3, 1.6, 33, 0])
    flat: Any = evidence.flatness(exact, PROTOCOL).set_index("quality")
    assert flat.loc[1, ["at 25%", "at 50%", "at 75%"]].tolist() == pytest.approx([30, 20, 10])
    assert flat.loc[1, "longer, kodak"] == pytest.approx(0)
    table = evidence.response(exact, PROTOCOL)
    ratios = table[table["strategy"] == "y"][["correlation kodim07", "correlation kodim08"]]
    assert ratios.to_numpy() == pytest.approx(np.tile([0.5, 1.0], (len(ratios), 1)))
    assert set(table[table["strategy"] == "y"]["covariance kodim07"]) == {0.25}


def test_intervals_of_the_points_hold_the_truth() -> None:
    table: Any = evidence.points(everything(0.5), PROTOCOL).set_index(["quality", "strategy"])
    row = table.loc[(3, "y")]
    assert row["low"] <= row["fresh"] <= row["high"] and row["seeds"] == 2


def test_records_survive_the_disk_with_the_digits_that_decide(tmp_path: Path, exact: Records) -> None:
    records = Records()
    for record in list(exact.values())[:4]:
        records.add(record, tmp_path)
    assert dict(Records.load(tmp_path)) == dict(records)


def test_tables_and_figures_come_from_the_records_alone(
    tmp_path: Path, exact: Records, capsys: pytest.CaptureFixture[str]
) -> None:
    PROTOCOL.save(tmp_path)
    for record in exact.values():
        exact_line = record.line() + "\n"
        with (tmp_path / "records.jsonl").open("a") as file:
            file.write(exact_line)
    assert reproduce.main(["--state", str(tmp_path), "--tables"]) == 0
    said = capsys.readouterr().out
    assert "y: below zero (-4.00 % [" in said and "z: not different from zero (" in said
    assert "| y | -4.00 % [" in said and "-1.17 %" in said and "+5.32 to +9.97 %" in said
    for reading in ("Pearson", "equation (9)"):
        assert f"kodim07, {reading} (0.51 in the paper)" in said
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {"rd.png", "response.png", "correlation.png"}
    assert said.strip() == (tmp_path / "tables.md").read_text().strip()


def test_a_file_in_parts_is_whole_or_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainings, "PART", 10)
    parts = Parts(tmp_path, "q1-y-1e-07-s0", "pt")
    assert parts.newest() is None
    parts.write(3, b"a" * 25)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) <= 10
    assert parts.newest() == b"a" * 25
    # Killed while it wrote the next one: some of its parts are there.
    (tmp_path / "q1-y-1e-07-s0.e04.0of2.pt").write_bytes(b"b" * 10)
    assert parts.newest() == b"a" * 25
    parts.write(4, b"b" * 15)
    assert parts.newest() == b"b" * 15 and len(list(tmp_path.iterdir())) == 2
    assert Parts(tmp_path, "q1-y-1e-07-s1", "pt").newest() is None


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for name in ("kodim07", "kodim08"):
        rough = draw.integers(0, 255, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(rough).resize((192, 192), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def command(photographs: Path) -> Callable[[Path], list[str]]:
    small = ["--model", "hyperprior", "--width", "8", "--latent-width", "8", "--start", "scratch"]
    short = ["--batch", "2", "--patch", "64", "--val-images", "2", "--fraction", "0.0015", "--at-once", "1"]
    few = ["--rates", "1,6", "--strategies", "y", "--alphas", "1e-6"]
    once = ["--refine", "0", "--seeds", "2", "--longer", "1"]
    options = [*small, *short, *few, *once]
    return lambda state: [*options, "--test", str(photographs), "--state", str(state)]


@pytest.mark.slow
def test_slices_give_what_one_training_gives(
    tmp_path: Path, photographs: Path, command: Callable[[Path], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended in the middle of a training, it goes on to what the training gives by itself."""
    checkpoints = tmp_path / "checkpoints"

    class UntilACheckpoint(Limits):
        def reached(self) -> str:
            self.interrupted |= checkpoints.is_dir() and any(checkpoints.iterdir())
            return super().reached()

    with monkeypatch.context() as patch:
        patch.setattr("search.reproduction.driver.Limits", UntilACheckpoint)
        patch.setattr(trainings, "_LOOK_EVERY", 0.02)  # the whole training takes about a second
        assert reproduce.main(command(tmp_path)) == INTERRUPTED
    assert any(checkpoints.iterdir()) and not Records.load(tmp_path)
    assert reproduce.main(command(tmp_path)) == 0
    protocol, records = Protocol.load(tmp_path), Records.load(tmp_path)
    assert len(records) == 8 and not list(checkpoints.iterdir())
    assert report.load_examples(tmp_path) is not None
    assert (tmp_path / "figures" / "crops.png").is_file()

    record, candidate = next(iter(records.values())), planned(protocol, Records())[0]
    images = ImagesConfig(None, None, str(photographs), None, 2, 256, str(default_cache().resolve()))
    trial = Trial(protocol.trial_config(candidate, images, None, "cpu"))
    while not trial.done:
        trial.run_epoch()
    assert record.name == candidate.name and record.curve.keys() == set(range(1, 11))
    for column, values in trial.readings[-1].images.items():
        assert record.images[column] == pytest.approx(values, rel=1e-6), column
    assert record.correlation.keys() == record.covariance.keys() == {"kodim07", "kodim08"}
    measured = {
        r.role: {epoch for epoch, figures in r.curve.items() if "bpp" in figures} for r in records.values()
    }
    assert measured == {BASELINE: set(range(1, 11)), TRIAL: {10}, CONFIRMATION: {10}}
    assert all("seconds" in figures for r in records.values() for figures in r.curve.values())


def test_what_cannot_be_is_one_sentence(
    tmp_path: Path, command: Callable[[Path], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce.main(["--state", str(tmp_path / "none"), "--tables"]) == USER_ERROR
    assert "is not the state folder of a reproduction" in capsys.readouterr().err
    ended = [*command(tmp_path), "--max-minutes", "0"]
    assert reproduce.main(ended) == 0
    assert "time limit reached" in capsys.readouterr().out
    assert reproduce.main([*ended, "--seeds", "3"]) == USER_ERROR
    assert "was started with seeds 2, not 3" in capsys.readouterr().err
    assert reproduce.main([*ended, "--strategies", "w"]) == USER_ERROR
    assert "unknown strategy 'w'" in capsys.readouterr().err
    (tmp_path / "records.jsonl").write_text("{broken\n")
    assert reproduce.main(ended) == USER_ERROR
    assert "records.jsonl cannot be read" in capsys.readouterr().err


def test_the_longer_baseline_trains_longer() -> None:
    images = ImagesConfig(None, None, "deadleaves", None, 2, None, "")
    candidates = {c.name: c for c in planned(PROTOCOL, Records())}
    configs = [
        PROTOCOL.trial_config(candidates[name], images, None, "cpu")
        for name in ("q3-longer-s0", "q3-baseline-s0")
    ]
    assert [config.training.total_steps for config in configs] == [80, 40]
    assert configs[0].training.lmbda == LAMBDAS[3] and configs[0].training.alpha == 0
