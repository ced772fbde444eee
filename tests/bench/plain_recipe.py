"""A search as Ray Tune's documentation and CompressAI's examples/train.py have it: tests.bench.plain_search
runs it beside ours.

    python -m tests.bench.plain_recipe TASK.json

A function trainable with a model, a DataLoader and two Adams of its own; OptunaSearch, which is given the
points to evaluate; ASHAScheduler with one set of rungs for all rates; MLflowLoggerCallback to SQLite; a
checkpoint after every epoch; no actor used again. What is trained and measured is what TASK.json says, the
same as ours. Where there is a choice, it is the quicker one: no workers for the DataLoader, since every core
has a trial; validation images in batches; none of Ray's own logs (search.cluster.prepare).

OptunaSearch of Ray 2.60 works with Optuna 5 as far as this needs it: it proposes the points in their order.
(That it takes trials that ASHA stopped for complete ones would mislead its own proposals; there are none.)
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from lic.losses.decorrelation import scale_factor
from lic.models.build import build
from lic.recipe import LAMBDAS, TrainingConfig
from lic.training import schedules
from lic.training.weights import load_weights
from search.engine import cluster

cluster.prepare(None)  # Ray reads its environment when it is imported
from ray import tune  # noqa: E402
from ray.air.integrations.mlflow import MLflowLoggerCallback  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402


@dataclass(frozen=True)
class Task:
    """What to train. `training` is that of lic, less the point; `train` a folder as CompressAI's ImageFolder
    wants it; `test_epochs` the epochs after which the `test` images are measured; `points` hold alpha,
    strategy and quality. No trial starts after `minutes`. `root` takes all that is written."""

    model: str
    width: int
    latent_width: int | None
    start: str | None
    training: dict[str, Any]
    grace: int
    eta: int
    train: str
    validation: list[str]
    validation_crop: int | None
    test: list[str]
    test_epochs: list[int]
    points: list[dict[str, Any]]
    workers: int
    minutes: float | None
    root: str


@dataclass(frozen=True)
class Epoch:
    """Where the time of an epoch went. `proposed` says when its trial was, `ended` when it had been trained
    and measured, in seconds since 1970."""

    trial: str
    epoch: int
    proposed: float
    ended: float
    train_seconds: float
    eval_seconds: float

    @property
    def began(self) -> float:
        return self.ended - self.train_seconds - self.eval_seconds


#: In the root: the epochs of all trials, and how many trials broke off.
FOUND = "found.json"

#: Validation images that are evaluated at once.
VALIDATION_BATCH = 8


class Files(Dataset[Tensor]):
    """Images from a list of files."""

    def __init__(self, files: list[str], transform: Any) -> None:
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return self.transform(Image.open(self.files[index]).convert("RGB"))


def decorrelation(features: Tensor) -> Tensor:
    """Equations (9) and (10), for F of shape N x C x H x W."""
    centred = features - features.mean(dim=0, keepdim=True)
    return torch.einsum("nuhw,nvhw->hwuv", centred, centred).abs().sum()


def penalty(latents: dict[str, Tensor], strategy: str, training: TrainingConfig) -> Tensor:
    """L of the strategy's latents, on the scale of the training."""
    pixels, total = training.patch**2, torch.zeros(())
    for name in strategy.split("+"):
        count, channels = latents[name].shape[:2]
        total = total + scale_factor(count, pixels, channels, training.scale) * decorrelation(latents[name])
    return total


def validation_cost(model: nn.Module, images: DataLoader[Tensor], criterion: nn.Module) -> float:
    """rate + lambda D, as examples/train.py tests an epoch."""
    total, count = 0.0, 0
    with torch.no_grad():
        for batch in images:
            total += len(batch) * criterion(model(batch), batch)["loss"].item()
            count += len(batch)
    return total / count


def reported_figures(model: nn.Module, files: list[str]) -> dict[str, float]:
    """bpp, PSNR and MS-SSIM as CompressAI's own evaluation measures them, with --entropy-estimation."""
    from compressai.utils.eval_model.__main__ import inference_entropy_estimation, read_image

    rows = [inference_entropy_estimation(model, read_image(Path(file))) for file in files]
    names = ("bpp", "psnr-rgb", "ms-ssim-rgb")
    return {f"test/{name}": sum(row[name] for row in rows) / len(rows) for name in names}


