from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lic import zoo
from lic.codec.__main__ import main
from lic.codec.bitstream import BitstreamError, Coded, decode, encode, pack, unpack
from lic.codec.verification import verify
from lic.data.cache import PackedImages
from lic.data.images import read_rgb
from lic.evaluation.evaluate import measure_image, psnr
from lic.models.architectures import ARCHITECTURES, starter_path
from lic.models.build import build
from lic.training.weights import load_weights
from lic.zoo import MANIFEST, ModelConfig

STARTERS = {"bmshj2018-hyperprior": (32, 96), "cheng2020-anchor": (32, None)}


def starter(name: str) -> nn.Module:
    model = build(name, *STARTERS[name])
    load_weights(model, starter_path(name, *STARTERS[name]))
    return zoo.prepare(model)


@pytest.fixture(scope="module")
def hyperprior() -> nn.Module:
    return starter("bmshj2018-hyperprior")


@pytest.fixture(scope="module")
def zoos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two zoos, one model each: the starters."""
    folder = tmp_path_factory.mktemp("zoos")
    for name, (width, latent) in STARTERS.items():
        config = ModelConfig(name, width, latent, 3, 0.0067, 1e-7, "y", "reference", 0, "trial-000")
        zoo.write_model(folder / name / "q3", starter(name), config)
        document = zoo.manifest_of(folder / name, {}, {"q3": {"role": "tuned"}})
        (folder / name / MANIFEST).write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_model_decodes_what_it_encoded(name: str, leaves: PackedImages) -> None:
    pixels = np.array(leaves[0][:100, :150])
    model = zoo.prepare(build(name, 16))
    coded = encode(model, pixels)
    assert coded.reconstruction.shape == pixels.shape
    parsed = unpack(pack(coded, bytes(8)))
    assert np.array_equal(decode(model, parsed), coded.reconstruction)
    rebuilt = build(name, 16, seed=1)
    rebuilt.load_state_dict(model.state_dict())  # as the zoo loads it: no table is worked out again
    assert np.array_equal(decode(rebuilt.eval(), parsed), coded.reconstruction)


@pytest.mark.parametrize("name", STARTERS)
def test_the_streams_are_as_long_as_their_symbols_are_worth(name: str, leaves: PackedImages) -> None:
    model, pixels = starter(name), np.array(leaves[1])
    coded = encode(model, pixels)
    bits = 8 * sum(map(len, coded.streams))
    assert abs(bits - coded.ideal_bits) <= 0.01 * coded.ideal_bits + 8 * 32 * len(coded.streams)
    # The streams are CompressAI's own, and its own decoder reads them to the same pixels.
    height, width, _ = pixels.shape
    image = torch.from_numpy(pixels.transpose(2, 0, 1)).float()[None] / 255
    with torch.no_grad():
        theirs = model.compress(image)  # type: ignore[operator]
        assert [part[0] for part in theirs["strings"]] == coded.streams
        x_hat = model.decompress(theirs["strings"], theirs["shape"])["x_hat"]  # type: ignore[operator]
    decoded = x_hat[0].mul(255).round().byte().permute(1, 2, 0).numpy()
    assert np.abs(decoded.astype(int) - coded.reconstruction).max() <= 1  # their threads may round otherwise
    assert height % 64 == width % 64 == 0


def test_without_a_context_model_real_coding_is_the_estimates_reconstruction(
    hyperprior: nn.Module, leaves: PackedImages
) -> None:
    pixels = np.array(leaves[2][:200, :300])
    estimate, coded = measure_image(hyperprior, pixels), encode(hyperprior, pixels)
    error = float(np.mean((coded.reconstruction.astype(float) - pixels) ** 2))
    assert error == pytest.approx(estimate["mse"], rel=1e-6)


def random_image(seed: int) -> Image.Image:
    """Of any kind and of an odd size between 1 x 1 and 300 x 500, with something to see in it."""
    draw = np.random.default_rng(seed)
    height, width = (1, 1) if seed == 0 else (int(draw.integers(1, 301)), int(draw.integers(1, 501)))
    mode = ("RGB", "RGBA", "L", "LA")[seed % 4]
    channels = len(mode)
    waves = np.sin(
        np.add.outer(np.arange(height) * draw.uniform(0, 0.2), np.arange(width) * draw.uniform(0, 0.2))
    )
    levels = (
        128 + 90 * waves[:, :, None] * draw.uniform(0.5, 1, channels) + draw.normal(0, 9, (height, width, 1))
    )
    pixels = np.clip(levels, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels, mode)


@pytest.mark.parametrize(
    "name,seeds", [("bmshj2018-hyperprior", range(188)), ("cheng2020-anchor", range(188, 200))]
)
@pytest.mark.slow
def test_two_hundred_images_of_any_size_through_the_command(
    name: str, seeds: range, zoos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = zoo.load(zoos / name, 3)
    for seed in seeds:
        source, file, back = (tmp_path / f"{seed}{suffix}" for suffix in (".png", ".lic", ".decoded.png"))
        random_image(seed).save(source)
        assert main(["encode", str(source), str(file), "--zoo", str(zoos / name)]) == 0
        assert main(["decode", str(file), str(back), "--zoo", str(zoos)]) == 0
        assert np.array_equal(read_rgb(back), encode(model, read_rgb(source)).reconstruction), seed
    assert f"with {name} quality 3" in capsys.readouterr().out


@pytest.fixture(scope="module")
def content(hyperprior: nn.Module, leaves: PackedImages) -> bytes:
    return pack(encode(hyperprior, np.array(leaves[3][:70, :90])), b"12345678")


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_five_hundred_damaged_files_are_refused(data: st.DataObject, content: bytes) -> None:
    kind = data.draw(st.sampled_from(["cut", "flip", "longer", "foreign", "swap"]))
    if kind == "cut":
        damaged = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flip":
        place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        damaged = content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    elif kind == "longer":
        damaged = content + data.draw(st.binary(min_size=1, max_size=50))
    elif kind == "foreign":
        damaged = data.draw(st.binary(max_size=200))
    else:
        start = data.draw(st.integers(0, len(content) - 2))
        damaged = content[:start] + data.draw(st.binary(min_size=1, max_size=20))
        damaged += content[len(damaged) :]
        if damaged == content:
            return
    with pytest.raises(BitstreamError):
        unpack(damaged)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams=st.lists(st.binary(max_size=300), max_size=4), side=st.integers(1, 200))
def test_forged_streams_end_in_an_image_or_an_error(
    hyperprior: nn.Module, streams: list[bytes], side: int
) -> None:
    forged = pack(Coded(streams, np.zeros((side, side, 3), np.uint8), 0.0), bytes(8))
    with contextlib.suppress(BitstreamError):
        assert decode(hyperprior, unpack(forged)).shape == (side, side, 3)


def test_another_process_with_other_threads_decodes_to_the_same_pixels(zoos: Path, tmp_path: Path) -> None:
    random_image(161).save(tmp_path / "a.png")
    expected, commands = (
        {},
        "import sys, torch; from lic.codec.__main__ import main; torch.set_num_threads(3)",
    )
    for name in STARTERS:
        file, target = tmp_path / f"{name}.lic", tmp_path / f"{name}.png"
        assert main(["encode", str(tmp_path / "a.png"), str(file), "--zoo", str(zoos / name)]) == 0
        expected[target] = encode(zoo.load(zoos / name, 3), read_rgb(tmp_path / "a.png")).reconstruction
        commands += f"; main(['decode', '{file}', '{target}', '--zoo', '{zoos}'])"
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    subprocess.run([sys.executable, "-c", commands], check=True, env=environment, timeout=300)
    assert all(np.array_equal(read_rgb(target), pixels) for target, pixels in expected.items())


def test_compressais_own_tool_codes_an_autoregressive_model_alike(
    leaves: PackedImages, tmp_path: Path
) -> None:
    name, pixels = "cheng2020-anchor", np.array(leaves[0][:192, :192])
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    model = starter(name)
    checkpoint = zoo.write_compressai(tmp_path, model, f"{name}-3")
    command = [sys.executable, "-m", "compressai.utils.eval_model", "checkpoint", str(tmp_path / "images")]
    command += ["-a", name, "-p", str(checkpoint)]
    for estimation in (False, True):
        options = ["--entropy-estimation"] if estimation else []
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=300)
        theirs = json.loads(done.stdout[done.stdout.index("{") :])["results"]
        if estimation:
            ours = measure_image(model, pixels)
        else:
            coded = encode(model, pixels)
            mse = float(np.mean((coded.reconstruction.astype(float) - pixels) ** 2))
            ours = {"psnr": psnr(mse), "bpp": 8 * sum(map(len, coded.streams)) / (192 * 192)}
        assert theirs["psnr-rgb"][0] == pytest.approx(ours["psnr"], abs=5e-5)
        assert theirs["bpp"][0] == pytest.approx(ours["bpp"], abs=5e-5)


def test_what_cannot_be_done_is_said_in_a_sentence(
    zoos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, file = tmp_path / "a.png", tmp_path / "a.lic"
    Image.new("RGB", (20, 10)).save(picture)
    name = str(zoos / "bmshj2018-hyperprior")

    def refused(*arguments: str) -> str:
        assert main(list(arguments)) == 2
        return capsys.readouterr().err

    assert "has no model of quality 5; it has 3" in refused(
        "encode", str(picture), str(file), "--zoo", name, "--quality", "5"
    )
    assert main(["encode", str(picture), str(file), "--zoo", name, "--quiet"]) == 0
    assert "exists; give --overwrite" in refused("encode", str(picture), str(file), "--zoo", name)
    assert "no model" in refused("decode", str(file), str(tmp_path / "b.png"), "--zoo", str(tmp_path))
    assert "use one of the suffixes" in refused(
        "decode", str(file), str(tmp_path / "b.jpg"), "--zoo", str(zoos)
    )
    assert "a.png: not a file of this codec" in refused(
        "decode", str(picture), str(tmp_path / "b.png"), "--zoo", str(zoos)
    )
    assert not (tmp_path / "b.png").exists()


@pytest.mark.parametrize("how", ["the same name", "another way to it", "a hard link", "a link"])
@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_a_file_is_never_written_over_what_it_is_made_of(
    zoos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, how: str
) -> None:
    source, target = tmp_path / "a.png", tmp_path / "b.png"
    random_image(1).save(source)
    before = source.read_bytes()
    if how == "the same name":
        target = source
    if how == "another way to it":
        target = tmp_path / ".." / tmp_path.name / "a.png"
    if how == "a hard link":
        target.hardlink_to(source)
    if how == "a link":
        target.symlink_to(source)
    zoo_of = str(zoos / "bmshj2018-hyperprior")
    assert main([verb, str(source), str(target), "--zoo", zoo_of, "--overwrite"]) == 2
    assert f"{target} is the input file" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize("quality", ["3", 3.0, None, True])
def test_a_quality_that_is_no_whole_number_is_said_to_be_none(zoos: Path, quality: object) -> None:
    with pytest.raises(zoo.ZooError, match=rf"quality is {quality!r}; give an integer, such as"):
        zoo.load(zoos / "bmshj2018-hyperprior", quality)  # type: ignore[arg-type]
    assert zoo.find(zoos / "bmshj2018-hyperprior", np.int64(3)).config.quality == 3  # type: ignore[arg-type]


def test_images_of_one_name_in_two_folders_are_verified_as_two(
    zoos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a thread: a process of its own takes seconds to start.
    monkeypatch.setattr("lic.codec.verification.ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    paths = [tmp_path / folder / "a.png" for folder in ("one", "two")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        random_image(number).save(path)
    table = verify([zoo.find(zoos / "bmshj2018-hyperprior", 3)], paths, 1)
    assert table["image"].tolist() == ["one/a.png", "two/a.png"]


def test_an_altered_model_is_not_loaded(zoos: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(zoos / "bmshj2018-hyperprior", copy)
    weights = copy / "q3" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(zoo.ZooError, match="checksum mismatch"):
        zoo.load(copy, 3)
    manifest = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(manifest.replace("q3/model", "../q3/model"))
    with pytest.raises(zoo.ZooError, match="is outside the zoo"):
        zoo.load(copy, 3)


def test_images_are_read_from_memory_as_from_a_file(tmp_path: Path) -> None:
    random_image(5).save(tmp_path / "a.png")
    assert np.array_equal(
        read_rgb(tmp_path / "a.png"), read_rgb(io.BytesIO((tmp_path / "a.png").read_bytes()))
    )
