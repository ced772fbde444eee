"""The search space: a point (strategy, alpha) per quality, and the plan of a search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from lic.recipe import LAMBDAS, MOST_QUALITIES, MSE, Distortion
from search.base.dimensions import Dimension, Tuned, shown_values

BASELINE = "baseline"
TRIAL = "trial"
CONFIRMATION = "confirmation"

#: What is shown as the strategy of a trial without regularisation term (--fix alpha=0).
WITHOUT_TERM = "tuned"

#: The available samplers (search.decide.sampler).
SAMPLERS = ("surrogate", "tpe", "gp", "random", "grid")

#: The objectives (search.decide.objective): the integrand of the BD-rate by PSNR or MS-SSIM, or J = R +
#: lambda D.
BD_RATE_PSNR, BD_RATE_MSSIM, RD_COST = "bd-rate-psnr", "bd-rate-msssim", "rd-cost"

#: The default range of alpha, that of the paper.
ALPHA_MIN, ALPHA_MAX = 1e-8, 1e-5

#: Largest value of lambda.
_MOST_LAMBDA = 1e9

#: Maximum number of epochs of a training run.
MOST_EPOCHS = 100_000


def trial_name(number: int) -> str:
    """The name of the trial with this number."""
    return f"{TRIAL}-{number:03d}"


def baseline_name(quality: int) -> str:
    """The name of the baseline of this quality."""
    return f"{BASELINE}-q{quality}"


def repeated_name(name: str, seed: int) -> str:
    """The name of a training run when it is trained again on a fresh seed."""
    return f"{name}-s{seed}"


def confirmation_name(search: str) -> str:
    """The name of the Optuna study with the confirmation runs of a search."""
    return f"{search}/{CONFIRMATION}"


def parse_lambdas(text: str) -> tuple[float, ...]:
    """Parse values of lambda written like 0.0018,0.0067,0.025. Raises ValueError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError("write numbers like 0.0018,0.0067,0.025") from None
    check_lambdas(found)
    return found


def check_lambdas(lambdas: tuple[float, ...]) -> None:
    """Raise ValueError unless these are values of lambda, one per quality, in ascending order."""
    if not all(0 < lmbda <= _MOST_LAMBDA for lmbda in lambdas):
        raise ValueError(f"every lambda must be above 0 and at most {_MOST_LAMBDA:g}")
    if any(low >= high for low, high in itertools.pairwise(lambdas)):
        raise ValueError("give them in ascending order, each once: quality 1 is the lowest rate")
    if not 1 <= len(lambdas) <= MOST_QUALITIES:
        raise ValueError(f"give 1 to {MOST_QUALITIES} values")


def parse_rates(text: str, most: int = max(LAMBDAS)) -> tuple[int, ...]:
    """Parse quality levels from 1 to `most` written like 1-6 or 1,3,5; returns them sorted. Raises
    ValueError."""
    qualities: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        try:
            low, high = int(first), int(last or first)
        except ValueError:
            raise ValueError("write quality levels like 1-6 or 1,3,5") from None
        if not 1 <= low <= high <= most:
            raise ValueError(f"choose quality levels from 1 to {most}")
        qualities |= set(range(low, high + 1))
    return tuple(sorted(qualities))


def fork_epoch(share: float, epochs: int) -> int:
    """The epoch whose baseline checkpoint trials start from, for a fraction of the epochs; 0 (no fork) for 0.
    Raises ValueError if a nonzero fraction rounds to none or all of the epochs."""
    epoch = round(share * epochs)
    if share and not 0 < epoch < epochs:
        what = "none" if epoch == 0 else "all"
        raise ValueError(
            f"fork_at {share:g} of {epochs} epochs is {what} of them; choose a fraction that leaves epochs "
            "before and after the fork, or 0 for no fork"
        )
    return epoch


def leaves_no_rung(grace: int, epochs: int) -> bool:
    """Whether trials of this many epochs (more than one) cannot be stopped early after `grace` epochs."""
    return grace >= epochs > 1


