"""Settings: precedence, provenance, presets, and one-line errors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lic.models.build import build
from lic.recipe import ON_CPU, ON_GPU, Acceleration, TrainingConfig
from lic.training.weights import save_weights
from search.run import main
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, Resolved, Settings, resolve, resolve_again
from search.settings.plan import plan_of, template_of
from tests.bench.trainings import config_of


def settled(
    command_line: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    gpus: int = 0,
    file: Path | None = None,
) -> Resolved:
    return resolve(command_line or {}, environment or {}, lambda _: gpus, file)


def refused(command_line: dict[str, Any], **others: object) -> str:
    with pytest.raises(ConfigError) as caught:
        settled(command_line, **others)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_later_source_wins_and_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("budget: 10\nlr: 2e-4\nepochs: 12\n")
    resolved = settled(
        {"epochs": "20"}, {"LICTUNE_LR": "3e-4", "LICTUNE_EPOCHS": "15", "HOME": "/"}, file=file
    )
    assert resolved.settings.budget == 10
    assert resolved.settings.lr == pytest.approx(3e-4)
    assert resolved.settings.epochs == 20
    assert resolved.sources["budget"] == str(file)
    assert resolved.sources["lr"] == "environment"
    assert resolved.sources["epochs"] == "command line"
    assert resolved.sources["patch"] == "preset tiny"
    assert resolved.sources["seed"] == "default"


def test_auto_follows_the_machine_and_says_why() -> None:
    small, large = settled(), settled(gpus=2)
    assert (small.settings.preset, large.settings.preset) == ("tiny", "fast")
    assert "no GPU" in small.sources["preset"]
    assert (small.settings.trials_per_gpu, large.settings.trials_per_gpu) == (0, 1)


def test_speed_follows_the_device_and_each_switch_can_be_set() -> None:
    def speed(command_line: dict[str, Any], gpus: int) -> Acceleration:
        given = {"preset": "paper"} | command_line if gpus else command_line
        return template_of(settled(given, gpus=gpus).settings).speed

    assert speed({}, 0) == ON_CPU
    assert speed({"preset": "fast"}, 1) == dataclasses.replace(ON_GPU, precision="bf16")
    assert speed({"preset": "fast"}, 0) == speed({"preset": "fast", "trials_per_gpu": "0"}, 1) == ON_CPU
    assert speed({}, 1) == ON_GPU
    assert speed({"trials_per_gpu": "0"}, 1) == ON_CPU
    changes: tuple[tuple[str, Any], ...] = (
        ("precision", "bf16"),
        ("channels_last", False),
        ("compile", False),
        ("graph", False),
    )
    for key, value in changes:
        assert speed({key: value}, 1) == dataclasses.replace(ON_GPU, **{key: value})
    assert speed({"fused_adam": "no", "precision": "bf16"}, 0) == Acceleration("bf16", fused_adam=False)
    assert "needs a GPU" in refused({"precision": "tf32"})
    assert "--no-compile" in refused({"compile": True})
    assert "--no-channels-last" in refused({"channels_last": True})
    assert "--no-graph" in refused({"graph": True})
    assert "--no-graph" in refused({"graph": True, "fused_adam": False}, gpus=1)
    assert not speed({"fused_adam": False}, 1).graph


@pytest.mark.parametrize(
    ("given", "optimizer", "lr"),
    [
        ({"preset": "paper"}, "adam", 1e-4),
        ({"preset": "paper", "optimizer": "adam"}, "adam", 1e-4),  # which is its own
        ({"preset": "paper", "optimizer": "soap"}, "soap", 3e-3),
        ({"preset": "paper", "optimizer": "soap", "lr": "2e-3"}, "soap", 2e-3),
        ({"preset": "tiny", "model": "cheng"}, "adam", 4e-4),
        ({"preset": "tiny", "model": "hyperprior"}, "muon", 1e-3),
        ({"preset": "tiny", "model": "hyperprior", "start": "scratch"}, "muon", 3e-3),
        ({"preset": "tiny", "model": "hyperprior", "optimizer": "adam"}, "adam", 4e-4),
        ({"preset": "fast", "model": "hyperprior"}, "soap", 3e-3),
        ({"preset": "fast", "model": "cheng"}, "muon", 3e-3),
    ],
)
def test_each_optimizer_has_the_learning_rate_that_suits_it(
    given: dict[str, Any], optimizer: str, lr: float
) -> None:
    settings = settled(given, gpus=1).settings
    assert (settings.optimizer, settings.lr) == (optimizer, pytest.approx(lr))


def test_a_search_of_before_there_was_a_choice_goes_on_with_adam(tmp_path: Path) -> None:
    before = settled({"preset": "tiny", "optimizer": "adam", "lr": "4e-4"})
    kept = [line for line in before.report().splitlines() if not line.startswith("optimizer:")]
    (tmp_path / SETTINGS).write_text("\n".join(kept))
    again = resolve_again({}, tmp_path, lambda _: 0).settings
    assert (again.optimizer, again.lr) == ("adam", pytest.approx(4e-4))


def test_the_cadence_says_what_is_measured_when() -> None:
    given = {"epochs": "9", "preset": "paper", "grace": "1"}
    dense, sparse = (
        template_of(settled({**given, "cadence": word}).settings) for word in ("dense", "sparse")
    )
    assert (dense.val_epochs, dense.test_epochs) == (tuple(range(1, 10)), (1, 3, 9))
    assert (sparse.val_epochs, sparse.test_epochs) == ((1, 3, 9), (9,))
    kodak = template_of(settled({**given, "cadence": "sparse", "select_on": "kodak"}).settings)
    assert (kodak.val_epochs, kodak.test_epochs) == ((), (1, 3, 9))


def test_the_paper_preset_is_the_papers_protocol() -> None:
    settings = settled({"preset": "paper"}).settings
    for key in (
        "optimizer",
        "batch",
        "patch",
        "epochs",
        "steps_per_epoch",
        "lr",
        "aux_lr",
        "clip",
        "decay_at",
        "decay_to",
    ):
        assert getattr(settings, key) == getattr(TrainingConfig(lmbda=1), key), key
    assert (settings.patch, settings.batch, settings.epochs, settings.steps_per_epoch) == (256, 16, 100, 330)
    assert (settings.width, settings.scale, settings.start) == (128, "paper", "scratch")
    assert settings.rates == (1, 2, 3, 4, 5, 6)
    assert settings.strategies == ("y", "z", "y+z")
    assert settings.alpha_min == 1e-8
    assert settings.alpha_max == 1e-5


def test_tiny_keeps_values_per_model_and_starts_from_the_starter() -> None:
    widths = {name: settled({"model": name}).settings.width for name in ("cheng", "hyperprior", "mbt2018")}
    assert widths == {"cheng": 32, "hyperprior": 32, "mbt2018": 32}
    assert settled({"model": "bmshj2018-hyperprior"}).settings.latent_width == 96
    assert settled({"model": "cheng"}).settings.start.endswith("cheng2020-anchor-32.safetensors")
    assert settled({"model": "cheng", "width": "20"}).settings.start == "scratch"


@pytest.mark.parametrize(("model", "preset"), [("cheng", "tiny"), ("hyperprior", "tiny"), ("cheng", "paper")])
def test_benchmarks_train_as_the_presets_say(model: str, preset: str) -> None:
    """They read a preset without the search's own packages; what a step takes is that of Adam."""
    given = {"model": model, "preset": preset, "optimizer": "adam"}
    training, settings = config_of(model, preset), settled(given).settings
    for key in ("batch", "patch", "epochs", "steps_per_epoch", "lr", "scale"):
        assert getattr(training, key) == getattr(settings, key), key


