"""Train the starter models that ship with the repository: `make starter`.

A small model trained from scratch for a search's few hundred steps is worthless at every rate, so
small searches start all their trainings from these weights. One model per architecture, trained
at one rate; a search's own steps then move it to each of the six. A second call with `--again` and
larger patches mends what small ones spoil: on 64 x 64 pixels z is a single position, whose
neighbours are padding, and the scales that the hyper-decoder learns there are wrong on whole images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from lic.cli import run_command
from lic.data.cache import default_cache
from lic.files import path_argument
from lic.models.architectures import starter_path
from lic.recipe import LAMBDAS, TrainingConfig


def main() -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", help="an alias or a CompressAI architecture")
    parser.add_argument("--width", type=int, required=True, help="channels N")
    parser.add_argument("--latent-width", type=int, help="latent channels M (default: N)")
    parser.add_argument("--data", type=path_argument, help="folder of images (default: dead leaves)")
    parser.add_argument("--quality", type=int, default=5, choices=LAMBDAS, help="rate to train at")
    parser.add_argument("--epochs", type=int, default=40, help="of 1,000 steps each")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--again", action="store_true", help="go on from the weights that are there")
    parser.add_argument("--half", action="store_true", help="write half precision, half as large")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work", type=path_argument, default=Path("results/starters"), help="for checkpoints"
    )
    _train(parser.parse_args())
    return 0


def _train(args: argparse.Namespace) -> None:
    """Train as the command line says, and keep the weights beside where they came from."""
    import torch

    from lic import atomic_io
    from lic.data.crops import RandomCrops
    from lic.data.sets import training_and_validation
    from lic.models.acceleration import keep_freed_memory
    from lic.models.build import build, parameter_count
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
        lr=args.lr,
        decay_at=0.5,
        decay_to=0.02,
    )
    images = training_and_validation(args.data, 1, default_cache())[0].images
    crops = RandomCrops(images, config.patch, config.batch, config.seed)
    model, before = build(args.model, args.width, args.latent_width), None
    if args.again:
        load_weights(model, target)
        before = json.loads(target.with_suffix(".json").read_text())
    trainer = Trainer(model, config, crops)
    checkpoint = args.work / f"{target.stem}-{args.patch}.pt"
    if checkpoint.is_file():
        trainer.load(checkpoint)
        print(f"going on from epoch {trainer.epoch} of {checkpoint}", flush=True)
    readings: dict[str, float] = {}
    started, first = time.perf_counter(), trainer.epoch
    while trainer.epoch < config.epochs:
        readings = trainer.run_epoch()
        trainer.save(checkpoint)
        left = (time.perf_counter() - started) / (trainer.epoch - first)
        left *= config.epochs - trainer.epoch
        print(
            f"epoch {trainer.epoch}/{config.epochs}: loss {readings['loss']:.4f}, "
            f"mse {readings['mse']:.1f}, {left / 60:.0f} min left",
            flush=True,
        )
    save_weights(trainer.model, target, args.half)
    provenance = {
        "model": args.model,
        "width": args.width,
        "latent_width": args.latent_width or args.width,
        "parameters": parameter_count(trainer.model),
        "data": Path(args.data).name if args.data else "dead leaves",
        "data_fingerprint": images.fingerprint,
        "images": len(images),
        "training": {key: getattr(config, key) for key in config.__dataclass_fields__},
        "last_epoch": readings,
        "started_from": before,
        "half": args.half,
        "versions": {name: version(name) for name in ("torch", "compressai")},
    }
    atomic_io.write(target.with_suffix(".json"), json.dumps(provenance, indent=2) + "\n")
    print(f"wrote {target} ({target.stat().st_size / 2**20:.2f} MiB)")


if __name__ == "__main__":
    sys.exit(run_command(main))
