"""Damaged or forged zoos and coded files: each is refused by the error that is documented, or gives what was
written."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from lic import zoo
from lic.codec.bitstream import BitstreamError, decode, encode, pack, unpack
from lic.data.cache import PackedImages
from lic.models.architectures import WEIGHTS
from lic.models.build import build
from lic.zoo import MANIFEST, ModelConfig, ZooError
from tests.fuzz.forging import (
    CODED,
    FORGED_CODED,
    FORGED_WEIGHTS,
    MANIFESTS,
    replaced,
    said,
    same,
)
from tests.support.mutation import at_most, mutated

pytestmark = pytest.mark.slow


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
