"""Two thousand damaged or forged checkpoints, search folders, zoos and coded files: each is refused by the
error that is documented, or gives what was written."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lic import zoo
from lic.codec.bitstream import BitstreamError, decode, encode, pack, unpack
from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.models.build import build
from lic.recipe import LAMBDAS, TrainingConfig
from lic.training.trainer import CheckpointError, Trainer, read_checkpoint
from lic.zoo import MANIFEST, WEIGHTS, ModelConfig, ZooError
from search.decide.core import Core
from search.records.folder import OpenedSearch, open_search
from search.settings.config import SETTINGS, resolve
from search.settings.plan import plan_of
from search.store.find import STUDY, FolderError, find_folder, is_search
from search.store.provenance import ENVIRONMENT
from search.store.storage import sqlite_address
from tests.support.mutation import at_most, mutated

pytestmark = pytest.mark.slow

CHECKPOINTS, FORGED_CHECKPOINTS = 700, 150
SETTINGS_FILES, DATABASES, FORGED_TRIALS = 120, 80, 50
MANIFESTS, FORGED_WEIGHTS, CODED, FORGED_CODED = 240, 80, 700, 100

CONFIG = TrainingConfig(
    lmbda=0.0067, alpha=1e-7, strategy="y", batch=2, patch=64, epochs=2, steps_per_epoch=1
)

#: What a forger puts where something else was; JSON can hold all of it but the bytes.
WRONG: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**63, 2**200, 1e308, math.nan, math.inf, -math.inf, "", "x",
    "../../etc/passwd", "/etc/passwd", "a\0b", "x" * 5000, [], [1], {}, {"a": 1}, [[[[]]]], 0.5, "0",
]  # fmt: skip


def replaced(document: Any, draw: np.random.Generator) -> Any:
    """The document with one of its values, keys or items, at any depth, gone or forged."""
    document = copy.deepcopy(document)
    place, parents = document, []
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = keys[int(draw.integers(len(keys)))]
        parents.append((place, key))
        place = place[key]
        if draw.random() < 0.2:
            break
    parent, key = parents[-1]
    kind = draw.random()
    if kind < 0.2:
        del parent[key]
    elif kind < 0.35 and isinstance(parent, dict):
        parent[WRONG[int(draw.integers(12, 19))] or "-"] = parent.pop(key)
    else:
        parent[key] = WRONG[int(draw.integers(len(WRONG)))]
    return document


def said(error: Exception) -> str:
    """The error's message, which is one short line."""
    message = str(error)
    assert "\n" not in message and 10 < len(message) < 1200, message[:1500]
    return message


# Checkpoints


def trainer(leaves: PackedImages, config: TrainingConfig = CONFIG) -> Trainer:
    return Trainer(
        build("hyperprior", 8), config, RandomCrops(leaves, config.patch, config.batch, config.seed)
    )


def same(one: Any, other: Any) -> bool:
    """Whether two states, nested and with tensors in them, are equal to the last bit and in their types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.fixture(scope="module")
def checkpoint(leaves: PackedImages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint after an epoch."""
    run, path = trainer(leaves), tmp_path_factory.mktemp("checkpoint") / "state.pt"
    run.run_epoch()
    run.save(path)
    return path


def test_mutated_checkpoints_are_refused_or_unchanged(checkpoint: Path, tmp_path: Path) -> None:
    content, sound = checkpoint.read_bytes(), read_checkpoint(checkpoint)
    path, refused = tmp_path / "state.pt", 0
    for seed in range(CHECKPOINTS):
        path.write_bytes(mutated(content, seed, [content, b"junk" * 50, bytes(5000)]))
        with at_most(10):
            try:
                state = read_checkpoint(path)
            except CheckpointError as error:
                refused += 1
                assert path.name in str(error)
                continue
        assert same(state, sound), seed
    assert refused > CHECKPOINTS // 2