def enough_epochs(least: int, fork_at: float, grace: int = 0) -> int:
    """The smallest number of epochs, at least `least`, with epochs before and after a fork at the fraction
    `fork_at` and a rung after `grace` further epochs; `least` if there is no such number."""

    def fits(epochs: int) -> bool:
        try:
            return not leaves_no_rung(grace, epochs - fork_epoch(fork_at, epochs))
        except ValueError:
            return False

    return next(filter(fits, range(least, MOST_EPOCHS + 1)), least)


def alpha_range(low: float, high: float, given: Collection[str]) -> tuple[float, float]:
    """The range of alpha. `given` holds the names of the bounds that the user set: if only one is set and the
    default of the other leaves no range, the range gets the width of the default one."""
    width = round(ALPHA_MAX / ALPHA_MIN)
    if low < high or {"alpha_min", "alpha_max"} <= set(given):
        return low, high
    return (low, low * width) if "alpha_min" in given else (high / width, high)


@dataclass(frozen=True)
class Plan:
    """The plan of a search. `rungs` are the epochs at which a trial may be stopped; `selection` names the
    image set on which trials are compared. Trials start from their baseline's checkpoint after epoch `fork`;
    0: they train in full. `noise_seeds` is the number of further seeds on which each baseline is trained,
    which the budget does not count. With `chain`, each quality starts from the baseline of the next higher
    one (`above`). `lambdas` is lambda_d of the qualities 1, 2, ..., ascending, of which the search may leave
    some out. `dimensions` are the tuned settings of the training, sorted by name; a plan without `strategies`
    leaves the regularisation term out and searches these alone."""

    qualities: tuple[int, ...]
    strategies: tuple[str, ...]
    alpha_min: float
    alpha_max: float
    epochs: int
    rungs: tuple[int, ...]
    eta: int
    budget: int
    seed: int
    sampler: str
    selection: str
    fork: int = 0
    objective: str = RD_COST
    noise_seeds: int = 0
    chain: bool = False
    lambdas: tuple[float, ...] = tuple(LAMBDAS.values())
    distortion: Distortion = MSE
    dimensions: tuple[Dimension, ...] = ()

    def above(self, quality: int) -> int | None:
        """With `chain`, the quality whose baseline's final weights the training runs of this one start from:
        the next higher one. None for the highest, and without `chain`."""
        return min((q for q in self.qualities if q > quality), default=None) if self.chain else None

    def point(
        self, quality: int, strategy: str | None = None, alpha: float = 0.0, tuned: Tuned = ()
    ) -> SearchPoint:
        """A point of this search; by default the baseline of the quality."""
        return SearchPoint(quality, strategy, alpha, tuned, self.lambdas[quality - 1])

    def point_of(self, quality: int, params: Mapping[str, Any]) -> SearchPoint:
        """The point of a trial of Optuna's."""
        return SearchPoint.of_params(quality, params, self.lambdas[quality - 1])

    def mse_lmbda(self, quality: int) -> float:
        """lambda_d of a quality in units of the MSE (lic.recipe.Distortion.unit)."""
        return self.distortion.unit * self.point(quality).lmbda

    def log_lmbda(self, quality: int) -> float:
        """log10 of `mse_lmbda`."""
        return math.log10(self.mse_lmbda(quality))

    @property
    def noise_baselines(self) -> int:
        """The number of baselines on further seeds."""
        return self.noise_seeds * len(self.qualities)

    @property
    def strategy_names(self) -> tuple[str, ...]:
        """The strategies as they are shown (SearchPoint.strategy_name)."""
        return self.strategies or (WITHOUT_TERM,)

    @property
    def defaults(self) -> Tuned:
        """The tuned settings as in the baselines."""
        return tuple((dimension.name, dimension.default) for dimension in self.dimensions)

    @property
    def usual_values(self) -> Tuned:
        """The tuned settings as in the baselines, or as near to that as their ranges allow."""
        return tuple((dimension.name, dimension.usual) for dimension in self.dimensions)


#: The parameters of a trial that are no tuned settings.
_NOT_TUNED = ("quality", "alpha", "strategy")


