"""The settings of a model of the user's own: how they are written, resolved, recorded and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lic.models.architectures import OwnModel
from search.session.driver import _model, new_folder
from search.session.reuse import _identity
from search.settings.complaints import ConfigError
from search.settings.config import SETTINGS, Resolved, resolve, resolve_again
from search.settings.mappings import mapping
from search.settings.plan import template_of

HERE = "tests.support.own_models"
PATHS = {"y": "transforms.analysis", "z": "hyper.analysis"}
GIVEN: dict[str, Any] = {
    "model": f"{HERE}:MeanScale",
    "model_args": "N=6,M=10",
    "latents": "y=transforms.analysis,z=hyper.analysis",
}


def settled(file: Path | None = None, **given: Any) -> Resolved:
    return resolve({"preset": "tiny", **given}, {}, lambda _: 0, file)


def test_they_reach_the_trials_and_are_recorded(tmp_path: Path) -> None:
    resolved = settled(**GIVEN)
    settings = resolved.settings
    assert (settings.width, settings.latent_width, settings.start) == (10, None, "scratch")
    assert settings.strategies == ("y", "z", "y+z")
    own = OwnModel.of(GIVEN["model"], {"N": 6, "M": 10}, PATHS)
    assert template_of(settings).model == own
    assert _model(settings).startswith(f"{HERE}:MeanScale(M=10, N=6), latents y = transforms.analysis, z = ")
    assert new_folder(settings).name.startswith(f"{HERE}.MeanScale-")
    (tmp_path / SETTINGS).write_text(resolved.report())
    again = resolve_again({"latents": GIVEN["latents"], "budget": "9"}, tmp_path, lambda _: 0).settings
    assert template_of(again).model == own and again.width == 10
    for key, other in (("model_args", "N=6"), ("latents", "y=transforms.analysis")):
        with pytest.raises(ConfigError, match=f"^{key} is .* cannot change on resume"):
            resolve_again({key: other}, tmp_path, lambda _: 0)


def test_they_can_be_mappings_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(
        f"model: {HERE}:MeanScale\nmodel_args: {{N: 6, M: 10}}\nlatents:\n  y: transforms.analysis\n"
    )
    settings = settled(file).settings
    assert settings.network == OwnModel.of(GIVEN["model"], {"N": 6, "M": 10}, {"y": PATHS["y"]})
    assert settings.strategies == ("y",)


def test_the_usual_latents_are_found() -> None:
    settings = settled(model=f"{HERE}:Plain", model_args="channels=5").settings
    assert (settings.latents, settings.strategies, settings.width) == ({"y": "g_a"}, ("y",), 5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("N=96, M=128", {"N": 96, "M": 128}),
        ("rate=1e-3,act=relu,deep=true,name=a=b", {"rate": 1e-3, "act": "relu", "deep": True, "name": "a=b"}),
        ('{"N": 96, "act": "relu", "groups": [1, 2]}', {"N": 96, "act": "relu", "groups": [1, 2]}),
        ("{N: 96, act: relu}", {"N": 96, "act": "relu"}),
        ("", {}),
    ],
)
def test_a_mapping_on_one_line(text: str, expected: dict[str, Any]) -> None:
    assert mapping(text) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"model_args": "N"}, "'N' has no name or no value; separate them by commas, or give"),
        ({"model_args": "N=1,N=2"}, "N is given twice"),
        ({"model_args": "=1"}, "'=1' has no name or no value"),
        ({"model_args": "{N: 1"}, "it is neither JSON nor YAML"),
        ({"model_args": "{[1]}"}, "it is"),
        ({"model_args": '{"N": NaN}'}, "give names and plain values"),
        ({"model_args": "a b=1"}, "give names and plain values"),
        ({"model_args": [1]}, "model_args [1] (command line) cannot be used"),
        ({"latents": "z=hyper.analysis"}, "give y=MODULE or y=MODULE,z=MODULE"),
        ({"latents": "y=a,w=b"}, "give y=MODULE or y=MODULE,z=MODULE"),
        ({"latents": "y=a/b"}, "with the paths of modules"),
        ({"latents": ""}, "has no module g_a; name the modules whose outputs are the latents"),
        ({"latents": "y=analysis"}, "has no module analysis"),
        ({"model_args": "K=1"}, "MeanScale(K=1) cannot be built (TypeError"),
        ({"model": f"{HERE}:Missing"}, "cannot be imported"),
        ({"width": "64"}, f"width does not apply to {HERE}:MeanScale; give its size in --model-args"),
        ({"latents": "y=transforms.analysis", "strategies": "z"}, "strategy 'z' needs the hyper-latent z"),
        ({"start": "starter"}, f"no starter weights for {HERE}:MeanScale; use --start scratch, or a file"),
        ({"model": "cheng"}, "model_args needs a model of your own, --model MODULE:CLASS"),
        ({"model": "my model"}, "unknown model 'my model'; choose from cheng,"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_in_a_sentence(given: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        settled(**{**GIVEN, **given})
    assert expected in str(refused.value) and "\n" not in str(refused.value)


def test_baselines_are_not_reused_after_a_change_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "changing_model.py"
    source.write_text(f"from {HERE} import Plain\nclass Mine(Plain): pass\n")
    monkeypatch.chdir(tmp_path)
    own = OwnModel.of("changing_model:Mine", {}, {"y": "g_a"})
    found = [_identity(own), _identity(OwnModel.of(own.name, {"channels": 9}, {"y": "g_a"}))]
    source.write_text(source.read_text() + "# changed\n")
    found.append(_identity(own))
    assert len({str(identity) for identity in found}) == 3
    assert _identity("cheng") == "cheng"
