"""A cache of decoded images: one memory-mapped file that all processes of a machine share."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lic import atomic_io
from lic.data.images import ImageError, read_rgb
from lic.files import home, one_line

_FORMAT = 1

#: Hint for a cache that cannot be used.
_ELSEWHERE = "set another folder with --cache or XDG_CACHE_HOME"

#: Layout of images in a packed file. It is part of the file name, not of the images' fingerprint.
_LAYOUT = "planes"


def default_cache() -> Path:
    """The default folder of decoded images."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # The XDG Base Directory Specification: ignore a value that is not an absolute path.
    return (given if given.is_absolute() else home() / ".cache") / "lictune"


@contextmanager
def kept_in(cache: Path) -> Iterator[None]:
    """Create the folder of decoded images and run a block that writes to it. Raises ImageError, with a hint,
    if it cannot be written to."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        why = error.strerror or one_line(error)
        raise ImageError(f"cannot write the image cache {cache} ({why}); {_ELSEWHERE}") from error


class DamagedCacheError(ImageError):
    """A packed file is damaged; it is packed again the next time it is opened."""


@dataclass(frozen=True)
class PackedImage:
    """The place of one image in the packed file: 3 x `height` x `width` bytes from `offset`, and their
    CRC-32."""

    name: str
    height: int
    width: int
    offset: int
    crc32: int


class PackedImages:
    """A sequence of 8-bit RGB images in one memory-mapped file, stored as colour planes like batches.

    `fingerprint` is a hash of the images' names and contents, the same on every machine; `skipped` maps
    the names of omitted files to the reason.
    """

    def __init__(self, path: Path) -> None:
        index = json.loads(path.with_suffix(".json").read_text())
        self.path = path
        self.fingerprint: str = index["fingerprint"]
        self.skipped: dict[str, str] = index["skipped"]
        self.images = [PackedImage(**entry) for entry in index["images"]]
        self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        self._checked: set[int] = set()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        """Image `number` as a read-only H x W x 3 view of the file. Raises DamagedCacheError."""
        return self.planes(number).transpose(1, 2, 0)

    def planes(self, number: int) -> NDArray[np.uint8]:
        """Image `number` as a read-only, contiguous 3 x H x W view of the file. Raises DamagedCacheError; the
        images are then packed again the next time."""
        image = self.images[number]
        size = image.height * image.width * 3
        flat = self._bytes[image.offset : image.offset + size]
        if number not in self._checked:
            if zlib.crc32(flat.data) != image.crc32:
                self.path.with_suffix(".json").unlink(missing_ok=True)
                raise DamagedCacheError(
                    f"{self.path} is damaged at {image.name}; run the command again to rebuild it"
                )
            self._checked.add(number)
        return flat.reshape(3, image.height, image.width)


def copies(images: PackedImages, others: PackedImages) -> dict[str, str]:
    """Images with the same pixels as one of `others`: name -> name of the other. Raises ImageError (see
    `planes`)."""
    alike: dict[tuple[int, int, int], list[int]] = {}
    for number, image in enumerate(others.images):
        alike.setdefault((image.height, image.width, image.crc32), []).append(number)
    found = {}
    for number, image in enumerate(images.images):
        for other in alike.get((image.height, image.width, image.crc32), ()):
            if np.array_equal(images.planes(number), others.planes(other)):
                found[image.name] = others.images[other].name
                break
    return found


def pack_files(files: list[Path], root: Path, cache: Path) -> PackedImages:
    """Decode `files` into the cache, unless they are in it. Names are relative to `root`.

    Unreadable files are omitted and listed in `skipped`. Raises ImageError if none is left.
    """
    names = {path: path.relative_to(root).as_posix() for path in files}
    stats = [(names[path], *_stamp(path)) for path in files]
    # Unchanged sizes and times imply unchanged contents, so that a large folder is read only once.
    seen = cache / f"seen-{_digest(str(root.resolve()), json.dumps(stats))}"
    if seen.is_file() and (packed := _open(cache, seen.read_text().strip())):
        return packed
    with ThreadPoolExecutor() as pool:
        hashes = pool.map(_content_digest, files)
        key = _digest(*(f"{names[path]} {digest}" for path, digest in zip(files, hashes, strict=True)))

    def decoded() -> Iterator[tuple[str, NDArray[np.uint8] | ImageError]]:
        def read(path: Path) -> NDArray[np.uint8] | ImageError:
            try:
                return read_rgb(path)
            except ImageError as error:
                return error

        with ThreadPoolExecutor(2) as pool:
            # In slices, so that decoded images do not accumulate in memory before they are written.
            for start in range(0, len(files), 32):
                part = files[start : start + 32]
                yield from zip((names[path] for path in part), pool.map(read, part), strict=True)

    packed = pack(key, decoded, cache)
    with contextlib.suppress(OSError):  # the cache may be read-only
        atomic_io.write(seen, key)
    return packed


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; zeros if it cannot be accessed."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _content_digest(path: Path) -> str:
    """The SHA-256 of a file; 'unreadable' if it cannot be read (decoding then reports the error)."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def pack(
    key: str,
    images: Callable[[], Iterator[tuple[str, NDArray[np.uint8] | ImageError]]],
    cache: Path,
) -> PackedImages:
    """The packed images of `key`: from the cache, else made from `images()`, which yields names with
    H x W x 3 uint8 or the reason to omit the image. Safe with concurrent processes. Raises ImageError if no
    image is left, or if the cache cannot be written to."""
    if packed := _open(cache, key):
        return packed
    with kept_in(cache), _lock(cache / f"{key}.lock"):
        if packed := _open(cache, key):
            return packed
        path = _packed_file(cache, key)
        entries, skipped, offset = [], {}, 0
        with atomic_io.replacing(path) as partial:
            with partial.open("wb") as file:
                for name, image in images():
                    if isinstance(image, ImageError):
                        skipped[name] = str(image)
                        continue
                    pixels = np.ascontiguousarray(image.transpose(2, 0, 1)).data
                    height, width, _ = image.shape
                    entries.append(PackedImage(name, height, width, offset, zlib.crc32(pixels)))
                    offset += file.write(pixels)
            if not entries:
                reason = next(iter(skipped.values()), "there are no files")
                raise ImageError(f"no usable image: {reason}")
        listed = [asdict(entry) for entry in entries]
        index = {"format": _FORMAT, "fingerprint": key, "skipped": skipped, "images": listed}
        # The index is written last: a packed file is valid only once its index exists.
        atomic_io.write(path.with_suffix(".json"), json.dumps(index))
        return PackedImages(path)


def _packed_file(cache: Path, key: str) -> Path:
    return cache / f"{key}-{_LAYOUT}.bin"


def _open(cache: Path, key: str) -> PackedImages | None:
    path = _packed_file(cache, key)
    try:
        packed = PackedImages(path)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    last = packed.images[-1]
    whole = last.offset + last.height * last.width * 3 == path.stat().st_size
    return packed if whole else None


def _digest(*parts: str) -> str:
    # A file's name need not be UTF-8.
    text = "\n".join([f"format {_FORMAT}", *parts]).encode(errors="surrogateescape")
    return hashlib.sha256(text).hexdigest()[:32]


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    # The kernel releases flock when its holder dies, so a killed process blocks nobody.
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