@dataclass(frozen=True)
class SearchPoint:
    """A point of the search space: a quality with the strategy (the latents to decorrelate), the
    decorrelation weight alpha and the values of the tuned settings, sorted by name. The baseline of a quality
    has no strategy, alpha 0 and no values. `lmbda` is lambda_d of the quality; 0: that of LAMBDAS, as in
    records from before searches had their own."""

    quality: int
    strategy: str | None = None
    alpha: float = 0.0
    tuned: Tuned = ()
    lmbda: float = 0.0

    def __post_init__(self) -> None:
        if not self.lmbda:
            object.__setattr__(self, "lmbda", LAMBDAS.get(self.quality, 0.0))

    @property
    def strategy_name(self) -> str:
        """The strategy as it is shown; `baseline` for the baseline."""
        return self.strategy or (BASELINE if self.is_baseline else WITHOUT_TERM)

    @property
    def is_baseline(self) -> bool:
        """Whether this is the point of the baseline."""
        return not self.alpha and not self.tuned

    @property
    def description(self) -> str:
        """What is chosen at this point: 'y, alpha 8.14e-06, lr 0.0003', or 'baseline'."""
        if self.is_baseline:
            return BASELINE
        term = f"{self.strategy}, alpha {self.alpha:.2e}" if self.alpha else ""
        return ", ".join(filter(None, (term, shown_values(self.tuned))))

    def as_row(self) -> dict[str, Any]:
        """Quality, alpha and strategy as files hold them, where no strategy is an empty text, and the tuned
        values by name if there are any; lambda is a column of its own there."""
        row = {"quality": self.quality, "alpha": self.alpha, "strategy": self.strategy or ""}
        return {**row, **({"tuned": dict(self.tuned)} if self.tuned else {})}

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> SearchPoint:
        """The point that such a row holds, with its column lambda if it has one; without alpha, strategy and
        values that of the baseline."""
        strategy, tuned = row.get("strategy", ""), tuple(sorted(row.get("tuned", {}).items()))
        alpha, lmbda = row.get("alpha", 0.0), row.get("lambda", 0.0)
        return cls(row["quality"], None if strategy == "" else strategy, alpha, tuned, lmbda)

    @classmethod
    def of_params(cls, quality: int, params: Mapping[str, Any], lmbda: float = 0.0) -> SearchPoint:
        """The point of a trial of Optuna's: all parameters but quality, alpha and strategy are tuned."""
        tuned = {name: value for name, value in params.items() if name not in _NOT_TUNED}
        return cls.of_row({**params, "quality": quality, "lambda": lmbda, "tuned": tuned})


class AtPoint:
    """What a dataclass with a field `point` inherits: the fields of the point as its own."""

    point: SearchPoint

    @property
    def quality(self) -> int:
        return self.point.quality

    @property
    def lmbda(self) -> float:
        return self.point.lmbda

    @property
    def strategy(self) -> str | None:
        return self.point.strategy

    @property
    def strategy_name(self) -> str:
        return self.point.strategy_name

    @property
    def alpha(self) -> float:
        return self.point.alpha

    @property
    def tuned(self) -> Tuned:
        return self.point.tuned

    def as_row(self) -> dict[str, Any]:
        """The fields by name, with those of the point (SearchPoint.as_row) in the place of `point`."""
        row: dict[str, Any] = {}
        for field in fields(self):  # type: ignore[arg-type]
            row |= self.point.as_row() if field.name == "point" else {field.name: getattr(self, field.name)}
        return row


@dataclass(frozen=True)
class Candidate(AtPoint):
    """One training to do: the baseline of a quality, or a trial or confirmation of a point."""

    name: str
    role: str
    point: SearchPoint
    seed: int


def rungs(epochs: int, grace: int, eta: int, fork: int = 0) -> tuple[int, ...]:
    """The epochs grace, grace*eta, grace*eta^2, ... after the fork and before the last epoch, at which a
    trial may be stopped."""
    levels, level = [], grace
    while fork + level < epochs:
        levels.append(fork + level)
        level *= eta
    return tuple(levels)


def three_quarters(epochs: int) -> int | None:
    """The epoch after which the last quarter of a training run begins; None for fewer than 2 epochs."""
    return None if epochs < 2 else min(epochs - 1, round(0.75 * epochs))
