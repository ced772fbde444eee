"""How far apart six rates can lie on an image set, by the number of latent channels at 1/16 of the size.

    python -m tests.bench.latent_span --train DIR --images DIR

A linear bound: the KLT of 16 x 16 blocks of the training images, with only the first K of its 768
coefficients. The highest quality is that of keeping them exactly. The lowest is that of lambda: reverse
water-filling leaves min(energy, level) of a coefficient, and with R in bits per pixel, D the mean
squared error over the 768 values of a block and dR/dD = -lambda, level = 3 / (2 ln 2 lambda).
A model with few latent channels cannot spread its rates, however long it trains.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lic.losses.criterion import PEAK
from lic.recipe import LAMBDAS

SIDE = 16


def blocks(path: Path) -> NDArray[np.float64]:
    """The 16 x 16 x 3 blocks of an image as rows."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.float64)
    high, wide = (side // SIDE for side in pixels.shape[:2])
    pixels = pixels[: high * SIDE, : wide * SIDE].reshape(high, SIDE, wide, SIDE, 3)
    return pixels.transpose(0, 2, 1, 3, 4).reshape(high * wide, -1)


def psnr(error: float) -> float:
    return 10 * math.log10(PEAK**2 / error)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="folder of images for the transform")
    parser.add_argument("--images", type=Path, required=True, help="folder of images to measure")
    args = parser.parse_args()

    found = sorted(p for p in args.train.rglob("*") if p.suffix.lower() in (".jpg", ".png"))
    sample = np.concatenate([blocks(path)[::7] for path in found])
    mean = sample.mean(0)
    basis = np.linalg.eigh(np.cov((sample - mean).T))[1][:, ::-1]
    energies = [((blocks(path) - mean) @ basis) ** 2 for path in sorted(args.images.glob("*.png"))]
    level = 3 / (2 * math.log(2) * min(LAMBDAS.values()))
    print("channels  lowest, dB  highest, dB  apart, dB")
    for channels in (8, 16, 24, 32, 48, 64, 96):
        lowest, highest = [], []
        for energy in energies:
            lost = energy.mean(0)[channels:].sum()
            coded = np.minimum(energy[:, :channels], level).mean(0).sum()
            size = energy.shape[1]
            lowest.append(psnr((lost + coded) / size))
            highest.append(psnr(lost / size))
        low, high = float(np.mean(lowest)), float(np.mean(highest))
        print(f"{channels:8d}  {low:10.2f}  {high:11.2f}  {high - low:9.2f}")


if __name__ == "__main__":
    main()
