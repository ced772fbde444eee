"""The configuration of a training run besides model and images; the defaults are the paper's."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

#: lambda_d of quality 1..6 (the paper's and CompressAI's table for MSE).
LAMBDAS = {1: 0.0018, 2: 0.0035, 3: 0.0067, 4: 0.013, 5: 0.025, 6: 0.0483}

#: lambda_d of quality 1..6 for the distortion 1 - MS-SSIM (CompressAI's table).
LAMBDAS_MS_SSIM = {1: 2.40, 2: 4.58, 3: 8.73, 4: 16.64, 5: 31.73, 6: 60.50}

#: How many times larger the MSE is taken to be than 1 - MS-SSIM: the mean ratio of CompressAI's two tables of
#: lambda, which is 1253 to 1333.
MSE_PER_MS_SSIM = 1290.0

#: Maximum number of lambdas of a search; its qualities are numbered from 1.
MOST_QUALITIES = 99

#: Training precision: see Acceleration.
Precision = Literal["fp32", "tf32", "bf16"]

#: See lic.training.optimizers.
Optimizer = Literal["adam", "adamw", "soap", "muon"]

#: See lic.training.schedules.
Schedule = Literal["constant-cosine", "cosine", "one-cycle", "plateau"]

#: Learning rate per optimizer, from scratch and from pretrained weights (docs/benchmarks.md, Optimisers).
LEARNING_RATES: dict[str, tuple[float, float]] = {
    "adam": (1e-3, 4e-4),
    "adamw": (1e-3, 4e-4),
    "soap": (3e-3, 1e-3),
    "muon": (3e-3, 1e-3),
}


def learning_rate(optimizer: Optimizer, start: str) -> float:
    """The default learning rate of an optimizer, for training from scratch or from pretrained weights."""
    return LEARNING_RATES[optimizer][start != "scratch"]


#: 'paper': L is the plain sum; 'reference': scaled to the paper's geometry (lic.losses.decorrelation).
Scale = Literal["paper", "reference"]


#: What L is (lic.losses.regularizers), by name of the regularizer.
REGULARIZERS = {
    "covariance": "the sum of the absolute covariances of all pairs of channels at each position",
    "off-diagonal": "the sum of the absolute covariances of different channels at each position",
    "pooled": "the sum of the absolute covariances of different channels, pooled over batch and positions",
    "correlation": "the sum of the squared correlations of channels, pooled over batch and positions",
    "vicreg": "the variance and covariance terms of VICReg, pooled over batch and positions",
}

#: Values of the options of a training run in records from before the option existed.
BEFORE = {
    "optimizer": "adam", "regularizer": "covariance", "schedule": "constant-cosine", "ema": 0.0,
    "accumulate": 1, "distortion": "mse",
}  # fmt: skip


#: The fields in which a training run may differ from the baseline from whose checkpoint it starts: nothing
#: that the checkpoint holds depends on them.
FORKABLE = ("alpha", "clip", "decay_at", "decay_to", "lr", "regularizer", "scale", "strategy")


@dataclass(frozen=True)
class Distortion:
    """The distortion D = `mse` MSE + `ms_ssim` (1 - MS-SSIM) of the loss R + lambda (D + `unit` alpha L), the
    MSE on the 0..255 scale.

    `unit` is the size of D relative to the MSE. With it alpha means the same for all distortions, and
    `unit` lambda is comparable with LAMBDAS.
    """

    mse: float = 1.0
    ms_ssim: float = 0.0
    unit: float = 1.0

    @staticmethod
    def of(text: str) -> Distortion:
        """The distortion by name: 'mse', which is the MSE; 'ms-ssim', which is 1 - MS-SSIM; or a weighted sum
        such as '0.5*mse+0.5*ms-ssim', in which MS-SSIM counts MSE_PER_MS_SSIM (1 - MS-SSIM), and lambda
        multiplies the whole sum. A weight that is not given is 1. Raises ValueError."""
        if text == "ms-ssim":
            return Distortion(0.0, 1.0, 1 / MSE_PER_MS_SSIM)
        if text == "mse":
            return Distortion()
        terms = [re.fullmatch(r"(?:(\d+\.?\d*|\.\d+)\*)?(mse|ms-ssim)", term) for term in text.split("+")]
        weights = {term[2]: float(term[1] or 1) for term in terms if term}
        if len(terms) != 2 or len(weights) != 2 or not all(0 < weight < 1e6 for weight in weights.values()):
            raise ValueError("choose mse, ms-ssim, or a weighted sum such as 0.5*mse+0.5*ms-ssim")
        return Distortion(weights["mse"], weights["ms-ssim"] * MSE_PER_MS_SSIM)

    @property
    def lambdas(self) -> dict[int, float]:
        """The default lambda_d by quality."""
        return LAMBDAS if self.mse else LAMBDAS_MS_SSIM

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that have a weight: 'mse', 'ms_ssim' or both."""
        return tuple(name for name in ("mse", "ms_ssim") if getattr(self, name))

    def __call__(self, mse: Any, ms_ssim: Any = None) -> Any:
        """D of an MSE on the 0..255 scale and an MS-SSIM, which is not needed where it has no weight: of
        numbers, arrays or tensors."""
        if not self.ms_ssim:
            return mse
        similarity = self.ms_ssim * (1 - ms_ssim)
        return similarity + self.mse * mse if self.mse else similarity

    def formula(self) -> str:
        """D in words, as a model card has it."""
        if not self.ms_ssim:
            return "the MSE on the 0..255 scale"
        similarity = f"{self.ms_ssim:g} (1 - MS-SSIM)"
        return f"{self.mse:g} MSE (on the 0..255 scale) + {similarity}" if self.mse else "1 - MS-SSIM"