def test_the_report_reads_back() -> None:
    resolved = settled({"model": "hyperprior", "budget": "7", "rates": "1,3-4", "strategies": "y,y+z"})
    assert "# command line" in resolved.report()
    values = yaml.safe_load(resolved.report())
    assert Settings(**values).model_dump(mode="json") == resolved.settings.model_dump(mode="json")
    assert values["rates"] == [1, 3, 4]


@pytest.mark.parametrize(
    ("command_line", "expected"),
    [
        ({"buget": "3"}, "command line: unknown setting 'buget'; did you mean 'budget'?"),
        ({"preset": "tyni"}, "unknown preset 'tyni'; did you mean 'tiny'?"),
        ({"model": "chegn"}, "did you mean 'cheng'?"),
        ({"budget": "0"}, "budget '0' (command line) cannot be used: the nearest valid value is 1"),
        ({"budget": "many"}, "budget 'many' (command line) cannot be used"),
        ({"lr": "nan"}, "lr"),
        ({"sampler": "tep"}, "choose from surrogate, tpe, gp, random, grid; did you mean 'tpe'?"),
        ({"rates": "1-9"}, "choose quality levels from 1 to 6"),
        ({"rates": "one"}, "write quality levels like 1-6 or 1,3,5"),
        ({"lambdas": "0.01;0.02"}, "(command line) cannot be used: write numbers like 0.0018,0.0067"),
        ({"lambdas": "0.02,0.01"}, "give them in ascending order"),
        ({"lambdas": [0.01, -1]}, "every lambda must be above 0"),
        ({"lambdas": "0.01,0.02", "rates": "1-3"}, "rates goes to quality 3, but lambdas has 2 values;"),
        ({"lambdas": "1,2,3,4,5,6,7", "rates": "1-8"}, "choose quality levels from 1 to 7"),
        ({"strategies": "x"}, "unknown strategy 'x'; choose from y, z, y+z"),
        ({"model": "bmshj2018-factorized", "strategies": "z"}, "factorized lacks; use strategy 'y'"),
        ({"alpha_min": "1e-5", "alpha_max": "1e-8"}, "alpha_min 1e-05 must be below alpha_max 1e-08"),
        ({"patch": "100"}, "the nearest are 64 and 128"),
        ({"grace": "9", "epochs": "9"}, "lower --grace or use --no-stopping"),
        ({"fork_at": "1"}, "fork_at '1' (command line) cannot be used: it must be less than 1"),
        ({"fork_at": "0.04", "epochs": "9"}, "fork_at 0.04 of 9 epochs is none of them; choose a fraction"),
        ({"fork_at": "0.95", "epochs": "9"}, "fork_at 0.95 of 9 epochs is all of them; choose a fraction"),
        ({"fork_at": "0.5", "grace": "5", "epochs": "9"}, "no rung in 9 epochs after the fork at 4"),
        ({"kodak": "k", "test": "deadleaves"}, "omit one"),
        ({"select_on": "kodak", "test_images": "3"}, "--select-on kodak needs the whole Kodak set"),
        ({"model": "cheng", "width": "16", "latent_width": "32"}, "has one width; omit latent_width 32"),
        ({"model": "elic2022-official", "latent_width": "4"}, "cannot have 32 channels and 4 latent"),
        ({"start": "weights.bin"}, "no weights at 'weights.bin'"),
        ({"start": "starter", "width": "20"}, "no starter weights for cheng of width 20"),
        ({"trials_per_gpu": "2"}, "there is no GPU; use 0"),
        ({"name": "../out"}, "no '/'"),
    ],
)  # fmt: skip
def test_errors_are_one_line_with_the_fix(command_line: dict[str, Any], expected: str) -> None:
    assert expected in refused(command_line)