def train(config: dict[str, Any], task: Task) -> None:  # size: one function, as such recipes are written
    """The trainable: one trial from its first to its last epoch."""
    from compressai.datasets import ImageFolder
    from compressai.losses import RateDistortionLoss

    torch.set_num_threads(1)
    training, lmbda = TrainingConfig(lmbda=0.0, **task.training), LAMBDAS[config["quality"]]
    model = build(task.model, task.width, task.latent_width, training.seed)
    if task.start is not None:
        load_weights(model, Path(task.start))
    latents: dict[str, Tensor] = {}
    model.get_submodule("g_a").register_forward_hook(lambda _module, _inputs, y: latents.update(y=y))
    model.get_submodule("h_a").register_forward_hook(lambda _module, _inputs, z: latents.update(z=z))

    cropped = transforms.Compose([transforms.RandomCrop(training.patch), transforms.ToTensor()])
    images = ImageFolder(task.train, split="train", transform=cropped)
    in_epoch = RandomSampler(images, replacement=True, num_samples=training.steps_per_epoch * training.batch)
    batches = DataLoader(images, batch_size=training.batch, sampler=in_epoch)
    centre = [transforms.CenterCrop(task.validation_crop)] if task.validation_crop else []
    validation = DataLoader(
        Files(task.validation, transforms.Compose([*centre, transforms.ToTensor()])),
        batch_size=VALIDATION_BATCH if centre else 1,
    )

    named = list(model.named_parameters())
    weights = [parameter for name, parameter in named if not name.endswith(".quantiles")]
    quantiles = [parameter for name, parameter in named if name.endswith(".quantiles")]
    optimizer = torch.optim.Adam(weights, lr=training.lr)
    aux_optimizer = torch.optim.Adam(quantiles, lr=training.aux_lr)
    rates = schedules.build(training)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates.rate(step) / training.lr)
    criterion = RateDistortionLoss(lmbda=lmbda)

    for epoch in range(1, training.epochs + 1):
        began = time.time()
        model.train()
        for batch in batches:
            optimizer.zero_grad()
            aux_optimizer.zero_grad()
            loss = criterion(model(batch), batch)["loss"]
            loss = loss + lmbda * config["alpha"] * penalty(latents, config["strategy"], training)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), training.clip)
            optimizer.step()
            aux_loss = model.aux_loss()  # type: ignore[operator]
            aux_loss.backward()
            aux_optimizer.step()
            schedule.step()
        trained = time.time()
        model.eval()
        figures = {"rd_cost": validation_cost(model, validation, criterion)}
        if epoch in task.test_epochs:
            figures |= reported_figures(model, task.test)
        ended = time.time()
        figures |= {"ended": ended, "train_seconds": trained - began, "eval_seconds": ended - trained}
        with tempfile.TemporaryDirectory() as folder:
            state = {
                "epoch": epoch,
                "state_dict": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "aux_optimizer": aux_optimizer.state_dict(),
                "lr_scheduler": schedule.state_dict(),
            }
            torch.save(state, Path(folder) / "checkpoint.pth.tar")
            tune.report(figures, checkpoint=tune.Checkpoint.from_directory(folder))


class TimedSearch(OptunaSearch):
    """OptunaSearch that notes when it proposed a trial, and proposes none after the deadline."""

    def __init__(self, deadline: float, **options: Any) -> None:
        super().__init__(**options)
        self.deadline = deadline
        self.proposed: dict[str, float] = {}

    def suggest(self, trial_id: str) -> Any:
        if time.time() > self.deadline:
            return Searcher.FINISHED
        proposed = time.time()
        if (found := super().suggest(trial_id)) is not None:
            self.proposed[trial_id] = proposed
        return found


class Watch(tune.Callback):
    """Keeps where the time of every epoch went, and says when a trial ends."""

    def __init__(self, search: TimedSearch, trials: int) -> None:
        self.search, self.trials, self.ended, self.failed = search, trials, 0, 0
        self.epochs: list[Epoch] = []

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        times = {key: result[key] for key in ("ended", "train_seconds", "eval_seconds")}
        proposed = self.search.proposed[trial.trial_id]
        self.epochs.append(Epoch(trial.trial_id, result["training_iteration"], proposed, **times))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended += 1
        last = trial.last_result
        print(
            f"{self.ended}/{self.trials} {trial.config} ended after epoch {last['training_iteration']}, "
            f"rd_cost {last['rd_cost']:.4f}",
            flush=True,
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.failed += 1
        print(f"{trial.config} broke off: {trial.error_file}", flush=True)


def run(task: Task) -> Watch:
    """Search; where the time went."""
    epochs = task.training["epochs"]
    deadline = time.time() + 60 * task.minutes if task.minutes else float("inf")
    search = TimedSearch(deadline, metric="rd_cost", mode="min", points_to_evaluate=task.points)
    watch = Watch(search, len(task.points))
    alphas = [point["alpha"] for point in task.points]
    space = {
        # A little wider than its points, so that rounding puts none outside.
        "alpha": tune.loguniform(0.99 * min(alphas), 1.01 * max(alphas)),
        "strategy": tune.choice(["y", "z", "y+z"]),
        "quality": tune.choice(list(LAMBDAS)),
    }
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(train, task=task), {"CPU": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=ASHAScheduler(
                metric="rd_cost", mode="min", max_t=epochs, grace_period=task.grace, reduction_factor=task.eta
            ),
            num_samples=len(task.points),
            max_concurrent_trials=task.workers,
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=task.root,
            verbose=0,
            callbacks=[
                MLflowLoggerCallback(
                    tracking_uri=f"sqlite:///{task.root}/mlflow.db", experiment_name="plain"
                ),
                watch,
            ],
        ),
    )
    tuner.fit()
    return watch


def main() -> None:
    task = Task(**json.loads(Path(sys.argv[1]).read_text()))
    cluster.connect(None, task.workers)
    try:
        watch = run(task)
    finally:
        cluster.disconnect()
    found = {"failed": watch.failed, "epochs": [asdict(epoch) for epoch in watch.epochs]}
    (Path(task.root) / FOUND).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