#: The distortion of searches that do not choose another one.
MSE = Distortion()


@dataclass(frozen=True)
class TrainingConfig:
    """The configuration of one training run.

    The learning rate begins or peaks at `lr` and ends at `lr * decay_to`, by `schedule`; 'constant-cosine' is
    constant up to the fraction `decay_at` of all steps. `max_skipped` is the fraction of an epoch's steps
    that may be skipped because their loss or gradient is not finite. `regularizer` is a name in REGULARIZERS
    or MODULE:FUNCTION. `ema` is the decay of the average of the weights, which is evaluated; 0: none. A step
    computes its batch in `accumulate` parts of equal size, one after another. `distortion` is that of
    Distortion.of.
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
    regularizer: str = "covariance"
    schedule: Schedule = "constant-cosine"
    ema: float = 0.0
    accumulate: int = 1
    distortion: str = "mse"

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Acceleration:
    """Options that make training faster and change results only by rounding.

    `precision`: 'fp32'; 'tf32', 10-bit mantissas in matrix products on a GPU; or 'bf16', autocast of the
    transforms to bfloat16, while likelihoods, entropy bottleneck and loss stay in fp32. `channels_last`
    is the memory format that suits CUDA's kernels; the CPU's kernels crash on it. `compile` compiles the
    forward and backward pass once, for all qualities and weights. `fused_adam` uses torch's fused Adam.
    `resident_images` keeps the training images in GPU memory, if they fit, and crops there. `graph` runs a
    whole step as one CUDA graph instead of some hundred kernel launches. `autotune` lets cuDNN benchmark its
    kernels.
    """

    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    fused_adam: bool = True
    resident_images: bool = False
    graph: bool = False
    autotune: bool = False


#: Fastest options on a CPU.
ON_CPU = Acceleration()

#: Fastest options on a GPU except bf16, whose effect on a full training run is measured only for the small
#: hyperprior (docs/benchmarks.md).
ON_GPU = Acceleration("tf32", channels_last=True, compile=True, resident_images=True, graph=True)