def test_a_fork_shifts_the_rungs_and_what_is_measured_there() -> None:
    for fork_at, epoch, levels in (("0", 0, (1, 3)), ("0.33", 3, (4, 6)), ("0.8", 7, (8,)), ("0.9", 8, ())):
        settings = settled({"fork_at": fork_at, "cadence": "dense"}).settings
        plan = plan_of(settings)
        assert (plan.fork, plan.rungs, template_of(settings).test_epochs) == (epoch, levels, (*levels, 9))
    assert plan_of(settled({"fork_at": "0.33", "stopping": False}).settings).rungs == ()


def test_a_fork_cannot_change_when_a_search_goes_on(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("preset: tiny\nfork_at: 0.33\n")
    assert resolve_again({"budget": "5"}, tmp_path, lambda _: 0).settings.fork == 3
    with pytest.raises(ConfigError, match=r"^fork_at is 0\.33 in .* and cannot change on resume"):
        resolve_again({"fork_at": "0.5"}, tmp_path, lambda _: 0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"preset": "paper", "epochs": "4"}, {"epochs": 4, "grace": 3}),
        ({"preset": "paper", "epochs": "1"}, {"epochs": 1, "grace": 4}),  # nothing to stop in
        ({"preset": "paper", "epochs": "12", "fork_at": "0.75"}, {"epochs": 12, "grace": 2}),
        ({"grace": "9"}, {"grace": 9, "epochs": 10}),
        ({"fork_at": "0.04"}, {"epochs": 13}),
        ({"fork_at": "0.95"}, {"epochs": 11}),
        ({"fork_at": "0.5", "grace": "5"}, {"epochs": 12, "grace": 5}),
        ({"alpha_min": "2e-4"}, {"alpha_min": 2e-4, "alpha_max": 0.2}),
        ({"alpha_max": "1e-8"}, {"alpha_min": 1e-11, "alpha_max": 1e-8}),
        ({"latent_width": "24"}, {"model": "cheng", "width": 24, "latent_width": 24}),
        ({"model": "elic2022-official", "width": "4"}, {"width": 4, "latent_width": 8}),
        ({"fused_adam": "no"}, {"graph": False}),
        ({"preset": "paper", "start": "starter"}, {"width": 32}),  # the nearest to 128 that there is
        ({"preset": "paper", "model": "hyperprior", "start": "starter"}, {"width": 32, "latent_width": 96}),
    ],
)
def test_what_nobody_gave_gives_way(given: dict[str, str], expected: dict[str, Any]) -> None:
    named = {f"LICTUNE_{key.upper()}": value for key, value in given.items()}
    for line, variables in ((given, {}), ({}, named)):
        resolved = settled(line, variables)
        values = resolved.settings.model_dump()
        assert {key: values[key] for key in expected} == pytest.approx(expected)
        for key in expected.keys() - given.keys() - {"model"}:
            unchanged = "grace" in expected and expected["grace"] == 4
            assert resolved.sources[key].endswith(" (resolved)") or unchanged, key


