"""Entropy coding of an image with a model, and the file format of the bitstreams.

    magic 'LICT' | version u8 | model, 8 bytes | width u32 | height u32 | streams u8 |
    per stream: length u32, bytes | checksum, 8 bytes

Integers are little-endian. `model` is the start of the SHA-256 of the model's weights file; `checksum` is the
start of the SHA-256 of all preceding bytes.

A small file must not be able to claim an image that takes all memory. So an image has at most 2^20 pixels
plus 2^14 per byte of its streams; streams that are too short for their image are padded with zeros at the
end.

Everything runs on the CPU with one thread: the decoder must compute the encoder's probabilities to the last
bit, and another number of threads may add in another order.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lic.data.images import MAX_PIXELS
from lic.errors import LictuneError
from lic.evaluation.evaluate import STRIDE, batch_of, padding_of
from lic.files import one_line
from lic.losses.criterion import PEAK
from lic.models.build import own_of
from lic.models.compressai_parts import EntropyModel, RansDecoder
from lic.models.own import can_code

MAGIC, VERSION = b"LICT", 1
_HEAD, _LENGTH, _MARK = struct.Struct("<4sB8sIIB"), struct.Struct("<I"), 8

#: Maximum size of a coded file, in bytes.
MAX_BYTES = 1 << 30

#: Maximum number of streams (no model has as many), and the pixels allowed in any case and per byte.
_MOST_STREAMS, _FREE_PIXELS, _PIXELS_PER_BYTE = 16, 1 << 20, 1 << 14

#: Called with the fraction done, 0 to 1; may raise to abort.
Progress = Callable[[float], None]


class BitstreamError(LictuneError):
    """A file that cannot be decoded: not of this codec, truncated, modified, or of another model."""


@dataclass(frozen=True)
class Coded:
    """An image coded by a model.

    `reconstruction` is the image that the decoder must produce, H x W x 3 uint8. `ideal_bits` is the
    information content of the coded symbols under the model's probabilities, before the range coder rounds
    them; a symbol outside its table counts with the length of its escape code.
    """

    streams: list[bytes]
    reconstruction: NDArray[np.uint8]
    ideal_bits: float


@dataclass(frozen=True)
class Parsed:
    """The content of a file: the mark of its model, the size of the image, and the streams."""

    model: bytes
    width: int
    height: int
    streams: list[bytes]


def mark_of(sha256: str) -> bytes:
    """The mark that identifies a model in a file: the first 8 bytes of the SHA-256 (hex) of its weights."""
    return bytes.fromhex(sha256)[:_MARK]


def pack(coded: Coded, model: bytes) -> bytes:
    """The file of a coded image."""
    height, width, _ = coded.reconstruction.shape
    streams = list(coded.streams)
    if streams:
        streams[-1] += bytes(max(0, _least_bytes(width * height) - sum(map(len, streams))))
    parts = [_HEAD.pack(MAGIC, VERSION, model, width, height, len(streams))]
    for stream in streams:
        parts += [_LENGTH.pack(len(stream)), stream]
    body = b"".join(parts)
    return body + _checksum(body)


def _least_bytes(pixels: int) -> int:
    return -(-max(0, pixels - _FREE_PIXELS) // _PIXELS_PER_BYTE)


def unpack(content: bytes) -> Parsed:
    """Parse a file. Raises BitstreamError for anything that `pack` did not write."""
    if not content.startswith(MAGIC):
        raise BitstreamError("not a file of this codec (its first bytes are not 'LICT')")
    body, checksum = content[:-_MARK], content[-_MARK:]
    if len(body) > len(MAGIC) and body[len(MAGIC)] != VERSION:
        raise BitstreamError(f"it has version {body[len(MAGIC)]}; this program reads version {VERSION}")
    if len(body) < _HEAD.size or _checksum(body) != checksum:
        raise BitstreamError("it is damaged or truncated (checksum mismatch)")
    _, _, model, width, height, count = _HEAD.unpack_from(body)
    if not 0 < width * height <= MAX_PIXELS:
        raise BitstreamError(f"it claims an image of {width} x {height} pixels")
    if count > _MOST_STREAMS:
        raise BitstreamError(f"it claims {count} streams")
    if len(content) < _least_bytes(width * height):
        raise BitstreamError(f"it is too small for an image of {width} x {height} pixels")
    streams, place = [], _HEAD.size
    for _ in range(count):
        if place + _LENGTH.size > len(body):
            raise BitstreamError("its streams are truncated")
        (length,) = _LENGTH.unpack_from(body, place)
        place += _LENGTH.size
        streams.append(body[place : place + length])
        place += length
    if place != len(body):
        raise BitstreamError("it has extra bytes after its streams")
    return Parsed(model, width, height, streams)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_MARK]


@torch.no_grad()
def encode(model: nn.Module, pixels: NDArray[np.uint8], progress: Progress | None = None) -> Coded:
    """Encode an image, H x W x 3 uint8, with a model whose entropy tables are built (lic.zoo.load). Raises
    BitstreamError if the model cannot code."""
    _check_codes(model)
    height, width, _ = pixels.shape
    padding, _ = padding_of(height, width)
    with _one_thread(), _progress_of(model, height, width, progress), _CodingTap(model) as tap:
        output = model.compress(nn.functional.pad(batch_of(pixels), padding))  # type: ignore[operator]
        if own_of(model) is not None:
            return _coded_by_own(model, output, tap.bits(), height, width)
        latent = output["y_hat"] if "y_hat" in output else tap.latent()
        reconstruction = _pixels(model.g_s(latent), height, width)  # type: ignore[operator]
        return Coded([streams[0] for streams in output["strings"]], reconstruction, tap.bits())


def _check_codes(model: nn.Module) -> None:
    if not can_code(model):
        raise BitstreamError(
            f"{own_of(model) or type(model).__name__} codes no images: it is not one of CompressAI's "
            "CompressionModels with compress and decompress"
        )


def _coded_by_own(model: nn.Module, output: Any, ideal_bits: float, height: int, width: int) -> Coded:
    """The result of a user's own `compress`. The parts of the model are unknown, so the reconstruction is
    what its `decompress` makes of the streams."""
    x_hat = model.decompress(output["strings"], output["shape"])["x_hat"]  # type: ignore[operator]
    return Coded([streams[0] for streams in output["strings"]], _pixels(x_hat, height, width), ideal_bits)


@torch.no_grad()
def decode(model: nn.Module, parsed: Parsed, progress: Progress | None = None) -> NDArray[np.uint8]:
    """Decode a parsed file with its model: H x W x 3 uint8. Raises BitstreamError."""
    _check_codes(model)
    rows, columns = (STRIDE * -(-side // STRIDE) for side in (parsed.height, parsed.width))
    # The range decoder does not check for the end of a forged stream: append zeros for it to read.
    tail = bytes(8 * (rows * columns // STRIDE**2) * _symbols(model) + 64)
    streams = [[stream + tail] for stream in parsed.streams]
    with _one_thread(), _progress_of(model, parsed.height, parsed.width, progress), _quick_tables(model):
        try:
            output = model.decompress(streams, _latent_shape(model, rows, columns))  # type: ignore[operator]
        except MemoryError as error:
            raise BitstreamError("not enough memory for its image") from error
        except (RuntimeError, ValueError, IndexError, AssertionError, TypeError, OverflowError) as error:
            raise BitstreamError(f"its streams do not fit this model ({one_line(error)})") from error
        return _pixels(output["x_hat"], parsed.height, parsed.width)


def _pixels(x_hat: Tensor, height: int, width: int) -> NDArray[np.uint8]:
    _, cropping = padding_of(height, width)
    image = nn.functional.pad(x_hat, cropping)[0].clamp(0, 1).mul(PEAK).round()
    return image.to(torch.uint8).permute(1, 2, 0).numpy()


def _channels(model: nn.Module) -> int:
    """Latent channels M."""
    return next(m for m in model.g_s.modules() if hasattr(m, "in_channels")).in_channels  # type: ignore[union-attr, return-value]


def _symbols(model: nn.Module) -> int:
    """An upper bound of the number of symbols of y or z in an image of STRIDE x STRIDE pixels."""
    if own_of(model) is None:
        return STRIDE**2 // 256 * _channels(model)
    likelihoods = model(torch.zeros(1, 3, STRIDE, STRIDE))["likelihoods"]
    return max(int(values.numel()) for values in likelihoods.values())


def _scaled(shape: Any, rows: int, columns: int) -> Any:
    """The `shape` of a padded image of this size, given that of an image of STRIDE x STRIDE pixels."""
    if isinstance(shape, dict):
        return {key: _scaled(part, rows, columns) for key, part in shape.items()}
    if not all(isinstance(side, int) for side in shape):
        return [_scaled(part, rows, columns) for part in shape]
    *channels, height, width = shape
    return torch.Size((*channels, height * rows // STRIDE, width * columns // STRIDE))


def _latent_shape(model: nn.Module, rows: int, columns: int) -> Any:
    """The `shape` that CompressAI's `compress` returns for a padded image of this size: that of z, of y for a
    model without z, or of all latent codecs. A user's own is asked for that of a small image."""
    if own_of(model) is not None:
        small = model.compress(torch.zeros(1, 3, STRIDE, STRIDE))["shape"]  # type: ignore[operator]
        return _scaled(small, rows, columns)
    side = (rows // STRIDE, columns // STRIDE)
    if not hasattr(model, "latent_codec"):
        return torch.Size(side if hasattr(model, "h_a") else (rows // 16, columns // 16))
    groups = getattr(model.latent_codec["y"], "groups", None)  # type: ignore[index]
    sizes = [torch.Size((c, rows // 16, columns // 16)) for c in groups or [_channels(model)]]
    return {"y": sizes if groups else sizes[0], "hyper": torch.Size(side)}


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _progress_of(model: nn.Module, height: int, width: int, progress: Progress | None) -> Iterator[None]:
    """Report the progress of autoregressive models, which code the latent position by position; other models
    are fast and report nothing."""
    if progress is None or own_of(model) is not None or not hasattr(model, "_compress_ar"):
        yield
        return
    positions, seen = (-(-height // STRIDE) * 4) * (-(-width // STRIDE) * 4), 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1
        progress(seen / positions)

    handle = model.get_submodule("entropy_parameters").register_forward_hook(count)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _quick_tables(model: nn.Module) -> Iterator[None]:
    """Make an autoregressive model pass the range decoder only the tables of the current position: passing
    all tables every time, as CompressAI does, takes most of the decoding time."""
    if own_of(model) is not None or not hasattr(model, "_decompress_ar"):
        yield
        return
    model.__dict__["_decompress_ar"] = partial(_decompress_in_turn, model)
    try:
        yield
    finally:
        del model.__dict__["_decompress_ar"]


def _decompress_in_turn(  # size: CompressAI's signature
    model: Any, stream: bytes, y_hat: Tensor, params: Tensor, rows: int, columns: int, window: int, edge: int
) -> None:
    """Like CompressAI's `_decompress_ar`: fills y_hat, 1 x M x (rows + 2 edge) x (columns + 2 edge), in
    place."""
    coder = model.gaussian_conditional
    lengths, offsets = coder.cdf_length.tolist(), coder.offset.tolist()
    tables = [table[:n] for table, n in zip(coder.quantized_cdf.tolist(), lengths, strict=True)]
    weight, bias = model.context_prediction.weight, model.context_prediction.bias
    decoder = RansDecoder()
    decoder.set_stream(stream)
    for row in range(rows):
        for column in range(columns):
            seen = y_hat[:, :, row : row + window, column : column + window]
            context = nn.functional.conv2d(seen, weight, bias=bias)
            here = params[:, :, row : row + 1, column : column + 1]
            scales, means = model.entropy_parameters(torch.cat((here, context), dim=1)).chunk(2, 1)
            chosen = coder.build_indexes(scales).flatten().tolist()
            values = decoder.decode_stream(
                list(range(len(chosen))),
                [tables[i] for i in chosen],
                [lengths[i] for i in chosen],
                [offsets[i] for i in chosen],
            )
            symbols = torch.tensor(values, dtype=torch.float32).reshape(1, -1, 1, 1)
            y_hat[:, :, row + edge : row + edge + 1, column + edge : column + edge + 1] = symbols + means


class _CodingTap:
    """Records which symbols a model's `compress` codes, with which scales, into which latent.

    CompressAI's `compress` does not return them, but all its models get their symbols from
    `EntropyModel.quantize` and select the tables with `GaussianConditional.build_indexes`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._entropy_models = [m for m in model.modules() if isinstance(m, EntropyModel)]
        self._symbols: dict[nn.Module, list[tuple[Tensor, Tensor | None]]] = {}
        self._indexes: dict[nn.Module, list[Tensor]] = {}
        self._sequential: Tensor | None = None

    def __enter__(self) -> _CodingTap:
        for module in self._entropy_models:
            self._symbols[module], self._indexes[module] = [], []
            self._wrap(module, "quantize", self._quantized(module))
            if hasattr(module, "build_indexes"):
                self._wrap(module, "build_indexes", self._indexed(module))
        if hasattr(self._model, "_compress_ar"):
            self._wrap(self._model, "_compress_ar", self._coded_in_turn)
        return self

    def __exit__(self, *_: object) -> None:
        for module in (*self._entropy_models, self._model):
            for name in ("quantize", "build_indexes", "_compress_ar"):
                module.__dict__.pop(name, None)

    @staticmethod
    def _wrap(module: nn.Module, name: str, after: Callable[..., None]) -> None:
        method = getattr(module, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            after(result, *args, **kwargs)
            return result

        module.__dict__[name] = wrapped

    def _quantized(self, module: nn.Module) -> Callable[..., None]:
        def keep(symbols: Tensor, _inputs: Tensor, mode: str, means: Tensor | None = None) -> None:
            if mode == "symbols":
                self._symbols[module].append((symbols, means))

        return keep

    def _indexed(self, module: nn.Module) -> Callable[..., None]:
        def keep(indexes: Tensor, _scales: Tensor) -> None:
            self._indexes[module].append(indexes)

        return keep

    def _coded_in_turn(self, _stream: bytes, y_hat: Tensor, *args: Any) -> None:
        edge = args[-1]  # padding of the context model
        self._sequential = y_hat[:, :, edge:-edge, edge:-edge]

    def latent(self) -> Tensor:
        """y as the decoder will reconstruct it."""
        if self._sequential is not None:
            return self._sequential
        coder = getattr(self._model, "gaussian_conditional", None) or self._model.entropy_bottleneck
        symbols, means = self._symbols[coder][-1]  # type: ignore[index]
        return symbols.float() if means is None else symbols + means

    def bits(self) -> float:
        """Information content of all symbols, -log2 of their probabilities; for a symbol outside its table,
        the bits of its escape code."""
        total = 0.0
        for module in self._entropy_models:
            coded = self._symbols[module]
            if not coded:
                continue
            symbols = torch.cat([part.flatten() for part, _ in coded])
            if self._indexes[module]:
                indexes = torch.cat([part.flatten() for part in self._indexes[module]]).long()
                scales = module.scale_table[indexes]
                _, likelihoods = module(symbols.float()[None, None], scales[None, None])
            else:  # one table and one median per channel
                ((part, means),) = coded
                assert means is not None
                channels = torch.arange(part.shape[1]).reshape(1, -1, 1, 1)
                indexes = channels.expand(part.shape).flatten()
                _, likelihoods = module(part + means)
            # Tables hold multiples of 2^-16, so none of their symbols takes more than 16 bits.
            inside = -likelihoods.flatten().double().log2().clamp(min=-16)
            outside = _escape_bits(module, symbols, indexes)
            total += float(torch.where(outside > 0, outside, inside).sum())
        return total


def _escape_bits(module: Any, symbols: Tensor, indexes: Tensor) -> Tensor:
    """Bits that CompressAI's range coder needs for each symbol outside its table: the table's last entry, the
    number of 4-bit groups, and the distance in these groups. 0 for symbols inside the table."""
    last = module._cdf_length[indexes].long() - 2
    value = symbols.long() - module._offset[indexes].long()
    distance = torch.where(value < 0, -2 * value - 1, 2 * (value - last)).clamp(min=0)
    groups = torch.ceil((distance.double() + 1).log2() / 4)
    count = module._quantized_cdf[indexes, last + 1] - module._quantized_cdf[indexes, last]
    bits = 16 - count.double().log2() + 4 * (groups + torch.floor(groups / 15) + 1)
    return torch.where((value < 0) | (value >= last), bits, 0.0)
