"""What determines a training besides the model and the images; the defaults are the paper's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

#: lambda_d of quality 1..6 (the paper's and CompressAI's table for MSE).
LAMBDAS = {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.013, 5: 0.025, 6: 0.0483}

#: Of a training's arithmetic: see Acceleration.
Precision = Literal["fp32", "tf32", "bf16"]

#: What moves the weights: see lic.training.optimizers.
Optimizer = Literal["adam", "adamw", "soap", "muon"]

#: Of each optimiser, the learning rate that suits it from scratch and from weights that were trained before
#: (docs/benchmarks.md, Optimisers).
LEARNING_RATES: dict[str, tuple[float, float]] = {
    "adam": (1e-3, 4e-4),
    "adamw": (1e-3, 4e-4),
    "soap": (3e-3, 1e-3),
    "muon": (3e-3, 1e-3),
}


def learning_rate(optimizer: Optimizer, start: str) -> float:
    """The learning rate that suits an optimizer, from scratch or from the weights that `start` names."""
    return LEARNING_RATES[optimizer][start != "scratch"]


#: 'paper': L as the plain sum; 'reference': scaled to the paper's geometry (lic.losses.decorrelation).
Scale = Literal["paper", "reference"]


@dataclass(frozen=True)
class TrainingConfig:
    """One training.

    The learning rate is `lr` until the fraction `decay_at` of all steps, then falls along half a
    cosine to `lr * decay_to`. `max_skipped` is the share of an epoch's steps that may be skipped
    for not being finite.
    """

    lmbda: float
    alpha: float = 0.0
    strategy: str = "y"
    scale: Scale = "reference"
    batch: int = 16
    patch: int = 256
    epochs: int = 100
    steps_per_epoch: int = 330
    lr: float = 1e-4
    aux_lr: float = 1e-3
    clip: float = 1.0
    decay_at: float = 0.8
    decay_to: float = 0.1
    max_skipped: float = 0.05
    seed: int = 0
    optimizer: Optimizer = "adam"

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def lr_at(self, step: int) -> float:
        """The learning rate of step 0, 1, ...: constant, then half a cosine down."""
        start = self.decay_at * self.total_steps
        if step < start:
            return self.lr
        done = min(1.0, (step - start) / max(1.0, self.total_steps - start))
        return self.lr * (self.decay_to + (1 - self.decay_to) * 0.5 * (1 + math.cos(math.pi * done)))


@dataclass(frozen=True)
class Acceleration:
    """How a training is computed: what makes it fast and changes no more of it than its rounding.

    `precision`: 'fp32'; 'tf32', in which a GPU's matrix units see 10 bits of a factor; or 'bf16', autocast:
    the transforms in bfloat16, while likelihoods, entropy bottleneck and loss stay in fp32. `channels_last`
    lays images and weights out as CUDA's kernels like them; the CPU's crash on it. `compile` makes fused
    code of the forward and backward pass once, for all rates and weights. `fused_adam` is Adam in one
    pass over each tensor. `resident_images` keeps the training images in the GPU's memory, where they fit,
    and cuts the crops there. `graph` has the GPU go through a whole step by itself, as one CUDA graph, where
    else the host starts some hundred kernels; `autotune` has cuDNN try its kernels on the shapes at hand.
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    fused_adam: bool = True
    resident_images: bool = False
    graph: bool = False
    autotune: bool = False


#: What a CPU is fastest with.
ON_CPU = Acceleration()

#: What a GPU is fastest with, short of bf16: what that costs a full training is measured for the small
#: hyperprior alone (docs/benchmarks.md).
ON_GPU = Acceleration("tf32", channels_last=True, compile=True, resident_images=True, graph=True)