def _allowed(key: str) -> list[str]:
    """Values of a setting that are fine by themselves: the smallest, the largest, every one of a choice."""
    schema = Settings.model_json_schema()["properties"][key]
    found: list[str] = []
    for part in (schema, *schema.get("anyOf", [])):
        found += part.get("enum", []) + ([part["const"]] if "const" in part else [])
        low, high = part.get("minimum"), part.get("maximum")
        found += [str(value) for value in (low, high) if value is not None]
        if "exclusiveMaximum" in part:
            high = part["exclusiveMaximum"]
            found += ["0.004", "0.5", "0.97"] if high == 1 else [str(high - 1)]
        if part.get("type") == "boolean":
            found += ["yes", "no"]
    return found


@pytest.mark.parametrize("model", ["cheng", "hyperprior", "bmshj2018-factorized", "elic2022-official"])
@pytest.mark.parametrize("preset", ["paper", "tiny"])
def test_a_single_given_value_is_never_contradicted(model: str, preset: str) -> None:
    """By a default, that is, a preset or what the machine is best at."""
    tried = 0
    for key in Settings.model_fields.keys() - {"model", "preset"}:
        for value in _allowed(key):
            if key == "patch" and int(value) % 64:
                continue
            if key == "latent_width" and model.startswith("elic") and int(value) < 8:
                continue  # it is the model, which was given, that cannot have so few
            gpus = int(value) if key == "gpus_per_trial" else 1
            resolved = settled({"model": model, "preset": preset, key: value}, gpus=gpus)
            assert not resolved.sources[key].endswith("(resolved)") or value == "auto", (key, value)
            tried += 1
    assert tried > 80


@pytest.mark.parametrize("gpus", [0, 1])
def test_what_nobody_gave_is_left_alone_where_it_agrees(gpus: int) -> None:
    """Only what a preset leaves open is worked out."""
    changed = {key for key, source in settled(gpus=gpus).sources.items() if source.endswith("(resolved)")}
    open_keys = {"strategies", "trials_per_gpu", "precision", "channels_last", "compile", "resident_images",
                 "graph", "lr"}  # fmt: skip
    assert changed == (open_keys - {"precision"} if gpus else open_keys | {"start"})


