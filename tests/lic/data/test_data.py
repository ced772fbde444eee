"""Image files of every kind, the packed cache, the crops, the Kodak set and the generator."""

from __future__ import annotations

import errno
import io
import multiprocessing
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lic.data.cache import PackedImages, default_cache, pack_files
from lic.data.crops import RandomCrops
from lic.data.deadleaves import dead_leaves, pack_dead_leaves
from lic.data.folders import find_images
from lic.data.images import ImageError, read_rgb
from lic.data.kodak import check_kodak, fetch_kodak
from lic.data.sets import test_set as open_test_set
from lic.data.sets import training_and_validation

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "ppm", "tiff", "bmp"])
def test_lossless_kinds_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_rgb(tmp_path / f"a.{suffix}"), PIXELS)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_kinds_are_read(tmp_path: Path, suffix: str) -> None:
    smooth = np.full((70, 90, 3), (200, 100, 50), dtype=np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(read_rgb(tmp_path / f"a.{suffix}").astype(int) - smooth).max() < 8


def test_unusual_modes_become_8_bit_rgb(tmp_path: Path) -> None:
    grey = PIXELS[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_rgb(tmp_path / "grey.png"), np.repeat(grey[:, :, None], 3, 2))
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_rgb(tmp_path / "deep.png"), np.repeat(grey[:, :, None], 3, 2))
    alpha = np.dstack([PIXELS, np.where(np.arange(90) < 45, 255, 0) * np.ones((70, 1))])
    Image.fromarray(alpha.astype(np.uint8)).save(tmp_path / "alpha.png")
    laid = read_rgb(tmp_path / "alpha.png")
    assert np.array_equal(laid[:, :45], PIXELS[:, :45])
    assert (laid[:, 45:] == 255).all()
    Image.fromarray(PIXELS).convert("CMYK").save(tmp_path / "print.tiff")
    assert np.abs(read_rgb(tmp_path / "print.tiff").astype(int) - PIXELS).max() <= 2
    Image.fromarray(PIXELS).convert("P").save(tmp_path / "palette.png")
    assert read_rgb(tmp_path / "palette.png").shape == PIXELS.shape


