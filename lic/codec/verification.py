"""Verifies, image by image, that the models of a zoo encode and decode correctly.

There are two measures of rate. Training and search use the entropy estimate: the model's probabilities of y
rounded around zero, with the predicted scales. Actual coding rounds y around the predicted mean in
autoregressive models, so its reconstruction differs, and it uses the tables of the next larger of 64 scales.
The verification compares the decoder's pixels with the encoder's reconstruction, and the length of the
streams with the information content of their symbols at those scales.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lic.codec.bitstream import decode, encode, mark_of, pack, unpack
from lic.data.images import read_rgb
from lic.evaluation.evaluate import measure_image, psnr, similarity
from lic.machine import usable_cores
from lic.zoo import ZooModel

#: Tolerance between actual bits and information content: this fraction, plus bytes per stream.
SHARE, BYTES_PER_STREAM = 0.01, 32

#: How far the PSNR of actual coding may be below that of the forward pass, in dB, for a user's own model:
#: its encoder's reconstruction is known from its own decoder only.
LOSS = 1.0


class VerificationError(RuntimeError):
    """A model does not code correctly; the message names model and image."""


def verify(
    models: Iterable[ZooModel],
    images: list[Path],
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Encode and decode every image with every model, one row each; `progress` gets the number of rows done
    and of all rows.

    Columns: quality, role, image (its path below the common folder), height, width; streams, bytes
    (of the streams), file_bytes, ideal_bits; bpp, psnr, ms_ssim of actual coding; estimated_bpp,
    estimated_psnr, estimated_ms_ssim of the forward pass; encoding_time, decoding_time in seconds on one
    core. Raises VerificationError, ImageError.
    """
    # Where the baseline was selected, both roles have the same weights: code them once.
    wanted = list(models)
    distinct = {model.sha256: model for model in wanted}
    below = Path(os.path.commonpath([path.parent for path in images]))
    tasks = [(model, path, below) for model in distinct.values() for path in images]
    # Not fork: a forked copy of a process that has used torch's threads can hang.
    with ProcessPoolExecutor(processes or usable_cores(), get_context("spawn")) as pool:
        try:
            rows: list[dict[str, object]] = []
            for row in pool.map(_verify_one, tasks):
                rows.append(row)
                if progress is not None:
                    progress(len(rows), len(tasks))
        except BrokenProcessPool as error:
            raise VerificationError(
                "a verification process was killed, perhaps out of memory; give fewer --processes"
            ) from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    measured: dict[str, list[dict[str, object]]] = {}
    for (model, *_), row in zip(tasks, rows, strict=True):
        measured.setdefault(model.sha256, []).append(row)
    return pd.DataFrame(
        {"quality": model.config.quality, "role": model.role, **row}
        for model in wanted
        for row in measured[model.sha256]
    )


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the images per quality and role (NaN if an image has no value), plus `bits_off` and
    `estimate_off`: the largest deviations of actual bits from the information content of the symbols and from
    the entropy estimate, in percent."""
    real, pixels = 8 * table["bytes"], table["height"] * table["width"]
    off = {
        "bits_off": 100 * (real / table["ideal_bits"] - 1),
        "estimate_off": 100 * (real / (table["estimated_bpp"] * pixels) - 1),
    }
    grouped = table.assign(**off).groupby(["quality", "role"])
    columns = [column for column in table.columns if column.endswith(("bpp", "psnr", "ms_ssim", "_time"))]
    largest = grouped[list(off)].agg(_largest)
    return grouped[columns].mean(skipna=False).join(largest).reset_index()


def _largest(values: pd.Series) -> float:
    return float(max(values, key=abs))


@functools.lru_cache(maxsize=1)
def _loaded(model: ZooModel) -> torch.nn.Module:
    torch.set_num_threads(1)
    return model.load()


def _verify_one(task: tuple[ZooModel, Path, Path]) -> dict[str, object]:
    entry, path, below = task
    model, pixels = _loaded(entry), read_rgb(path)
    started = time.perf_counter()
    coded = encode(model, pixels)
    content = pack(coded, mark_of(entry.sha256))
    encoded = time.perf_counter()
    decoded = decode(model, unpack(content))
    ended = time.perf_counter()
    if not np.array_equal(decoded, coded.reconstruction):
        raise VerificationError(f"{entry.config.name} does not decode {path.name} to what it encoded")
    size = sum(len(stream) for stream in coded.streams)
    off, allowed = 8 * size - coded.ideal_bits, 8 * BYTES_PER_STREAM * len(coded.streams)
    if abs(off) > SHARE * coded.ideal_bits + allowed:
        raise VerificationError(
            f"{entry.config.name} needs {8 * size} bits for {path.name}, but the information content is "
            f"{coded.ideal_bits:.0f} bits: its entropy-coder tables do not fit its weights"
        )
    height, width, _ = pixels.shape
    original, x_hat = (torch.from_numpy(image).permute(2, 0, 1)[None].float() for image in (pixels, decoded))
    estimate, coded_psnr = measure_image(model, pixels), psnr(float((original - x_hat).square().mean()))
    if entry.config.own is not None and coded_psnr < estimate["psnr"] - LOSS:
        raise VerificationError(
            f"{entry.config.name} decodes {path.name} at {coded_psnr:.2f} dB, but its forward pass has "
            f"{estimate['psnr']:.2f} dB: compress and decompress do not agree with forward"
        )
    return {
        "image": path.relative_to(below).as_posix(),
        "height": height,
        "width": width,
        "streams": len(coded.streams),
        "bytes": size,
        "file_bytes": len(content),
        "ideal_bits": coded.ideal_bits,
        "bpp": 8 * size / (height * width),
        "psnr": coded_psnr,
        "ms_ssim": similarity(x_hat, original)[0],
        **{f"estimated_{name}": estimate[name] for name in ("bpp", "psnr", "ms_ssim")},
        "encoding_time": encoded - started,
        "decoding_time": ended - encoded,
    }
