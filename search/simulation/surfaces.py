"""Stand-ins for training: rate change in percent as a function of the point, the epoch and the seed."""

from __future__ import annotations

import hashlib
import importlib
import io
import math
import struct
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from lic.errors import LictuneError
from lic.files import one_line, read_regular, shown
from lic.recipe import LAMBDAS
from search.base.space import BASELINE
from search.decide.surrogate import squash, unsquash
from search.records.folder import open_search
from search.store.find import FolderError

#: curve(alpha, strategy, lmbda, epoch, seed) -> rate change in percent; negative saves bits. In a search with
#: tuned settings it also gets their values by name, as the keyword `tuned`.
Curve = Callable[..., float]

#: The largest table that is read.
_MOST_BYTES = 1 << 28


class SurfaceError(LictuneError):
    """A surface that cannot be used; one sentence."""


def standard_normal(*parts: object) -> float:
    """A standard normal number that is a function of the parts."""
    digest = hashlib.sha256("|".join(map(repr, parts)).encode()).digest()
    return float(np.random.default_rng(struct.unpack("<4Q", digest)).standard_normal())


class Family:
    """A parametric family of responses; `member` is the seed of its constants.

    With z the place of log lambda between the lowest rate (0) and the highest (1), and
    a = alpha / alpha*_s(z), where log10 alpha*_s(z) = x0 + slope z + shift_s:

        full(a)  = -G_s(z) 2 a^w / (1 + a^(2w)) + 3 (a / k)^1.2
        G_s(z)   = max(0.2, g (1 + tilt (z - 1/2) + level_s + cross_s (z - 1/2)))
        y(a, t)  = full(a) + h a^0.7 (t^-0.4 - 1) + sigma N(0, 1),  t = epoch / epochs

    Gains vanish as alpha goes to 0, the optimum moves down with the rate, strategies cross, too large
    an alpha costs steeply, and the larger alpha is the worse it looks early.
    """

    def __init__(self, member: int, epochs: int) -> None:
        draw = np.random.default_rng(member)
        self.member, self.epochs = member, epochs
        self.x0, self.slope = draw.uniform(-6.9, -6.1), draw.uniform(-1.2, 0.0)
        self.w, self.k, self.h = draw.uniform(0.6, 1.2), draw.uniform(3, 8), draw.uniform(0.3, 1.5)
        self.g, self.tilt, self.sigma = draw.uniform(1.5, 6), draw.uniform(-0.6, 0.6), draw.uniform(0.3, 1)
        names = ("y", "z", "y+z")
        self.shift = dict(zip(names, draw.uniform(-0.3, 0.3, 3), strict=True))
        self.level = dict(zip(names, draw.uniform(-0.3, 0.3, 3), strict=True))
        self.cross = dict(zip(names, draw.uniform(-0.5, 0.5, 3), strict=True))

    def _relative(self, alpha: float, strategy: str, lmbda: float) -> tuple[float, float]:
        low, high = (math.log10(f(LAMBDAS.values())) for f in (min, max))
        z = (math.log10(lmbda) - low) / (high - low)
        return z, alpha / 10 ** (self.x0 + self.slope * z + self.shift[strategy])

    def full(self, alpha: float, strategy: str, lmbda: float) -> float:
        """The rate change at full length, without noise."""
        z, a = self._relative(alpha, strategy, lmbda)
        gain = self.g * (1 + self.level[strategy] + (self.tilt + self.cross[strategy]) * (z - 0.5))
        bump = 2 * a**self.w / (1 + a ** (2 * self.w))
        return float(-max(0.2, gain) * bump + 3 * (a / self.k) ** 1.2)

    def __call__(self, alpha: float, strategy: str, lmbda: float, epoch: int, seed: int) -> float:
        _, a = self._relative(alpha, strategy, lmbda)
        early = self.h * a**0.7 * ((epoch / self.epochs) ** -0.4 - 1)
        noise = self.sigma * standard_normal(self.member, alpha, strategy, lmbda, epoch, seed)
        return float(self.full(alpha, strategy, lmbda) + early + noise)