def test_two_given_values_that_disagree_are_refused_wherever_they_are_from(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("grace: 4\n")
    assert "lower --grace" in refused({"epochs": "4"}, file=file)
    assert "lower --grace" in refused({}, environment={"LICTUNE_EPOCHS": "4"}, file=file)


def test_the_width_is_that_of_the_weights_to_begin_with(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    save_weights(build("hyperprior", 8, 12), weights)
    given = {"model": "hyperprior", "preset": "paper", "start": str(weights)}
    for more, widths in (({}, (8, 12)), ({"width": "8"}, (8, 12)), ({"latent_width": "12"}, (8, 12))):
        found = settled({**given, **more}).settings
        assert (found.width, found.latent_width) == widths
    found = settled({**given, "width": "16", "latent_width": "16"}).settings
    assert (found.width, found.latent_width) == (16, 16)  # the weights are compared before the search starts


def test_a_home_folder_is_meant_in_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.safetensors").touch()
    file = tmp_path / "mine.yaml"
    for key in ("data", "kodak", "cache", "results", "warm_start", "storage"):
        file.write_text(f"{key}: ~/x\n")
        for found in (settled({key: "~/x"}), settled(environment={f"LICTUNE_{key.upper()}": "~/x"}),
                      settled(file=file)):  # fmt: skip
            assert getattr(found.settings, key) == f"{tmp_path}/x", key
    assert settled({"test": "~/x"}).settings.test == f"{tmp_path}/x"
    assert settled({"start": "~/w.safetensors", "width": "16"}).settings.start == f"{tmp_path}/w.safetensors"
    assert settled({"results": "./~"}).settings.results == "./~"


def test_a_variable_that_is_no_setting_is_ignored_with_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes sets such ones in every pod beside a service called lictune-x."""
    monkeypatch.setenv("LICTUNE_X_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("LICTUNE_BUGET", "3")
    monkeypatch.setenv("LICTUNE_ZOO", "zoo")
    assert main(["--print-config"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "lictune: ignored environment variable 'LICTUNE_X_SERVICE_HOST': no such setting" in said[0]
    assert said[1].endswith("'LICTUNE_BUGET': no such setting; did you mean 'LICTUNE_BUDGET'?")
    monkeypatch.setenv("LICTUNE_BUDGET", "many")
    assert main(["--print-config"]) == 2
    assert "budget 'many' (environment) cannot be used" in capsys.readouterr().err


def test_seeds_without_a_confirmation_are_said_to_change_nothing() -> None:
    assert settled({"seeds": "5", "confirm": "2"}).ignored == ()
    (sentence,) = settled({"seeds": "5"}).ignored
    assert "seeds 5 has no effect without --confirm" in sentence


def test_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    assert "cannot be read" in refused({}, file=file)
    file.write_text("budget: [1\n")
    assert "not valid YAML" in refused({}, file=file)
    file.write_text("- a\n- b\n")
    assert "lines of the form" in refused({}, file=file)
    file.write_text("bugdet: 3\n")
    assert f"{file}: unknown setting 'bugdet'; did you mean 'budget'?" in refused({}, file=file)


def test_the_command_prints_one_line_and_status_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--buget", "3"]) == 2
    assert (
        capsys.readouterr().err == "lictune: command line: unknown setting 'buget'; did you mean 'budget'?\n"
    )
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "mine.txt").touch()
    assert main(["--results", str(tmp_path), "--name", "old"]) == 2
    assert "choose another --name" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "none"), "--results", str(tmp_path)]) == 2
    assert "there is no image folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]  # nothing was started


def test_weights_that_do_not_fit_are_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    torch.save({"state_dict": build("cheng", 8).state_dict()}, tmp_path / "best.pth.tar")
    (tmp_path / "bad.pth").write_bytes(b"PK no archive")
    given = ["--model", "hyperprior", "--data", "deadleaves", "--test", "deadleaves", "--storage",
             str(tmp_path / "storage"), "--results", str(tmp_path / "results")]  # fmt: skip
    for start, expected in (
        ("best.pth.tar", "they seem to belong to cheng2020-anchor, width 8"),
        ("bad.pth", "is not a readable weights file"),
    ):
        for more in ([], ["--plan"]):
            assert main([*given, *more, "--start", str(tmp_path / start)]) == 2
            shown = capsys.readouterr()
            assert expected in shown.err and shown.err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pth", "best.pth.tar"]


def test_an_earlier_search_that_cannot_be_read_is_named_before_anything_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "settings.yaml").write_text("model: cheng\n")
    (tmp_path / "old" / "study.db").write_bytes(b"no database")
    given = ["--results", str(tmp_path), "--name", "new", "--warm-start", "old", "--data", "deadleaves"]
    assert main([*given, "--test", "deadleaves"]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_as_many_trials_fit_on_a_gpu_as_were_asked_for() -> None:
    for trials in (1, 2, 3, 6, 7, 13):
        share = resolve({"trials_per_gpu": str(trials)}, {}, lambda _: 1).settings.trial_gpus
        assert trials * round(10_000 * share) <= 10_000 < (trials + 1) * round(10_000 * share) + trials + 1


def test_the_address_of_any_source_is_asked_for_its_gpus() -> None:
    asked: list[str | None] = []

    def four(address: str | None) -> int:
        asked.append(address)
        return 4

    resolve({}, {"LICTUNE_ADDRESS": "ray://head:10001"}, four)
    assert set(asked) == {"ray://head:10001"}


def test_an_unreachable_server_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--tracking-uri", "http://me:secret@127.0.0.1:9", "--results", str(tmp_path), "--name", "a"]
    generated = ["--data", "deadleaves", "--test", "deadleaves", "--test-images", "1", "--val-images", "1"]
    assert main([*arguments, *generated]) == 2
    shown = capsys.readouterr()
    assert "cannot write to" in shown.err and "check --tracking-uri" in shown.err
    assert "secret" not in shown.out + shown.err
    assert not (tmp_path / "a").exists()


def test_print_config_shows_values_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-config", "--budget", "5"]) == 0
    shown = capsys.readouterr().out
    assert yaml.safe_load(shown)["budget"] == 5
    assert "# command line" in shown and "# preset tiny" in shown
