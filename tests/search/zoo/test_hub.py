"""A zoo as a repository of the Hugging Face Hub, which is not asked: its metadata, and what is pushed."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from lic.zoo import BASELINE, TUNED
from search.records.results import OVERALL, strategy_results
from search.zoo import card, hub
from search.zoo.hub import HubError, open_hub, push
from tests.dashboards.test_injection import HOSTILE, made_of


def metadata_of(text: str, where: Path) -> tuple[str, dict[str, Any]]:
    """A model card of a search in which names are `text`, and its metadata."""
    search = made_of(text)
    chosen = {1: search.records.trials[0], 2: search.records.baselines[2]}
    choices = {quality: card.Choice(record, {}) for quality, record in chosen.items()}
    figures = card.ZooMetrics.of(search, chosen, None, text)
    written = card.readme(search, figures, choices, where, card.About(None, "me/zoo"))
    assert written.startswith("---\n")
    return written, yaml.safe_load(written.split("---\n")[1])


def test_the_metadata_are_those_of_the_hub(tmp_path: Path) -> None:
    text, metadata = metadata_of("s", tmp_path)
    search = made_of("s")
    (whole,) = (r for r in strategy_results(search.records, search.plan.strategies) if r.strategy == OVERALL)
    assert whole.bd_rate_psnr is not None
    assert metadata["library_name"] == "lictune" and metadata["license"] == "other"
    assert "image-compression" in metadata["tags"]
    (model,) = metadata["model-index"]
    (result,) = model["results"]
    assert result["dataset"] == {"type": "s", "name": "s"}
    assert result["metrics"][0] == {
        "type": "bd-rate-psnr",
        "name": "BD-rate (PSNR) in percent, entropy estimates",
        "value": pytest.approx(whole.bd_rate_psnr.value, abs=1e-3),
    }
    assert metadata["metrics"] == [metric["type"] for metric in result["metrics"]]
    assert "hf download me/zoo --local-dir" in text


def test_the_hubs_own_client_reads_the_card(tmp_path: Path) -> None:
    hub_client = pytest.importorskip("huggingface_hub")
    text, metadata = metadata_of("s", tmp_path)
    read = hub_client.ModelCard(text, ignore_metadata_errors=False).data
    assert read.library_name == "lictune" and read.datasets == metadata["datasets"]
    (first, *_) = read.eval_results
    assert (first.metric_type, first.dataset_type) == ("bd-rate-psnr", "s")
    assert first.metric_value == metadata["model-index"][0]["results"][0]["metrics"][0]["value"]


def test_nothing_of_the_names_is_markup_in_the_metadata(tmp_path: Path) -> None:
    _, metadata = metadata_of(HOSTILE, tmp_path)
    assert not set("<>\"'`\n") & set(
        yaml.safe_dump(metadata["datasets"] + metadata["model-index"]).replace("\n", "")
    )


def test_a_verified_zoo_has_the_bd_rate_of_its_bitstreams() -> None:
    search = made_of("s")
    rows = [
        {"quality": q, "role": role, "image": image, "bpp": 0.1 * 2**q * (0.9 if role == TUNED else 1.0),
         "psnr": 28.0 + q + shift, "ms_ssim": 0.9 + 0.01 * q, "height": 256, "width": 256}
        for q in (1, 2, 3, 4) for role in (TUNED, BASELINE) for image, shift in (("a", 0.0), ("b", 0.1))
    ]  # fmt: skip
    metrics = card.ZooMetrics("kodak", pd.DataFrame(rows), pd.DataFrame(rows))
    by_strategy = strategy_results(search.records, search.plan.strategies)
    found = yaml.safe_load(card._front_matter(search, metrics, by_strategy, "photos"))
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pytest.approx(-10.0, abs=0.1)
    assert "real bitstreams" in result["metrics"][0]["name"] and result["dataset"]["type"] == "kodak"


class FakeHub:
    """The Hub's client, as far as a push uses it; it checks its arguments by the real one's signatures."""

    def __init__(self, private: bool = False, fails: bool = False) -> None:
        self._private, self._fails = private, fails
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def _note(self, name: str, *args: Any, **given: Any) -> None:
        client = pytest.importorskip("huggingface_hub").HfApi
        signature = inspect.signature(getattr(client, name))
        self.asked.append((name, dict(list(signature.bind(self, *args, **given).arguments.items())[1:])))

    def create_repo(self, *args: Any, **given: Any) -> str:
        self._note("create_repo", *args, **given)
        return "https://huggingface.co/me/zoo"

    def model_info(self, *args: Any, **given: Any) -> SimpleNamespace:
        self._note("model_info", *args, **given)
        return SimpleNamespace(private=self._private)

    def upload_folder(self, *args: Any, **given: Any) -> None:
        self._note("upload_folder", *args, **given)
        if self._fails:
            raise OSError("no route to host\nand so on")


def test_the_whole_zoo_is_pushed_and_replaces_the_models_of_an_earlier_one(tmp_path: Path) -> None:
    fake = FakeHub()
    assert push(fake, tmp_path, "me/zoo", private=False) == "https://huggingface.co/me/zoo"  # type: ignore[arg-type]
    (made, created), (uploaded, what) = fake.asked
    assert (made, created) == ("create_repo", {"repo_id": "me/zoo", "private": None, "exist_ok": True})
    assert uploaded == "upload_folder" and (what["repo_id"], what["folder_path"]) == ("me/zoo", tmp_path)
    assert what["delete_patterns"] == ["q[1-6]/*", "compressai/*"]


def test_a_zoo_that_is_to_be_private_is_not_pushed_to_a_public_repository(tmp_path: Path) -> None:
    public, private = FakeHub(private=False), FakeHub(private=True)
    with pytest.raises(HubError, match="me/zoo exists and is public; make it private"):
        push(public, tmp_path, "me/zoo", private=True)  # type: ignore[arg-type]
    assert [name for name, _ in public.asked] == ["create_repo", "model_info"]
    push(private, tmp_path, "me/zoo", private=True)  # type: ignore[arg-type]
    assert private.asked[0][1]["private"] is True and private.asked[-1][0] == "upload_folder"


def test_a_push_that_fails_is_one_line_with_the_command_that_repeats_it(tmp_path: Path) -> None:
    with pytest.raises(HubError) as failed:
        push(FakeHub(fails=True), tmp_path / "my zoo", "me/zoo", private=False)  # type: ignore[arg-type]
    told = str(failed.value)
    assert "no route to host" in told and f"hf upload me/zoo '{tmp_path}/my zoo'" in told and "\n" not in told


def test_what_is_missing_is_said_before_anything_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("huggingface_hub")
    user: dict[str, Any] = {"name": "me", "orgs": [{"name": "lab"}]}
    monkeypatch.setattr(client, "HfApi", lambda: SimpleNamespace(whoami=lambda: user))
    monkeypatch.setattr(client, "get_token", lambda: None)
    for name in ("zoo", "me/zoo/more", "me/", "me/zoo now", "me/a--b", "/zoo"):
        with pytest.raises(HubError, match="give OWNER/NAME"):
            open_hub(name)
    with pytest.raises(HubError, match="set HF_TOKEN, or run: hf auth login"):
        open_hub("me/zoo")
    monkeypatch.setattr(client, "get_token", lambda: "hf_token")
    for name in ("me/zoo", "lab/zoo"):
        assert open_hub(name).whoami() is user
    with pytest.raises(HubError, match="your token can push to me, lab, not to them"):
        open_hub("them/zoo")

    def refuse() -> None:
        raise OSError("401 Client Error\nand so on")

    monkeypatch.setattr(client, "HfApi", lambda: SimpleNamespace(whoami=refuse))
    with pytest.raises(
        HubError, match=r"does not accept the token, or does not answer \(401 Client Error and so on\)"
    ):
        open_hub("me/zoo")
    monkeypatch.setattr(hub, "find_spec", lambda _: None)
    with pytest.raises(HubError, match=r"pip install 'lictune\[hub\]'"):
        open_hub("me/zoo")