class Recorded:
    """Learning curves of real trainings: a table with the columns quality, strategy, alpha, epoch and
    rate_change (percent), as `search.simulate --export` writes it.

    Between the recorded alphas of a rate and strategy the curve is PCHIP over log alpha of the squashed
    value, beyond them constant; epochs in between are interpolated. `sigma` is added as noise. `lambdas` are
    those of the table's qualities.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        epochs: int,
        sigma: float = 0.0,
        lambdas: Sequence[float] = tuple(LAMBDAS.values()),
    ) -> None:
        self.epochs, self.sigma, self._lambdas = epochs, sigma, dict(enumerate(lambdas, 1))
        self._longest = int(table["epoch"].max())
        self._curves: dict[tuple[int, str, int], tuple[float, float, Callable[[float], float]]] = {}
        for key, part in table[table["alpha"] > 0].groupby(["quality", "strategy", "epoch"]):
            quality, strategy, epoch = typing.cast(tuple[int, str, int], key)
            means = part.groupby("alpha")["rate_change"].mean().sort_index()
            if len(means) < 2:
                raise SurfaceError(
                    f"the table has fewer than two alphas for quality {quality}, {strategy}, epoch {epoch}"
                )
            x = np.log10(means.index.to_numpy(float))
            curve = PchipInterpolator(x, squash(means.to_numpy(float)))
            self._curves[int(quality), str(strategy), int(epoch)] = (float(x[0]), float(x[-1]), curve)
        self._epochs = sorted({key[2] for key in self._curves})

    def full(self, alpha: float, strategy: str, lmbda: float) -> float:
        """The recorded rate change at full length."""
        return self._at(alpha, strategy, lmbda, float(self._longest))

    def __call__(self, alpha: float, strategy: str, lmbda: float, epoch: int, seed: int) -> float:
        value = self._at(alpha, strategy, lmbda, epoch * self._longest / self.epochs)
        return value + self.sigma * standard_normal(alpha, strategy, lmbda, epoch, seed)

    def _at(self, alpha: float, strategy: str, lmbda: float, epoch: float) -> float:
        quality = min(self._lambdas, key=lambda q: abs(math.log(self._lambdas[q] / lmbda)))
        values = []
        for recorded in self._epochs:
            if (quality, strategy, recorded) not in self._curves:
                raise SurfaceError(f"the table has no curve of quality {quality}, {strategy}")
            low, high, curve = self._curves[quality, strategy, recorded]
            values.append(float(curve(min(max(math.log10(alpha), low), high))))
        return float(unsquash(np.interp(epoch, self._epochs, values)))


def best_of(
    full: Callable[[float, str, float], float],
    lmbda: float,
    low: float,
    high: float,
    strategies: tuple[str, ...],
) -> float:
    """The lowest value of a noise-free surface at a rate, or 0 (the baseline) if none is below."""
    alphas = np.geomspace(low, high, 601)
    return min(0.0, min(full(alpha, s, lmbda) for s in strategies for alpha in alphas))


def load_curve(name: str) -> Curve:
    """The function 'package.module:curve'. Raises SurfaceError."""
    module, _, function = name.partition(":")
    try:
        found: Curve = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever a user's module raises
        raise SurfaceError(
            f"there is no surface {shown(name)} ({one_line(error)}); write package.module:function"
        ) from error
    if not callable(found):
        raise SurfaceError(f"{shown(name)} is not a function")
    return found


def recorded_curves(folders: Sequence[Path]) -> pd.DataFrame:
    """What searches of one kind measured, a row a reading: the rate change of every trial against its own
    search's baseline, and, where the searches differ in their seed, that of the others' baselines against
    the first's (alpha 0, no strategy), which shows the noise between seeds. Raises SurfaceError."""
    rows, first = [], None
    for folder in folders:
        try:
            records = open_search(str(folder), folder.parent, with_model=False).records
        except FolderError as error:
            raise SurfaceError(str(error)) from error
        first = first or records
        others = () if records is first else records.baselines.values()  # the first's are 0 by definition
        for record in (*records.trials, *others):
            against = first if record.role == BASELINE else records
            for epoch in record.readings:
                change = against.rate_change(record, epoch, records.selection)
                if change is not None:
                    place = (record.quality, record.strategy or "", record.alpha)
                    rows.append((*place, record.seed, epoch, change))
    return pd.DataFrame(rows, columns=["quality", "strategy", "alpha", "seed", "epoch", "rate_change"])


def seed_noise(table: pd.DataFrame) -> float | None:
    """The standard deviation of one baseline's rate change (percent, at full length) between seeds, pooled
    over the rates; None for a table without baselines of several seeds."""
    baselines = table[(table["alpha"] == 0) & (table["epoch"] == table["epoch"].max())]
    if baselines.empty:
        return None
    variances = [
        float(np.var([0.0, *part["rate_change"]], ddof=1)) for _, part in baselines.groupby("quality")
    ]
    return math.sqrt(float(np.mean(variances)))


def read_table(path: Path) -> pd.DataFrame:
    """A table of recorded curves. Raises SurfaceError."""
    try:
        table = pd.read_csv(io.BytesIO(read_regular(path, _MOST_BYTES)))
    except (OSError, ValueError) as error:
        raise SurfaceError(f"the table {path} cannot be read ({one_line(error)})") from error
    missing = {"quality", "strategy", "alpha", "epoch", "rate_change"} - set(table.columns)
    if missing:
        raise SurfaceError(f"the table {path} lacks the column {', '.join(sorted(missing))}")
    for column in ("quality", "alpha", "epoch", "rate_change"):
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise SurfaceError(f"the table {path} has something that is no number in its column {column}")
    found: pd.DataFrame = table[np.isfinite(table["rate_change"])]
    if found.empty:
        raise SurfaceError(f"the table {path} has no reading")
    return found


def recorded(
    path: Path, epochs: int, noise: float | None, lambdas: Sequence[float] = tuple(LAMBDAS.values())
) -> Recorded:
    """The surface of a table whose qualities have these lambdas, with `noise` (percent) on its readings: by
    default that between the seeds of its baselines, or 0.5. Raises SurfaceError."""
    table = read_table(path)
    if noise is None:
        between = seed_noise(table)
        noise = 0.5 if between is None else between
    return Recorded(table, epochs, noise, lambdas)
