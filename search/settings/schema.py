"""The schema of a search's settings: types, bounds, defaults and descriptions."""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from lic.files import user_path
from lic.models.architectures import OwnModel, is_own
from lic.recipe import (
    LAMBDAS,
    REGULARIZERS,
    Distortion,
    Optimizer,
    Precision,
    Scale,
    Schedule,
    TrainingConfig,
)
from search.base.space import (
    BD_RATE_MSSIM,
    MOST_EPOCHS,
    fork_epoch,
    parse_lambdas,
    parse_rates,
)
from search.settings.mappings import check_arguments, check_latents, mapping, pairs
from search.settings.search_fields import SearchFields, setting
from search.settings.texts import NAME_BYTES, NAME_LENGTH, is_name

#: Settings that are paths (some also accept a keyword, such as 'auto').
PATHS = ("data", "kodak", "test", "cache", "start", "results", "warm_start")


class Settings(SearchFields):
    """All settings of a search, validated."""

    width: int = setting("Training", 128, "channels N of the model", ge=2, le=1024)
    latent_width: int | None = setting("Training", None, "latent channels M (default: N)", ge=2, le=1024)
    start: str = setting(
        "Training",
        "scratch",
        "initial weights: scratch, starter, auto (starter if available, else scratch), or a path: "
        ".safetensors, CompressAI's .pth or .pth.tar, best/q3.pt of a search, a zoo model "
        "(zoo/ARCHITECTURE/q3) or a zoo (its highest quality); --width and --latent-width then default to "
        "those of the weights",
    )
    scale: Scale = setting(
        "Training",
        TrainingConfig.scale,
        "scale of the decorrelation loss; paper: a plain sum; reference: normalized to the paper's batch, "
        "patch and channels",
    )
    regularizer: str = setting(
        "Training",
        TrainingConfig.regularizer,
        f"the loss L of the latents: {', '.join(REGULARIZERS)}, or MODULE:FUNCTION of your own",
    )
    batch: int = setting("Training", TrainingConfig.batch, "batch size, in patches", ge=2, le=65_536)
    accumulate: int = setting(
        "Training",
        TrainingConfig.accumulate,
        "compute each batch in N equal parts whose gradients add up, for models that do not fit in memory; "
        "the loss L is the mean of the L of the parts",
        ge=1,
        le=32_768,
    )
    patch: int = setting("Training", TrainingConfig.patch, "patch size, in pixels", ge=64, le=8192)
    epochs: int = setting(
        "Training", TrainingConfig.epochs, "number of epochs of a full training run", ge=1, le=MOST_EPOCHS
    )
    steps_per_epoch: int = setting(
        "Training", TrainingConfig.steps_per_epoch, "optimization steps per epoch", ge=1, le=10_000_000
    )
    optimizer: Optimizer = setting(
        "Training",
        TrainingConfig.optimizer,
        "optimizer; soap and muon need fewer steps than adam, each step is slower",
    )
    lr: float | None = setting(
        "Training", None, "learning rate (default: the preset's, or one that suits the optimizer)", gt=0, le=1
    )
    aux_lr: float = setting(
        "Training", TrainingConfig.aux_lr, "learning rate of the entropy bottleneck's quantiles", gt=0, le=1
    )
    clip: float = setting("Training", TrainingConfig.clip, "maximum gradient norm", gt=0, le=1e9)
    schedule: Schedule = setting(
        "Training",
        TrainingConfig.schedule,
        "learning rate schedule; constant-cosine: constant up to --decay-at, then half a cosine; cosine: "
        "half a cosine over all steps; one-cycle: up to --lr, then down; plateau: a "
        "tenth when the validation loss does not fall for a tenth of the epochs",
    )
    decay_at: float = setting(
        "Training",
        TrainingConfig.decay_at,
        "fraction of the steps after which the learning rate decays (constant-cosine)",
        ge=0,
        le=1,
    )
    decay_to: float = setting(
        "Training",
        TrainingConfig.decay_to,
        "final learning rate as a fraction of --lr (plateau: the minimum)",
        gt=0,
        le=1,
    )
    ema: float = setting(
        "Training",
        TrainingConfig.ema,
        "decay of the exponential moving average of the weights, such as 0.999, which is evaluated and "
        "exported instead of the trained weights; 0: none",
        ge=0,
        lt=1,
    )
    max_skipped: float = setting(
        "Training",
        TrainingConfig.max_skipped,
        "maximum fraction of steps that may be skipped because of NaN or infinity",
        ge=0,
        lt=1,
    )

    precision: Literal["auto", Precision] = setting(
        "Speed", "auto", "training precision (default: tf32 on a GPU, fp32 on the CPU)"
    )
    channels_last: bool | None = setting(
        "Speed", None, "use the channels-last memory format (default: on a GPU)"
    )
    compile: bool | None = setting(
        "Speed", None, "compile the training step, once per worker (default: on a GPU)"
    )
    fused_adam: bool = setting("Speed", True, "use the fused implementation of Adam (default: on)")
    resident_images: bool | None = setting(
        "Speed",
        None,
        "keep the training images in GPU memory if they take at most a quarter of it (default: on a GPU)",
    )
    graph: bool | None = setting(
        "Speed", None, "run the whole step as one CUDA graph; requires --fused-adam (default: on a GPU)"
    )
    autotune: bool = setting(
        "Speed", False, "let cuDNN benchmark its kernels and use the fastest (default: off)"
    )

    workers: int | None = setting(
        "Machine",
        None,
        "number of concurrent trials (default: one per GPU share or CPU core)",
        ge=1,
        le=100_000,
    )
    trials_per_gpu: Annotated[int, Field(ge=0, le=1000)] | Literal["auto"] | None = setting(
        "Machine",
        None,
        "number of trials that share a GPU, with equal parts of its memory, or 0 to train on the CPU, or "
        "auto: measure which number is fastest and fits in memory (default: 1 if there is a GPU)",
    )
    gpus_per_trial: int = setting(
        "Machine",
        1,
        "number of GPUs of one host that train a trial together, each a part of every batch; the gradients "
        "are those of one GPU, without CUDA graphs (default: 1)",
        ge=1,
        le=64,
    )
    retries: int = setting(
        "Machine", 3, "number of retries of a failed training run, from its last checkpoint", ge=0, le=1000
    )
    address: str | None = setting(
        "Machine",
        None,
        "address of a Ray cluster: auto or host:port on one of its nodes, ray://host:10001 from elsewhere "
        "(default: run on this machine)",
    )

    results: str = setting("Results", "results", "folder that holds all searches")
    storage: str | None = setting(
        "Results",
        None,
        "where to store checkpoints: a folder that every node mounts, s3://bucket/prefix or "
        "gs://bucket/prefix (default: in the results folder)",
    )
    name: str | None = setting(
        "Results",
        None,
        "name of this search and of its folder in the results folder (default: model and time)",
    )
    study: str | None = setting(
        "Results",
        None,
        "database URL for the Optuna study, postgresql+psycopg://... (default: SQLite in the results folder)",
    )
    tracking_uri: str | None = setting(
        "Results",
        None,
        "MLflow tracking URI (default: MLFLOW_TRACKING_URI, else SQLite in the results folder)",
    )
    log_to: tuple[Literal["tensorboard", "wandb"], ...] = setting(
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
    def lambda_table(self) -> dict[int, float]:
        """lambda_d by quality, also of qualities that `rates` leaves out."""
        return dict(enumerate(self.lambdas or Distortion.of(self.distortion).lambdas.values(), 1))

    @property
    def needs_ms_ssim(self) -> bool:
        """Whether MS-SSIM is trained or compared."""
        return self.objective == BD_RATE_MSSIM or bool(Distortion.of(self.distortion).ms_ssim)

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
    def trial_gpus(self) -> float:
        """GPUs per trial, a fraction if trials share one; 0 on the CPU. Ray counts in steps of 1e-4, so it is
        rounded down: rounded up, the last trial would not fit."""
        return math.floor(10_000 * self.gpus_per_trial / self.shares) / 10_000 if self.shares else 0.0

    @field_validator("distortion")
    @classmethod
    def _check_distortion(cls, value: str) -> str:
        Distortion.of(value)
        return value

    @field_validator("lambdas", mode="before")
    @classmethod
    def _parse_lambdas(cls, value: Any) -> Any:
        parts = value if isinstance(value, list | tuple) else (value,)
        return value if value is None else parse_lambdas(",".join(map(str, parts)))

    @field_validator("rates", mode="before")
    @classmethod
    def _parse_rates(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int):
            value = str(value)
        if not isinstance(value, str):
            return value
        return parse_rates(value, _most_rates(info))

    @field_validator("rates")
    @classmethod
    def _check_rates(cls, value: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if not value or not 1 <= min(value) <= max(value) <= _most_rates(info):
            raise ValueError(f"choose quality levels from 1 to {_most_rates(info)}")
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

    @field_validator("tune", "fix", mode="before")
    @classmethod
    def _parse_pairs(cls, value: Any) -> Any:
        return pairs(value)

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
            f"space at the end; at most {NAME_LENGTH} characters ({NAME_BYTES} bytes); not 'last'"
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


def _most_rates(info: ValidationInfo) -> int:
    """The highest quality level that may be given. Fewer lambdas than the default has qualities are checked
    later (search.settings.complaints): the default may be all of those."""
    return max(len(info.data.get("lambdas") or ()), len(LAMBDAS))


def is_switch(annotation: Any) -> bool:
    """Whether a setting of this type is a boolean (None: chosen by the program)."""
    return annotation in (bool, bool | None)