def test_forged_checkpoints_change_nothing_but_the_error(
    checkpoint: Path, leaves: PackedImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a checkpoint holds that can be read: no other error, and no step that cannot be."""
    sound, run, ends = read_checkpoint(checkpoint), trainer(leaves), Counter[str]()
    wrong = [*WRONG[:9], "x", {}, [], torch.zeros(3), torch.zeros(0), torch.zeros(2, 2, dtype=torch.int8)]
    for seed in range(FORGED_CHECKPOINTS):
        draw = np.random.default_rng(seed)
        state = replaced(sound, draw)
        if seed % 2:
            key = ("config", "step", "model", "optimiser", "aux_optimiser")[seed // 2 % 5]
            state = {**sound, key: wrong[int(draw.integers(len(wrong)))]}
        if not {"config", "step", "model", "optimiser"} <= state.keys():
            continue  # which read_checkpoint refuses
        monkeypatch.setattr("lic.training.trainer.read_checkpoint", lambda _, state=state: state)
        try:
            run.load(checkpoint)
            ends["loaded"] += 1
        except CheckpointError:
            ends["refused"] += 1
        assert type(run.step) is int and 0 <= run.step <= CONFIG.total_steps
    assert ends["refused"] > FORGED_CHECKPOINTS // 2, ends
    monkeypatch.setattr("lic.training.trainer.read_checkpoint", lambda _: sound)
    run.load(checkpoint)
    assert run.step == 1 and math.isfinite(run.run_epoch()["loss"])


# The folder of a search


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small search, its trials made up: two rates, one baseline each, four trials."""
    folder = tmp_path_factory.mktemp("results") / "mine"
    folder.mkdir()
    settings = {"model": "hyperprior", "rates": "1,3", "budget": "4", "epochs": "2", "stopping": "no"}
    resolved = resolve({**settings, "name": "mine"}, {}, lambda _: 0)
    (folder / SETTINGS).write_text(resolved.report() + "\n")
    (folder / ENVIRONMENT).write_text(json.dumps({"git_commit": "f" * 40, "test_set": "leaves"}, indent=2))
    core = Core(sqlite_address(folder / STUDY), "mine", plan_of(resolved.settings))
    while (candidate := core.suggest()) is not None:
        for epoch in (1, 2):
            names = (
                f"{where}/{what}" for where in ("val", "leaves") for what in ("bpp", "mse", "psnr", "ms_ssim")
            )
            figures = dict.fromkeys(names, 0.5 + candidate.alpha * 1e5 / epoch)
            core.observe(
                candidate.name, epoch, figures, {name: [value] * 2 for name, value in figures.items()}
            )
            core.decide(candidate.name, epoch)
    return folder


def assert_true(found: OpenedSearch) -> None:
    """What is read of a search can be the case: figures are finite, rates exist, names stay in place."""
    for record in found.records.everything():
        assert record.quality in LAMBDAS and math.isfinite(record.alpha) and record.alpha >= 0
        assert "/" not in record.name and not record.name.startswith(".")
        for epoch, figures in record.readings.items():
            assert epoch > 0 and all(math.isfinite(value) for value in figures.values())
    assert all(isinstance(value, str) for value in found.environment.values())
    assert found.settings.rates and 1 <= found.settings.budget <= 100_000


def damaged_folder(search: Path, target: Path, name: str, content: bytes) -> OpenedSearch | None:
    """The search with one of its files replaced, opened; None, if that is refused."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(search, target)
    (target / name).write_bytes(content)
    with at_most(20):
        try:
            found = open_search(str(target), target.parent, with_model=False)
        except FolderError as error:
            said(error)
            return None
    assert_true(found)
    return found


def test_the_search_is_read(search: Path) -> None:
    found = open_search("mine", search.parent)
    assert_true(found)
    assert len(found.records.trials) == 4 and len(found.records.baselines) == 2 and found.model is not None


@pytest.mark.parametrize("name", [SETTINGS, ENVIRONMENT])
def test_damaged_files_of_a_search_are_read_or_refused(search: Path, tmp_path: Path, name: str) -> None:
    content, ends = (search / name).read_bytes(), Counter[bool]()
    for seed in range(SETTINGS_FILES // 2):
        damaged = mutated(content, seed, [content, b"{}", b"[" * 100_000])
        if name == ENVIRONMENT and seed % 2:
            damaged = json.dumps(replaced(json.loads(content), np.random.default_rng(seed))).encode()
        found = damaged_folder(search, tmp_path / "mine", name, damaged)
        ends[found is not None] += 1
    assert min(ends[True], ends[False]) > 2, ends


def test_damaged_databases_are_read_or_refused(search: Path, tmp_path: Path) -> None:
    content, ends = (search / STUDY).read_bytes(), Counter[bool]()
    for seed in range(DATABASES):
        damaged = mutated(content, seed, [content, b"junk" * 50, bytes(5000)])
        ends[damaged_folder(search, tmp_path / "mine", STUDY, damaged) is not None] += 1
    assert min(ends[True], ends[False]) > 5, ends


def test_forged_trials_are_refused(search: Path, tmp_path: Path) -> None:
    """A sound database that holds what no search records."""
    ends = Counter[bool]()
    for seed in range(FORGED_TRIALS):
        shutil.copy(search / STUDY, tmp_path / STUDY)
        draw = np.random.default_rng(seed)
        with sqlite3.connect(tmp_path / STUDY) as database:
            rows = database.execute(
                "SELECT trial_user_attribute_id, value_json FROM trial_user_attributes"
            ).fetchall()
            number, value = rows[int(draw.integers(len(rows)))]
            forged = json.dumps(replaced({"": json.loads(value)}, draw).get("", "x"))
            where = "WHERE trial_user_attribute_id = ?"
            database.execute(f"UPDATE trial_user_attributes SET value_json = ? {where}", (forged, number))
        database.close()
        ends[damaged_folder(search, tmp_path / "mine", STUDY, (tmp_path / STUDY).read_bytes()) is None] += 1
    assert ends[True] > FORGED_TRIALS // 2, ends


def test_an_empty_database_is_not_made_into_one(search: Path, tmp_path: Path) -> None:
    assert damaged_folder(search, tmp_path / "mine", STUDY, b"") is None
    assert (tmp_path / "mine" / STUDY).read_bytes() == b""
    settings = (
        (search / SETTINGS)
        .read_bytes()
        .replace(b"study: null", b"study: 'sqlite:///%s/new.db'" % bytes(tmp_path))
    )
    assert damaged_folder(search, tmp_path / "mine", SETTINGS, settings) is None
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "loop", "pipe", "../" * 1500, "none", "", "é", "~nobody-at-all"]
)
def test_odd_names_of_searches_are_refused(search: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "pipe").write_bytes(b"")
    for results in (tmp_path, tmp_path / "pipe", tmp_path / "loop", Path("a\0b"), search.parent):
        with at_most(5), pytest.raises(FolderError) as caught:
            find_folder(name, results)
        said(caught.value)
    assert not is_search(tmp_path / name)


# Zoos


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return zoo.prepare(build("bmshj2018-factorized", 8))


def write_zoo(folder: Path, model: nn.Module) -> None:
    config = ModelConfig("bmshj2018-factorized", 8, None, 3, 0.0067, 1e-7, "y", "reference", 0, "trial-000")
    zoo.write_model(folder / "q3", model, config)
    document = zoo.manifest_of(folder, {}, {"q3": {"role": "tuned"}})
    (folder / MANIFEST).write_text(json.dumps(document))


@pytest.fixture(scope="module")
def sound_zoo(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoos") / "zoo"
    write_zoo(folder, model)
    return folder


def loaded(folder: Path) -> nn.Module | None:
    """The zoo's model by every way to it; None if it is refused."""
    found: nn.Module | None = None
    ways: list[Callable[[], Any]] = [
        lambda: zoo.load(folder, 3),
        lambda: zoo.find_by_mark(zoo.list_models(folder)[0].sha256[:16], [folder.parent, folder]).load(),
        lambda: zoo.read_model(folder / "q3" / WEIGHTS, folder / "q3" / zoo.CONFIG),
    ]
    for number, way in enumerate(ways):
        with at_most(10):
            try:
                result = way()
            except ZooError as error:
                said(error)
            except IndexError:
                assert number == 1 and not zoo.list_models(folder)  # this test's own: it lists no model
            else:
                found = result if number < 2 else found
    return found


def test_damaged_zoos_are_refused_or_give_their_model(
    sound_zoo: Path, model: nn.Module, tmp_path: Path
) -> None:
    weights, ends = model.state_dict(), Counter[bool]()
    for seed in range(MANIFESTS):
        folder, draw = tmp_path / "zoo", np.random.default_rng(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound_zoo, folder)
        path = folder / (MANIFEST, f"q3/{WEIGHTS}", f"q3/{zoo.CONFIG}", MANIFEST)[seed % 4]
        content = path.read_bytes()
        if seed % 4 > 1:
            path.write_text(json.dumps(replaced(json.loads(content), draw)))
        else:
            path.write_bytes(mutated(content, seed, [content, b"[" * 200_000, b"{}"]))
        found = loaded(folder)
        ends[found is not None] += 1
        assert found is None or same(dict(found.state_dict()), dict(weights)), seed
    assert min(ends[True], ends[False]) > 20, ends


def rewritten(folder: Path, content: bytes) -> None:
    """Put these weights into a zoo, with their checksum: what a forger would do."""
    (folder / "q3" / WEIGHTS).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][f"q3/{WEIGHTS}"]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_forged_weights_decode_or_are_refused(
    sound_zoo: Path, model: nn.Module, leaves: PackedImages, tmp_path: Path
) -> None:
    """The range coder checks nothing: tables that would lead it astray must not reach it."""
    from safetensors.torch import save

    pixels, ends = np.array(leaves[0][:64, :64]), Counter[bool]()
    parsed = unpack(pack(encode(model, pixels), bytes(8)))
    content = (sound_zoo / "q3" / WEIGHTS).read_bytes()
    tables = [key for key in model.state_dict() if key.endswith(("_quantized_cdf", "_offset", "_cdf_length"))]
    assert len(tables) == 3
    for seed in range(FORGED_WEIGHTS):
        folder, draw = tmp_path / "zoo", np.random.default_rng(seed)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(sound_zoo, folder)
        if seed % 2:
            forged = mutated(content, seed, [content, bytes(100)])
        else:
            state = {key: value.clone().contiguous() for key, value in model.state_dict().items()}
            table = state[tables[seed // 2 % 3]].view(-1)
            for _ in range(int(draw.integers(1, 4))):
                table[int(draw.integers(len(table)))] = int(
                    draw.choice([-(2**31), -1, 0, 1, 2, 65536, 2**31 - 1])
                )
            forged = save(state)
        rewritten(folder, forged)
        found = loaded(folder)
        ends[found is not None] += 1
        if found is not None:
            with at_most(10):
                try:
                    assert decode(found, parsed).shape == (64, 64, 3)
                except BitstreamError as error:
                    said(error)
    assert min(ends[True], ends[False]) > 5, ends


def test_a_forged_width_takes_no_memory(sound_zoo: Path, tmp_path: Path) -> None:
    shutil.copytree(sound_zoo, tmp_path / "zoo")
    manifest = json.loads((tmp_path / "zoo" / MANIFEST).read_text())
    manifest["files"][f"q3/{WEIGHTS}"]["width"] = 1024
    (tmp_path / "zoo" / MANIFEST).write_text(json.dumps(manifest))
    with at_most(1), pytest.raises(ZooError, match="too small"):
        zoo.load(tmp_path / "zoo", 3)
    for width in (1025, 10**9, -8, 8.0, True, "8"):
        manifest["files"][f"q3/{WEIGHTS}"]["width"] = width
        (tmp_path / "zoo" / MANIFEST).write_text(json.dumps(manifest))
        with at_most(1), pytest.raises(ZooError, match="its width cannot be"):
            zoo.load(tmp_path / "zoo", 3)


def test_links_out_of_a_zoo_are_not_followed(sound_zoo: Path, tmp_path: Path) -> None:
    for number, target in enumerate((sound_zoo / "q3" / WEIGHTS, Path("/dev/zero"), Path(WEIGHTS))):
        folder = tmp_path / f"zoo{number}"
        shutil.copytree(sound_zoo, folder)
        (folder / "q3" / WEIGHTS).unlink()
        (folder / "q3" / WEIGHTS).symlink_to(target)
        with at_most(3), pytest.raises(ZooError, match="outside the zoo"):
            zoo.load(folder, 3)


# Coded files


def with_checksum(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()[:8]


def test_damaged_coded_files_are_refused(model: nn.Module, leaves: PackedImages) -> None:
    content = pack(encode(model, np.array(leaves[1][:50, :70])), b"12345678")
    for seed in range(CODED):
        with at_most(5), pytest.raises(BitstreamError) as caught:
            unpack(mutated(content, seed, [content, bytes(100)]))
        said(caught.value)


def test_forged_coded_files_end_in_an_image_or_an_error(model: nn.Module, leaves: PackedImages) -> None:
    """With the checksum worked out again."""
    content, ends = pack(encode(model, np.array(leaves[1][:50, :70])), b"12345678"), Counter[bool]()
    body = content[:-8]
    for seed in range(FORGED_CODED):
        forged = with_checksum(b"LICT\1" + mutated(body[5:], seed, [body, bytes(100)]))
        with at_most(20):
            try:
                parsed = unpack(forged)
                pixels = parsed.width * parsed.height
                assert pixels <= (1 << 20) + (1 << 14) * len(forged), seed
                if pixels > 1 << 18:
                    continue  # an image, and a sane one; only slow
                assert decode(model, parsed).shape == (parsed.height, parsed.width, 3)
                ends[True] += 1
            except BitstreamError as error:
                said(error)
                ends[False] += 1
    assert min(ends[True], ends[False]) > 5, ends


@pytest.mark.parametrize("side", [14_000, 60_000, 2**32 - 1])
def test_a_small_file_is_not_believed_to_be_a_large_image(side: int) -> None:
    head = b"LICT\1" + bytes(8) + side.to_bytes(4, "little") * 2 + b"\2" + bytes(8)
    with pytest.raises(BitstreamError, match=r"too small for an image|claims an image"):
        unpack(with_checksum(head))


def test_a_flat_image_is_padded_until_it_is_believed(model: nn.Module) -> None:
    from lic.codec.bitstream import Coded

    large = np.broadcast_to(np.uint8(0), (9000, 9000, 3))
    content = pack(Coded([b"ab"], large, 0.0), bytes(8))
    assert unpack(content).streams[0].startswith(b"ab\0\0") and len(content) < 10_000
    pixels = np.full((64, 64, 3), 128, np.uint8)
    coded = encode(model, pixels)
    padded = Coded([*coded.streams[:-1], coded.streams[-1] + bytes(5000)], coded.reconstruction, 0.0)
    assert np.array_equal(decode(model, unpack(pack(padded, bytes(8)))), coded.reconstruction)


def test_they_are_two_thousand() -> None:
    folders = SETTINGS_FILES + DATABASES + FORGED_TRIALS
    zoos = MANIFESTS + FORGED_WEIGHTS
    assert CHECKPOINTS + FORGED_CHECKPOINTS + folders + zoos + CODED + FORGED_CODED >= 2000