def png(depth: int, colour: int, width: int, row: bytes, transparent: bytes) -> io.BytesIO:
    """A PNG of one row (RFC 2083), as Pillow does not write it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    head = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(b"\0" + row))
    parts = chunk(b"IHDR", head) + chunk(b"tRNS", transparent) + rows + chunk(b"IEND", b"")
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + parts)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "transparent", "expected"),
    [
        (16, 0, struct.pack(">4H", 0, 1028, 4660, 65535), 4660, [0, 4, 255, 255]),
        (8, 0, bytes([0, 18, 255, 9]), 18, [0, 255, 255, 9]),
        (4, 0, bytes([0x0F, 0x37]), 3, [0, 255, 255, 119]),
        (2, 0, bytes([0b00011011]), 2, [0, 85, 255, 255]),
        (1, 0, bytes([0b01010000]), 0, [255, 255, 255, 255]),
    ],
)
def test_the_transparent_grey_of_any_depth_becomes_white(
    depth: int, colour: int, row: bytes, transparent: int, expected: list[int]
) -> None:
    laid = read_rgb(png(depth, colour, 4, row, struct.pack(">H", transparent)))
    assert laid[0].tolist() == [[grey] * 3 for grey in expected]


def test_the_transparent_colour_of_16_bits_becomes_white() -> None:
    # The second pixel's high bytes are the first one's low bytes.
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x3400, 0x7800, 0xBC00)
    laid = read_rgb(png(16, 2, 2, row, row[:6]))
    assert laid[0].tolist() == [[255, 255, 255], [0x34, 0x78, 0xBC]]


def test_bad_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(ImageError, match=r"broken\.png cannot be read"):
        read_rgb(tmp_path / "broken.png")
    Image.fromarray(PIXELS).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:500])
    with pytest.raises(ImageError, match=r"cut\.jpg"):
        read_rgb(tmp_path / "cut.jpg")
    monkeypatch.setattr("lic.data.images.MAX_PIXELS", 100)
    Image.fromarray(PIXELS).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match=r"large\.png has 90 x 70 pixels, over the limit"):
        read_rgb(tmp_path / "large.png")
    photographs_without_images = tmp_path / "empty"
    photographs_without_images.mkdir()
    with pytest.raises(ImageError, match="no image in"):
        find_images(photographs_without_images)


def test_one_bad_file_does_not_end_the_run(photographs: Path, tmp_path: Path) -> None:
    (photographs / "part0" / "bad.png").write_bytes(b"nothing")
    packed = pack_files(find_images(photographs), photographs, tmp_path / "cache")
    assert len(packed) == 6
    assert "cannot be read" in packed.skipped["part0/bad.png"]
    for image, entry in zip(range(6), packed.images, strict=True):
        assert np.array_equal(packed[image], read_rgb(photographs / entry.name))


def test_the_cache_follows_the_contents(photographs: Path, tmp_path: Path) -> None:
    files, cache = find_images(photographs), tmp_path / "cache"
    first = pack_files(files, photographs, cache)
    assert pack_files(files, photographs, cache).fingerprint == first.fingerprint
    Image.fromarray(PIXELS).save(files[0])
    changed = pack_files(files, photographs, cache)
    assert changed.fingerprint != first.fingerprint
    # A cache file cut short by a crash is noticed and made again.
    changed.path.write_bytes(changed.path.read_bytes()[:-7])
    again = pack_files(files, photographs, cache)
    assert all(np.array_equal(again[i], read_rgb(path)) for i, path in enumerate(files))


def _pack(arguments: tuple[Path, Path]) -> str:
    photographs, cache = arguments
    packed = pack_files(find_images(photographs), photographs, cache)
    return f"{packed.fingerprint} {int(sum(int(packed[i].sum()) for i in range(len(packed))))}"


def test_processes_may_build_the_cache_at_once(photographs: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.map(_pack, [(photographs, tmp_path / "cache")] * 6)
    assert len(set(results)) == 1
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_crops_are_a_function_of_seed_and_step(leaves: PackedImages) -> None:
    first, second = RandomCrops(leaves, 64, 4, seed=3), RandomCrops(leaves, 64, 4, seed=3)
    later = first.batch(7)
    assert np.array_equal(second.batch(7), later)
    assert not np.array_equal(second.batch(8), later)
    assert not np.array_equal(RandomCrops(leaves, 64, 4, seed=4).batch(7), later)
    assert later.shape == (4, 3, 64, 64)
    assert later.is_contiguous()  # channels-last strides crash cheng2020 on the CPU
    assert later.min() >= 0 and later.max() <= 1


def test_resident_images_give_the_same_crops(photographs: Path, tmp_path: Path) -> None:
    packed = pack_files(find_images(photographs), photographs, tmp_path / "cache")
    cut, gathered = (RandomCrops(packed, 64, 8, seed=3, resident=resident) for resident in (False, True))
    for step in range(10):
        assert np.array_equal(cut.batch(step), gathered.batch(step))
        assert gathered.batch(step).is_contiguous()


@pytest.mark.parametrize("patch", [64, 256])
def test_batches_are_those_of_the_definition_to_the_bit(leaves: PackedImages, patch: int) -> None:
    """Searches go on, and take baselines over, across versions: the order of the draws and every bit of the
    pixels must stay. Written here as plainly as can be."""
    crops, step = RandomCrops(leaves, patch, 16, seed=5), 11
    draw = np.random.default_rng((5, step))
    expected = torch.empty((16, 3, patch, patch))
    for row, number in enumerate(draw.choice(np.arange(len(leaves)), 16)):
        image = leaves[number]
        top = draw.integers(image.shape[0] - patch + 1)
        left = draw.integers(image.shape[1] - patch + 1)
        crop = image[top : top + patch, left : left + patch]
        crop = crop[:, ::-1] if draw.integers(2) else crop
        expected[row] = torch.from_numpy(crop.transpose(2, 0, 1).copy()).float().div_(255.0)
    assert torch.equal(crops.batch(step), expected)


def test_crops_come_from_the_images_and_small_ones_are_left_out(photographs: Path, tmp_path: Path) -> None:
    packed = pack_files(find_images(photographs), photographs, tmp_path / "cache")
    crops = RandomCrops(packed, 84, 2, seed=0)  # heights are 80 to 85
    assert sorted(packed.images[i].height for i in crops.usable) == [84, 85]
    crop = (crops.batch(0)[0].numpy().transpose(1, 2, 0) * 255).round().astype(np.uint8)
    places = [
        np.array_equal(np.asarray(packed[i])[top : top + 84, left : left + 84], candidate)
        for i in crops.usable
        for top in range(packed[i].shape[0] - 83)
        for left in range(13)
        for candidate in (crop, crop[:, ::-1])
    ]
    assert any(places)
    with pytest.raises(ImageError, match="smaller --patch"):
        RandomCrops(packed, 128, 2, seed=0)


def test_validation_images_are_held_out(photographs: Path, tmp_path: Path) -> None:
    train, val = training_and_validation(str(photographs), 1, tmp_path / "cache")
    assert (len(train.images), len(val.images)) == (5, 1)
    names = {image.name for image in train.images.images}
    assert val.images.images[0].name not in names


def test_train_and_val_folders_are_the_split(photographs: Path, tmp_path: Path) -> None:
    (photographs / "part0").rename(photographs / "train")
    (photographs / "part1").rename(photographs / "val")
    train, val = training_and_validation(str(photographs), 2, tmp_path / "cache")
    assert {image.name.split("/")[0] for image in train.images.images} == {"train"}
    assert {image.name.split("/")[0] for image in val.images.images} == {"val"}
    assert len(val.images) == 2


def test_only_kodak_is_called_kodak(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ImageError, match=r"not the Kodak set: kodim01\.png is missing"):
        open_test_set(str(photographs), "auto", None, tmp_path / "cache")
    renamed = photographs.rename(photographs.with_name("kodak"))
    assert open_test_set(None, str(renamed), None, tmp_path / "cache").name == "folder_kodak"
    monkeypatch.setattr("lic.data.kodak.ADDRESS", "http://127.0.0.1:9/")
    assert open_test_set(None, "auto", 2, tmp_path / "cache").name == "deadleaves"


def test_a_kodak_folder_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"the Kodak folder {tmp_path}/none does not exist; give another"):
        check_kodak(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(ImageError, match=f"the Kodak folder {tmp_path}/file is not a folder; give another"):
        check_kodak(tmp_path / "file")


def test_kodak_files_are_checked(kodak_folder: Path, tmp_path: Path) -> None:
    assert len(check_kodak(kodak_folder)) == 24
    named = open_test_set(str(kodak_folder), "auto", None, tmp_path / "cache")
    assert named.name == "kodak"
    assert open_test_set(str(kodak_folder), "auto", 2, tmp_path / "cache").name == "kodak_first2"
    for path in kodak_folder.glob("*.png"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "kodim05.png").unlink()
    Image.fromarray(PIXELS).save(tmp_path / "kodim05.png")
    with pytest.raises(ImageError, match=r"kodim05\.png is not the original"):
        check_kodak(tmp_path)


def test_kodak_is_fetched_and_pinned(
    kodak_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lic.data.kodak.ADDRESS", kodak_folder.as_uri() + "/")
    folder = fetch_kodak(tmp_path)
    assert check_kodak(folder)
    (folder / "kodim01.png").write_bytes(b"altered")
    assert check_kodak(fetch_kodak(tmp_path))  # fetched again


def test_dead_leaves_have_natural_statistics() -> None:
    picture = dead_leaves(7)
    assert np.array_equal(picture, dead_leaves(7))
    assert not np.array_equal(picture, dead_leaves(8))
    grey = picture.astype(float).mean(axis=2)[:, :256]
    window = np.outer(np.hanning(256), np.hanning(256))
    power = np.abs(np.fft.fftshift(np.fft.fft2((grey - grey.mean()) * window))) ** 2
    rows, columns = np.indices(power.shape) - 128
    radius = np.hypot(rows, columns).astype(int)
    bands = [power[radius == r].mean() for r in range(4, 64)]
    slope = np.polyfit(np.log(np.arange(4, 64)), np.log(bands), 1)[0]
    # Photographs: power falls as 1/f^2, give or take a half (Ruderman 1994).
    assert -3.0 < slope < -1.3


def test_a_damaged_cache_is_noticed_and_made_anew(photographs: Path, tmp_path: Path) -> None:
    files = find_images(photographs)
    whole = pack_files(files, photographs, tmp_path / "cache")
    expected = [np.array(whole[number]) for number in range(len(whole))]
    content = bytearray(whole.path.read_bytes())
    content[whole.images[2].offset + 5] ^= 1
    whole.path.write_bytes(content)
    damaged = pack_files(files, photographs, tmp_path / "cache")
    assert np.array_equal(damaged[1], expected[1])
    with pytest.raises(ImageError, match=rf"is damaged at {damaged.images[2].name}; run the command again"):
        damaged[2]
    again = pack_files(files, photographs, tmp_path / "cache")
    assert all(np.array_equal(again[number], image) for number, image in enumerate(expected))


@pytest.mark.parametrize("value", ["", "cache", "./cache"])
def test_only_an_absolute_cache_home_counts(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert default_cache() == tmp_path / ".cache" / "lictune"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / value))
    assert default_cache() == tmp_path / value / "lictune"


def test_without_a_home_folder_the_cache_is_a_temporary_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # of no entry in the passwd file
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_cache() == tmp_path / "lictune-2147483641" / ".cache" / "lictune"


def test_a_cache_that_cannot_be_written_to_is_named(photographs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()  # in the way, also for root
    cache = tmp_path / "file" / "lictune"
    for use in (
        lambda: pack_files(find_images(photographs), photographs, cache),
        lambda: pack_dead_leaves(0, 1, cache),
        lambda: fetch_kodak(cache),
    ):
        with pytest.raises(ImageError, match=r"cannot write the image cache .*/file/lictune.* with --cache"):
            use()


def test_a_cache_that_is_only_read_serves_what_it_holds(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, cache = find_images(photographs), tmp_path / "cache"
    first, leaves = pack_files(files, photographs, cache), pack_dead_leaves(0, 1, cache)

    def closed(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("lic.atomic_io.write", closed)
    monkeypatch.setattr("lic.data.cache._lock", closed)
    moved = photographs.rename(tmp_path / "moved")  # so that the files are looked at again
    again = pack_files(find_images(moved), moved, cache)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(pack_dead_leaves(0, 1, cache)[0], leaves[0])
