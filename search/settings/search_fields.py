"""The settings of what is searched, and on which images."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lic.recipe import LAMBDAS, MSE_PER_MS_SSIM, TrainingConfig
from search.base.space import ALPHA_MAX, ALPHA_MIN, MOST_EPOCHS


def setting(group: str, default: Any, help: str, **bounds: Any) -> Any:
    """A field of the settings, in a group of the help text."""
    return Field(default, description=help, json_schema_extra={"group": group}, **bounds)


class SearchFields(BaseModel):
    """The settings of the groups 'What to search' and 'Images'."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = setting(
        "What to search",
        "cheng",
        "model architecture: cheng, hyperprior or a CompressAI name such as mbt2018-mean, or MODULE:CLASS of "
        "your own",
    )
    model_args: dict[str, Any] = setting(
        "What to search",
        {},
        'arguments of a model of your own: N=96,M=128, or a mapping such as {"N": 96, "act": "relu"}',
    )
    latents: dict[str, str] = setting(
        "What to search",
        {},
        "modules of a model of your own whose outputs are the latents, such as y=analysis,z=hyper.analysis "
        "(default: those named g_a and h_a)",
    )
    preset: str = setting(
        "What to search", "auto", "paper, fast, tiny, or auto: fast on a GPU, tiny on a CPU"
    )
    budget: int = setting("What to search", 64, "number of trials, not counting baselines", ge=1, le=100_000)
    noise_seeds: int = setting(
        "What to search",
        0,
        "train each baseline on N further seeds, instead of as many trials, to measure the noise between "
        "seeds; --confirm reuses them",
        ge=0,
        le=100,
    )
    max_hours: float | None = setting(
        "What to search", None, "stop the search after this many hours (default: no limit)", gt=0, le=1e6
    )
    max_gpu_hours: float | None = setting(
        "What to search",
        None,
        "stop the search after this many GPU hours of training (default: no limit)",
        gt=0,
        le=1e9,
    )
    reuse_baselines: bool = setting(
        "What to search", True, "reuse baselines of earlier searches with the same training setup"
    )
    confirm: int | None = setting(
        "What to search",
        None,
        "after the search, retrain the top N points per quality on fresh seeds, in full even with --fork-at, "
        "each until its 95 % interval excludes 0 or it has --seeds",
        ge=1,
        le=1000,
    )
    seeds: int = setting(
        "What to search", 3, "maximum number of fresh seeds per point for --confirm", ge=1, le=1000
    )
    warm_start: str | None = setting(
        "What to search", None, "an earlier search (name or folder) whose trials the sampler also uses"
    )
    distortion: str = setting(
        "What to search",
        TrainingConfig.distortion,
        "distortion D of the loss R + lambda D: mse, on the 0..255 scale; ms-ssim, D = 1 - MS-SSIM; or a "
        f"weighted sum such as 0.5*mse+0.5*ms-ssim, D = 0.5 MSE + 0.5 x {MSE_PER_MS_SSIM:g} (1 - MS-SSIM)",
    )
    lambdas: tuple[float, ...] | None = setting(
        "What to search",
        None,
        "values of lambda, the weight of the distortion, ascending, such as 0.0009,0.0035,0.0130: quality 1 "
        "has the first, quality 2 the second, ... (default: CompressAI's of its qualities 1-6 for mse or for "
        "ms-ssim; sums take those for mse)",
    )
    rates: tuple[int, ...] = setting(
        "What to search", tuple(LAMBDAS), "quality levels to search, such as 1-6 or 1,3,5"
    )
    strategies: tuple[str, ...] = setting(
        "What to search",
        (),
        "latents to decorrelate: y, z, y+z or several, such as y,y+z (default: all that the model supports)",
    )
    alpha_min: float = setting(
        "What to search", ALPHA_MIN, "lower bound of the decorrelation weight alpha", gt=0, le=1e35
    )
    alpha_max: float = setting(
        "What to search", ALPHA_MAX, "upper bound of the decorrelation weight alpha", gt=0, le=1e38
    )
    tune: dict[str, str] = setting(
        "What to search",
        {},
        "a setting of the training to search as well, as NAME=LOW..HIGH (:log or :lin says the scale) or "
        "NAME=A,B,...; repeatable: lr=3e-5..1e-3, clip=0.5..5, optimizer=adam,soap; the baselines keep its "
        "own value (default: none)",
    )
    fix: dict[str, float] = setting(
        "What to search",
        {},
        "alpha=0 leaves the regularisation term out, so that only the settings of --tune are searched "
        "(default: search alpha)",
    )
    seed: int = setting("What to search", 0, "random seed for weights, batches and proposals", ge=0, lt=2**32)
    objective: Literal["bd-rate-psnr", "bd-rate-msssim", "rd-cost"] = setting(
        "What to search",
        "bd-rate-psnr",
        "what a trial minimizes on the selection images, in percent of the bit rate; bd-rate-psnr, "
        "bd-rate-msssim: rate change at equal PSNR or MS-SSIM along the baselines' curve; rd-cost: change of "
        "R + lambda D (default: by --distortion, bd-rate-psnr for mse, rd-cost for a sum)",
    )
    sampler: Literal["surrogate", "tpe", "gp", "random", "grid"] = setting(
        "What to search",
        "surrogate",
        "surrogate: the built-in Gaussian process; tpe, gp, random: Optuna's samplers, one study for all "
        "qualities; grid: a grid of alphas",
    )
    stopping: bool = setting("What to search", True, "stop poor trials early (ASHA, separately per quality)")
    grace: int = setting("What to search", 1, "epochs before a trial can be stopped", ge=1, lt=MOST_EPOCHS)
    eta: int = setting("What to search", 3, "reduction factor: one in N trials passes a rung", ge=2, le=1000)
    fork_at: float = setting(
        "What to search",
        0.0,
        "start each trial from its baseline's checkpoint after this fraction of the epochs and train only "
        "the rest (default: 0, train in full; --confirm always trains in full)",
        ge=0,
        lt=1,
    )
    chain: bool = setting(
        "What to search",
        False,
        "start the baseline and the trials of each quality from the final weights of the next higher "
        "quality's baseline, and only those of the highest from --start; the baselines are then trained one "
        "after the other (default: off)",
    )

    data: str | None = setting(
        "Images", None, "folder of training images (default: generated dead leaves images)"
    )
    kodak: str | None = setting("Images", None, "folder of the Kodak images (default: download them)")
    test: str = setting(
        "Images", "auto", "test images: auto (Kodak if available, else dead leaves), deadleaves, or a folder"
    )
    test_images: int | None = setting("Images", None, "use only the first N test images", ge=1, le=1_000_000)
    val_images: int = setting(
        "Images", 32, "number of validation images, held out of training", ge=1, le=1_000_000
    )
    val_crop: int | None = setting(
        "Images", 256, "size of the central crop of each validation image, in pixels", ge=64, le=65_536
    )
    select_on: Literal["val", "kodak"] = setting(
        "Images", "val", "images on which trials are compared and selected; the paper uses kodak"
    )
    cadence: Literal["dense", "sparse"] = setting(
        "Images",
        "dense",
        "when to evaluate; dense: selection images after every epoch, test images at every rung and at the "
        "end; sparse: selection images at every rung and at the end, test images only at the end",
    )
    cache: str | None = setting("Images", None, "folder for decoded images (default: ~/.cache)")
