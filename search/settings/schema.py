"""The schema of a search's settings: types, bounds, defaults and descriptions."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from lic.files import user_path
from lic.models.architectures import OwnModel, is_own
from lic.recipe import LAMBDAS, REGULARIZERS, Optimizer, Precision, Scale, Schedule, TrainingConfig
from search.base.space import ALPHA_MAX, ALPHA_MIN, MOST_EPOCHS, fork_epoch, parse_rates
from search.settings.mappings import check_arguments, check_latents, mapping

#: Settings that are paths (some also accept a keyword, such as 'auto').
PATHS = ("data", "kodak", "test", "cache", "start", "results", "warm_start")

#: Characters allowed in a name besides letters and digits of any script, and its maximum length: it names a
#: folder (at most 255 bytes), an Optuna study, an MLflow experiment and a prefix in an object store.
_NAME_MARKS, _NAME_LENGTH, _NAME_BYTES = " ._-+=@", 100, 200


def _setting(group: str, default: Any, help: str, **bounds: Any) -> Any:
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class Settings(BaseModel):
    """All settings of a search, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = _setting(
        "What to search",
        "cheng",
        "model architecture: cheng, hyperprior or a CompressAI name such as mbt2018-mean, or MODULE:CLASS of "
        "your own",
    )
    model_args: dict[str, Any] = _setting(
        "What to search",
        {},
        'arguments of a model of your own: N=96,M=128, or a mapping such as {"N": 96, "act": "relu"}',
    )
    latents: dict[str, str] = _setting(
        "What to search",
        {},
        "modules of a model of your own whose outputs are the latents, such as y=analysis,z=hyper.analysis "
        "(default: those named g_a and h_a)",
    )
    preset: str = _setting(
        "What to search", "auto", "paper, fast, tiny, or auto: fast on a GPU, tiny on a CPU"
    )
    budget: int = _setting("What to search", 64, "number of trials, not counting baselines", ge=1, le=100_000)
    noise_seeds: int = _setting(
        "What to search",
        0,
        "train each baseline on N further seeds, instead of as many trials, to measure the noise between "
        "seeds; --confirm reuses them",
        ge=0,
        le=100,
    )
    max_hours: float | None = _setting(
        "What to search", None, "stop the search after this many hours (default: no limit)", gt=0, le=1e6
    )
    max_gpu_hours: float | None = _setting(
        "What to search",
        None,
        "stop the search after this many GPU hours of training (default: no limit)",
        gt=0,
        le=1e9,
    )
    reuse_baselines: bool = _setting(
        "What to search", True, "reuse baselines of earlier searches with the same training setup"
    )
    confirm: int | None = _setting(
        "What to search",
        None,
        "after the search, retrain the top N points per quality on fresh seeds, in full even with --fork-at, "
        "each until its 95 % interval excludes 0 or it has --seeds",
        ge=1,
        le=1000,
    )
    seeds: int = _setting(
        "What to search", 3, "maximum number of fresh seeds per point for --confirm", ge=1, le=1000
    )
    warm_start: str | None = _setting(
        "What to search", None, "an earlier search (name or folder) whose trials the sampler also uses"
    )
    rates: tuple[int, ...] = _setting(
        "What to search", tuple(LAMBDAS), "quality levels to search, such as 1-6 or 1,3,5"
    )
    strategies: tuple[str, ...] = _setting(
        "What to search",
        (),
        "latents to decorrelate: y, z, y+z or several, such as y,y+z (default: all that the model supports)",
    )
    alpha_min: float = _setting(
        "What to search", ALPHA_MIN, "lower bound of the decorrelation weight alpha", gt=0, le=1e35
    )
    alpha_max: float = _setting(
        "What to search", ALPHA_MAX, "upper bound of the decorrelation weight alpha", gt=0, le=1e38
    )
    seed: int = _setting(
        "What to search", 0, "random seed for weights, batches and proposals", ge=0, lt=2**32
    )
    objective: Literal["bd-rate-psnr", "bd-rate-msssim", "rd-cost"] = _setting(
        "What to search",
        "bd-rate-psnr",
        "what a trial minimizes on the selection images, in percent of the bit rate; bd-rate-psnr, "
        "bd-rate-msssim: rate change at equal PSNR or MS-SSIM along the baselines' curve; rd-cost: change of "
        "R + lambda D",
    )
    sampler: Literal["surrogate", "tpe", "gp", "random", "grid"] = _setting(
        "What to search",
        "surrogate",
        "surrogate: the built-in Gaussian process; tpe, gp, random: Optuna's samplers, one study for all "
        "qualities; grid: a grid of alphas",
    )
    stopping: bool = _setting("What to search", True, "stop poor trials early (ASHA, separately per quality)")
    grace: int = _setting("What to search", 1, "epochs before a trial can be stopped", ge=1, lt=MOST_EPOCHS)
    eta: int = _setting("What to search", 3, "reduction factor: one in N trials passes a rung", ge=2, le=1000)
    fork_at: float = _setting(
        "What to search",
        0.0,
        "start each trial from its baseline's checkpoint after this fraction of the epochs and train only "
        "the rest (default: 0, train in full; --confirm always trains in full)",
        ge=0,
        lt=1,
    )
    chain: bool = _setting(
        "What to search",
        False,
        "start the baseline and the trials of each quality from the final weights of the next higher "
        "quality's baseline, and only those of the highest from --start; the baselines are then trained one "
        "after the other (default: off)",
    )

    data: str | None = _setting(
        "Images", None, "folder of training images (default: generated dead leaves images)"
    )
    kodak: str | None = _setting("Images", None, "folder of the Kodak images (default: download them)")
    test: str = _setting(
        "Images", "auto", "test images: auto (Kodak if available, else dead leaves), deadleaves, or a folder"
    )
    test_images: int | None = _setting("Images", None, "use only the first N test images", ge=1, le=1_000_000)
    val_images: int = _setting(
        "Images", 32, "number of validation images, held out of training", ge=1, le=1_000_000
    )
    val_crop: int | None = _setting(
        "Images", 256, "size of the central crop of each validation image, in pixels", ge=64, le=65_536
    )
    select_on: Literal["val", "kodak"] = _setting(
        "Images", "val", "images on which trials are compared and selected; the paper uses kodak"
    )
    cadence: Literal["dense", "sparse"] = _setting(
        "Images",
        "dense",
        "when to evaluate; dense: selection images after every epoch, test images at every rung and at the "
        "end; sparse: selection images at every rung and at the end, test images only at the end",
    )
    cache: str | None = _setting("Images", None, "folder for decoded images (default: ~/.cache)")

    width: int = _setting("Training", 128, "channels N of the model", ge=2, le=1024)
    latent_width: int | None = _setting("Training", None, "latent channels M (default: N)", ge=2, le=1024)
    start: str = _setting(
        "Training",
        "scratch",
        "initial weights: scratch, starter, auto (starter if available, else scratch), or a path: "
        ".safetensors, CompressAI's .pth or .pth.tar, best/q3.pt of a search, a zoo model "
        "(zoo/ARCHITECTURE/q3) or a zoo (its highest quality); --width and --latent-width then default to "
        "those of the weights",
    )
    scale: Scale = _setting(
        "Training",
        TrainingConfig.scale,
        "scale of the decorrelation loss; paper: a plain sum; reference: normalized to the paper's batch, "
        "patch and channels",
    )
    regularizer: str = _setting(
        "Training",
        TrainingConfig.regularizer,
        f"the loss L of the latents: {', '.join(REGULARIZERS)}, or MODULE:FUNCTION of your own",
    )
    batch: int = _setting("Training", TrainingConfig.batch, "batch size, in patches", ge=2, le=65_536)
    accumulate: int = _setting(
        "Training",
        TrainingConfig.accumulate,
        "compute each batch in N equal parts whose gradients add up, for models that do not fit in memory; "
        "the loss L is the mean of the L of the parts",
        ge=1,
        le=32_768,
    )
    patch: int = _setting("Training", TrainingConfig.patch, "patch size, in pixels", ge=64, le=8192)
    epochs: int = _setting(
        "Training", TrainingConfig.epochs, "number of epochs of a full training run", ge=1, le=MOST_EPOCHS
    )
    steps_per_epoch: int = _setting(
        "Training", TrainingConfig.steps_per_epoch, "optimization steps per epoch", ge=1, le=10_000_000
    )
    optimizer: Optimizer = _setting(
        "Training",
        TrainingConfig.optimizer,
        "optimizer; soap and muon need fewer steps than adam, each step is slower",
    )
    lr: float | None = _setting(
        "Training", None, "learning rate (default: the preset's, or one that suits the optimizer)", gt=0, le=1
    )
    aux_lr: float = _setting(
        "Training", TrainingConfig.aux_lr, "learning rate of the entropy bottleneck's quantiles", gt=0, le=1
    )
    clip: float = _setting("Training", TrainingConfig.clip, "maximum gradient norm", gt=0, le=1e9)
    schedule: Schedule = _setting(
        "Training",
        TrainingConfig.schedule,
        "learning rate schedule; constant-cosine: constant up to --decay-at, then half a cosine; cosine: "
        "half a cosine over all steps; one-cycle: up to --lr, then down; plateau: a "
        "tenth when the validation loss does not fall for a tenth of the epochs",
    )
    decay_at: float = _setting(
        "Training",
        TrainingConfig.decay_at,
        "fraction of the steps after which the learning rate decays (constant-cosine)",
        ge=0,
        le=1,
    )
    decay_to: float = _setting(
        "Training",
        TrainingConfig.decay_to,
        "final learning rate as a fraction of --lr (plateau: the minimum)",
        gt=0,
        le=1,
    )
    ema: float = _setting(
        "Training",
        TrainingConfig.ema,
        "decay of the exponential moving average of the weights, such as 0.999, which is evaluated and "
        "exported instead of the trained weights; 0: none",
        ge=0,
        lt=1,
    )
    max_skipped: float = _setting(
        "Training",
        TrainingConfig.max_skipped,
        "maximum fraction of steps that may be skipped because of NaN or infinity",
        ge=0,
        lt=1,
    )

    precision: Literal["auto", Precision] = _setting(
        "Speed", "auto", "training precision (default: tf32 on a GPU, fp32 on the CPU)"
    )
    channels_last: bool | None = _setting(
        "Speed", None, "use the channels-last memory format (default: on a GPU)"
    )
    compile: bool | None = _setting(
        "Speed", None, "compile the training step, once per worker (default: on a GPU)"
    )
    fused_adam: bool = _setting("Speed", True, "use the fused implementation of Adam (default: on)")
    resident_images: bool | None = _setting(
        "Speed",
        None,
        "keep the training images in GPU memory if they take at most a quarter of it (default: on a GPU)",
    )
    graph: bool | None = _setting(
        "Speed", None, "run the whole step as one CUDA graph; requires --fused-adam (default: on a GPU)"
    )
    autotune: bool = _setting(
        "Speed", False, "let cuDNN benchmark its kernels and use the fastest (default: off)"
    )

    workers: int | None = _setting(
        "Machine",
        None,
        "number of concurrent trials (default: one per GPU share or CPU core)",
        ge=1,
        le=100_000,
    )
    trials_per_gpu: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] | None = _setting(
        "Machine",
        None,
        "number of trials that share a GPU, with equal parts of its memory, or 0 to train on the CPU, or "
        "auto: measure which number is fastest and fits in memory (default: 1 if there is a GPU)",
    )
    retries: int = _setting(
        "Machine", 3, "number of retries of a failed training run, from its last checkpoint", ge=0, le=1000
    )
    address: str | None = _setting(
        "Machine",
        None,
        "address of a Ray cluster: auto or host:port on one of its nodes, ray://host:10001 from elsewhere "
        "(default: run on this machine)",
    )

    results: str = _setting("Results", "results", "folder that holds all searches")
    storage: str | None = _setting(
        "Results",
        None,
        "where to store checkpoints: a folder that every node mounts, s3://bucket/prefix or "
        "gs://bucket/prefix (default: in the results folder)",
    )
    name: str | None = _setting(
        "Results",
        None,
        "name of this search and of its folder in the results folder (default: model and time)",
    )
    study: str | None = _setting(
        "Results",
        None,
        "database URL for the Optuna study, postgresql+psycopg://... (default: SQLite in the results folder)",
    )
    tracking_uri: str | None = _setting(
        "Results",
        None,
        "MLflow tracking URI (default: MLFLOW_TRACKING_URI, else SQLite in the results folder)",
    )
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = _setting(
        "Results",
        (),
        "loggers besides MLflow: tensorboard, wandb (Weights & Biases; offline without an API key or a "
        "network), both as tensorboard,wandb, or none (default: none)",
    )

    @property
    def network(self) -> str | OwnModel:
        """What `lic.models.build.build` builds: the name of the architecture, or a model of the user's
        own."""
        if not is_own(self.model):
            return self.model
        return OwnModel.of(self.model, self.model_args, self.latents)

    @property
    def shares(self) -> int:
        """Number of trials per GPU, 1 if it is still to be measured; 0 on the CPU."""
        return 1 if self.trials_per_gpu == "auto" else self.trials_per_gpu or 0

    @property
    def noise_baselines(self) -> int:
        """Number of baselines on further seeds, which the budget includes."""
        return self.noise_seeds * len(self.rates)

    @property
    def fork(self) -> int:
        """The epoch given by `fork_at`. Raises ValueError (search.base.space.fork_epoch)."""
        return fork_epoch(self.fork_at, self.epochs)

    @property
    def gpus_per_trial(self) -> float:
        """Fraction of a GPU per trial; 0 on the CPU. Ray counts in steps of 1e-4, so it is rounded down:
        rounded up, the last trial would not fit."""
        return math.floor(10_000 / self.shares) / 10_000 if self.shares else 0.0

    @field_validator("rates", mode="before")
    @classmethod
    def _parse_rates(cls, value: Any) -> Any:
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            return value
        return parse_rates(value)

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        unknown = [quality for quality in value if quality not in LAMBDAS]
        if unknown or not value:
            raise ValueError(f"choose quality levels from {min(LAMBDAS)} to {max(LAMBDAS)}")
        return tuple(sorted(set(value)))

    @field_validator("strategies", mode="before")
    @classmethod
    def _parse_strategies(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value

    @field_validator("log_to", mode="before")
    @classmethod
    def _parse_log_to(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = [] if value.strip() in ("", "none") else [part.strip() for part in value.split(",")]
        return tuple(dict.fromkeys(value)) if isinstance(value, list | tuple) else value

    @field_validator("regularizer")
    @classmethod
    def _check_regularizer(cls, value: str) -> str:
        if value in REGULARIZERS or re.fullmatch(r"[^\W\d][\w.]*:[^\W\d]\w*", value):
            return value
        raise ValueError(f"choose from {', '.join(REGULARIZERS)}, or MODULE:FUNCTION")

    @field_validator("model_args", "latents", mode="before")
    @classmethod
    def _parse_mapping(cls, value: Any) -> Any:
        return mapping(value) if isinstance(value, str) else value

    _check_arguments = field_validator("model_args")(check_arguments)
    _check_latents = field_validator("latents")(check_latents)

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str | None) -> str | None:
        name = None if value is None else unicodedata.normalize("NFC", value)
        if name is None or is_name(name):
            return name
        raise ValueError(
            "use letters, digits, spaces and . _ - + = @; no '/'; no space, '.' or '-' at the start; no "
            f"space at the end; at most {_NAME_LENGTH} characters ({_NAME_BYTES} bytes); not 'last'"
        )

    @field_validator(*PATHS)
    @classmethod
    def _check_path(cls, value: str | None) -> str | None:
        return value if value is None else user_path(value)

    # Pydantic runs 'before' validators in reverse order: this one runs first.
    @field_validator("*", mode="before")
    @classmethod
    def _check_plain(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject multi-line or very long strings, and booleans where a number is expected (they would count
        as 1 or 0)."""
        field = cls.model_fields[str(info.field_name)]
        for part in value if isinstance(value, list | tuple) else (value,):
            if isinstance(part, bool) and not is_switch(field.annotation):
                raise ValueError("yes and no are not valid values")
            if isinstance(part, str) and (len(part) > 3000 or not part.isprintable()):
                raise ValueError("a string must be one line of at most 3000 printable characters")
        return value


def is_switch(annotation: Any) -> bool:
    """Whether a setting of this type is a boolean (None: chosen by the program)."""
    return annotation in (bool, bool | None)


def is_name(value: str) -> bool:
    """Whether `value` is a valid name of a search. 'last' is not: --resume uses it for the newest search."""
    # Marks (category M) are accents and vowel signs that combine with the character before them.
    written = all(c.isalnum() or c in _NAME_MARKS or unicodedata.category(c)[0] == "M" for c in value)
    begins = value[:1].isalnum() or value[:1] in ("_", "+", "=", "@")
    short = len(value) <= _NAME_LENGTH and len(value.encode(errors="replace")) <= _NAME_BYTES
    return written and begins and short and value[-1:] != " " and value != "last"
