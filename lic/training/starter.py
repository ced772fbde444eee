"""Train the starter weights that ship with the repository (`make starter`).

Small searches start all training runs from these weights, because a few hundred
steps from scratch give useless models. Each architecture has one starter,
trained at one quality; a search then trains it further at each quality.

On patches of 64 x 64 pixels z has a single position, surrounded by padding, so
the hyper-decoder learns scales that are wrong for whole images: take 128 at
least. --again trains existing weights further.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lic.cli import answered, run_command
from lic.data.cache import default_cache
from lic.files import path_argument
from lic.models.architectures import starter_path
from lic.recipe import LAMBDAS, LEARNING_RATES, TrainingConfig, learning_rate

if TYPE_CHECKING:
    from lic.data.cache import PackedImages
    from lic.training.trainer import Trainer


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m lic.training.starter",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", help="cheng, hyperprior or a CompressAI architecture")
    add("--width", type=int, required=True, metavar="N", help="channels N")
    add("--latent-width", type=int, metavar="N", help="latent channels M (default: N)")
    add(
        "--data", type=path_argument, metavar="DIR",
        help="folder of training images (default: generated dead leaves images)",
    )  # fmt: skip
    add("--quality", type=int, default=6, choices=LAMBDAS, help="quality level to train (default: 6)")
    add("--epochs", type=int, default=16, metavar="N", help="epochs of 1,000 steps each (default: 16)")
    add("--optimizer", default="muon", choices=LEARNING_RATES, help="(default: muon)")
    add("--lr", type=float, metavar="X", help="learning rate (default: the optimizer's own)")
    add("--patch", type=int, default=128, metavar="N", help="patch size, in pixels (default: 128)")
    add("--batch", type=int, default=4, metavar="N", help="batch size, in patches (default: 4)")
    add("--again", action="store_true", help="start from the existing starter weights")
    add("--half", action="store_true", help="write float16 weights, half the size")
    add("--threads", type=int, default=1, metavar="N", help="number of CPU threads (default: 1)")
    add(
        "--work", type=path_argument, default=Path("results/starters"), metavar="DIR",
        help="folder for checkpoints (default: results/starters)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    return answered(lambda: _train(args))


def _train(args: argparse.Namespace) -> None:
    """Train as the command line says; write the weights and, beside them, their provenance as JSON."""
    import torch

    from lic import atomic_io
    from lic.data.crops import RandomCrops
    from lic.data.sets import training_and_validation
    from lic.models.acceleration import keep_freed_memory
    from lic.models.build import build
    from lic.training.trainer import Trainer
    from lic.training.weights import load_weights, save_weights

    torch.set_num_threads(args.threads)
    keep_freed_memory()

    target = starter_path(args.model, args.width, args.latent_width)
    config = TrainingConfig(
        lmbda=LAMBDAS[args.quality],
        batch=args.batch,
        patch=args.patch,
        epochs=args.epochs,
        steps_per_epoch=1000,
        lr=args.lr or learning_rate(args.optimizer, "auto" if args.again else "scratch"),
        optimizer=args.optimizer,
        decay_at=0.3,
        decay_to=0.01,
    )
    images = training_and_validation(args.data, 1, default_cache())[0].images
    crops = RandomCrops(images, config.patch, config.batch, config.seed)
    model, before = build(args.model, args.width, args.latent_width), None
    if args.again:
        load_weights(model, target)
        before = json.loads(target.with_suffix(".json").read_text())
    trainer = Trainer(model, config, crops)
    metrics = _epochs(trainer, args.work / f"{target.stem}-{args.patch}.pt")
    save_weights(trainer.final_model, target, args.half)
    provenance = {**_provenance(args, trainer, images), "last_epoch": metrics, "started_from": before}
    atomic_io.write(target.with_suffix(".json"), json.dumps(provenance, indent=2) + "\n")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.2f} MiB)")


def _epochs(trainer: Trainer, checkpoint: Path) -> dict[str, float]:
    """Train to the end, from the checkpoint if it is there; the metrics of the last epoch."""
    config = trainer.config
    if checkpoint.is_file():
        trainer.load(checkpoint)
        print(f"resuming from epoch {trainer.epoch} of {checkpoint}", flush=True)
    metrics: dict[str, float] = {}
    started, first = time.perf_counter(), trainer.epoch
    while trainer.epoch < config.epochs:
        metrics = trainer.run_epoch()
        trainer.save(checkpoint)
        left = (time.perf_counter() - started) / (trainer.epoch - first)
        left *= config.epochs - trainer.epoch
        print(
            f"epoch {trainer.epoch}/{config.epochs}: loss {metrics['loss']:.4f}, "
            f"mse {metrics['mse']:.1f}, {left / 60:.0f} min left",
            flush=True,
        )
    return metrics


def _provenance(args: argparse.Namespace, trainer: Trainer, images: PackedImages) -> dict[str, Any]:
    """Where the weights come from."""
    from lic.models.build import parameter_count

    config = trainer.config
    return {
        "model": args.model,
        "width": args.width,
        "latent_width": args.latent_width or args.width,
        "parameters": parameter_count(trainer.model),
        "data": "/".join(Path(args.data).resolve().parts[-2:]) if args.data else "dead leaves",
        "data_fingerprint": images.fingerprint,
        "images": len(images),
        "training": {key: getattr(config, key) for key in config.__dataclass_fields__},
        "half": args.half,
        "versions": {name: version(name) for name in ("torch", "compressai")},
    }


if __name__ == "__main__":
    sys.exit(run_command(main))
