"""How fast training images come: `python -m tests.bench.data`.

Random crops a second from this package's packed cache (lic.data.crops), in one process, against CompressAI's
own ImageFolder with torchvision's RandomCrop and ToTensor in a DataLoader with 2 worker processes, as its
examples/train.py has them. Both give batches of float32 in [0, 1] from the same files, PNG and JPEG; ours
also flips half of them, and draws the images with replacement, as the other side is made to. The sides take
turns for --rounds rounds; a figure is the median. On a GPU our images lie in its memory and the crops are cut
there, and the other side's batches are sent there. Not counted: packing the cache, starting the workers, and
the first batches of each turn. Needs neither ray nor mlflow nor optuna.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from lic.data.cache import pack_files
from lic.data.crops import RandomCrops
from lic.data.folders import find_images
from tests.bench import machine
from tests.bench.trainings import DEVICE, finish

WORKERS = 2

#: Enough of the first batches for what the workers had ready to be used up.
WARM_UP = 4 * WORKERS


def image_folder(files: list[Path], root: Path) -> Path:
    """Links to the files as CompressAI's ImageFolder wants them, in root/train and not deeper; `root`."""
    (root / "train").mkdir(parents=True)
    for number, path in enumerate(files):
        (root / "train" / f"{number:06}{path.suffix}").symlink_to(path.resolve())
    return root


def compressai_batches(root: Path, patch: int, batch: int) -> Generator[Tensor, None, None]:
    """Batches without end from CompressAI's ImageFolder of the folder root/train."""
    from compressai.datasets import ImageFolder
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision import transforms

    cropped = transforms.Compose([transforms.RandomCrop(patch), transforms.ToTensor()])
    images = ImageFolder(root, split="train", transform=cropped)
    endless = RandomSampler(images, replacement=True, num_samples=1 << 30)
    yield from DataLoader(images, batch_size=batch, sampler=endless, num_workers=WORKERS)


def crops_per_second(batches: Iterator[Tensor], seconds: float) -> float:
    """Crops a second over so many seconds, the batch in which they end included."""
    for found in itertools.islice(batches, WARM_UP):
        assert found.dtype == torch.float32 and found.device.type == DEVICE
        assert DEVICE == "cuda" or found.is_contiguous()
    finish()
    count, started = 0, time.perf_counter()
    while time.perf_counter() < started + seconds:
        count += len(next(batches))
    finish()
    return count / (time.perf_counter() - started)


def compare(
    folder: Path, patch: int, batch: int, rounds: int, seconds: float, root: Path
) -> dict[str, object]:
    """One row of the table: both sides on the images of one folder."""
    files = find_images(folder)
    packed = pack_files(files, folder, root / "cache")
    crops = RandomCrops(packed, patch, batch, 0, DEVICE, resident=DEVICE == "cuda")
    linked, turns = image_folder(files, root / f"{folder.name}-{patch}"), []
    for _ in range(rounds):
        ours = crops_per_second(map(crops.batch, itertools.count()), seconds)
        # Workers of this round alone: they would fill their queue in the other side's time.
        with contextlib.closing(compressai_batches(linked, patch, batch)) as batches:
            turns.append((ours, crops_per_second((part.to(DEVICE) for part in batches), seconds)))
    table = pd.DataFrame(turns, columns=["lictune", "CompressAI"])
    kinds = "/".join(sorted({path.suffix[1:].upper().replace("JPG", "JPEG") for path in files}))
    return {
        "images": f"{len(files)} {kinds} of {folder}", "patch": patch, "batch": batch,
        **{f"{side}_crops_per_s": table[side].median() for side in table},
        "ratio": (table["lictune"] / table["CompressAI"]).median(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/bsds500/train"), help="JPEG images")
    parser.add_argument("--kodak", type=Path, default=Path("../shared/data/kodak"), help="PNG images")
    parser.add_argument("--patch", type=int, nargs="+", default=[64, 256], help="sides of the crops, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each side in a round")
    parser.add_argument("--out", type=Path, help="CSV file to write")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as a trial on the CPU has it
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for folder, patch in itertools.product((args.kodak, args.data), args.patch):
            rows.append(compare(folder, patch, args.batch, args.rounds, args.seconds, Path(temporary)))
    table = pd.DataFrame(rows)
    print(table.round(1).to_string(index=False))
    print(f"on {DEVICE}")
    print(machine.described("torchvision", "compressai", "pillow", "numpy"))
    if args.out:
        table.round(4).to_csv(args.out, index=False)


if __name__ == "__main__":
    main()
