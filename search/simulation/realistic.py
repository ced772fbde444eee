"""A family of responses like those of real trainings: small gains at some rates, narrow windows, steep
harm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from lic.recipe import LAMBDAS
from search.base.dimensions import Dimension, Value
from search.simulation.surfaces import standard_normal

#: log10 lambda of the lowest and the highest rate.
_LOW, _HIGH = (math.log10(f(LAMBDAS.values())) for f in (min, max))


class Realistic:
    """Responses of one made-up codec; `member` is the seed of its constants (percent, decades).

    With z the place of log10 lambda between the lowest rate (0) and the highest (1), t = epoch / epochs,
    log10 c_s(z) = c + slope (log10 lambda - middle) + shift_s and a = alpha / c_s(z), strategy s has

        gain_s(a)  = G_s(z) 2 b^w / (1 + b^(2w)),   b = a 10^d
        harm_s(a)  = h ((1 + a^2)^(p/2) - 1)
        full_s     = harm_s - gain_s,   full_y+z = full_y + full_z
        y(a, t)    = harm (1 + k (1 - t)) - gain - v(z) 2 b^w / (1 + b^(2w)) (1 - t)^2
                     + sigma(z) (trial + (f - 1) (1 - t)^1.5 reading)

    G is 0 at some rates; z lies two to four decades to the right of y, or is inert. `trial` is a standard
    normal number of a training, `reading` one of each of its readings: the noise between seeds is sigma at
    full length and about f times that after the first epochs, before the learning rate falls. v is a gain
    that is seen early and vanishes. The constants' ranges are what the recorded grids
    (docs/bench/*_grid.csv) and the reproduction's records show of two small models.

    Of the tuned `settings`, ranges, the first `acting` have an effect, which is made up altogether: at the
    share s of its range a setting adds

        e(s, t)    = g ((s - b)^2 - (s0 - b)^2) / (s0 - b)^2 (1 + k_e (1 - t))

    that is 0 at the baselines' value s0 and at best -g percent, at b.
    """

    def __init__(self, member: int, epochs: int, settings: Sequence[Dimension] = (), acting: int = 2) -> None:
        draw = np.random.default_rng([member, 26])
        self.member, self.epochs = member, epochs
        self.onset, self.slope = draw.uniform(-7.2, -5.8), draw.uniform(-1.2, -0.8)
        self.w, self.d = draw.uniform(0.8, 1.4), draw.uniform(0.5, 1.2)
        self.h, self.p, self.k = draw.uniform(5, 30), draw.uniform(0.6, 0.9), draw.uniform(-0.2, 0.6)
        self.sigma = (draw.uniform(0.1, 0.3), draw.uniform(1, 4))
        self.f, self.v = draw.uniform(5, 25), draw.uniform(0, 4)
        level, jitter = draw.uniform(-1.2, 2.6), draw.uniform(-1.2, 1.2, len(LAMBDAS))
        self.gain_y = np.clip(level + jitter, 0, 3.5)
        self.z_acts = bool(draw.random() < 0.6)
        self.shift_z = draw.uniform(2, 4)
        self.gain_z = np.clip(draw.uniform(-1, 2) + draw.uniform(-0.5, 0.5, len(LAMBDAS)), 0, 3)

        self._effects: dict[str, tuple[Dimension, float, float, float, float]] = {}
        tuned = np.random.default_rng([member, 27])
        for setting in settings[:acting]:
            start = setting.share(setting.default)
            best = (start + tuned.choice([-1, 1]) * tuned.uniform(0.3, 0.5)) % 1
            self._effects[setting.name] = (setting, start, best, tuned.uniform(1, 4), tuned.uniform(-0.5, 1))

    @classmethod
    def quiet(cls, epochs: int, settings: Sequence[Dimension] = ()) -> Realistic:
        """A response with nothing to gain and little noise, as two small models had in searches on real
        images (docs/results.md): fewer trials get beyond the first rung."""
        made = cls(0, epochs, settings, acting=0)
        made.sigma, made.v = (0.1, 0.4), 0.0
        made.gain_y = made.gain_z = np.zeros(len(LAMBDAS))
        return made

    def effect(self, tuned: Mapping[str, Value], left: float = 0.0) -> float:
        """What the values of the tuned settings add, with the fraction `left` of the training to go."""
        total = 0.0
        for name, (setting, start, best, gain, early) in self._effects.items():
            away = ((setting.share(tuned[name]) - best) / (start - best)) ** 2 - 1
            total += gain * away * (1 + early * left)
        return total

    @property
    def best_effect(self) -> float:
        """The lowest that the tuned settings can add."""
        return -sum(gain for *_, gain, _ in self._effects.values())

    def _parts(self, alpha: float, strategy: str, lmbda: float) -> list[tuple[float, float, float]]:
        """Gain, harm and early gain at full weight of each latent that the strategy decorrelates."""
        if not alpha:
            return []
        log_lmbda, places = math.log10(lmbda), np.log10(list(LAMBDAS.values()))
        found = []
        for latent in strategy.split("+"):
            if latent == "z" and not self.z_acts:
                continue
            center = self.onset + self.slope * (log_lmbda - (_LOW + _HIGH) / 2)
            a = alpha / 10 ** (center + (self.shift_z if latent == "z" else 0.0))
            b = (a * 10**self.d) ** self.w
            bump = 2 * b / (1 + b * b)
            gains = self.gain_z if latent == "z" else self.gain_y
            gain = float(np.interp(log_lmbda, places, gains))
            found.append((gain * bump, self.h * ((1 + a * a) ** (self.p / 2) - 1), self.v * bump))
        return found

    def full(
        self, alpha: float, strategy: str, lmbda: float, tuned: Mapping[str, Value] | None = None
    ) -> float:
        """The rate change at full length, without noise."""
        own = self.effect(tuned) if tuned else 0.0
        return own + sum(harm - gain for gain, harm, _ in self._parts(alpha, strategy, lmbda))

    def noise(self, lmbda: float) -> float:
        """Standard deviation between seeds at full length."""
        place = (math.log10(lmbda) - _LOW) / (_HIGH - _LOW)
        return float(self.sigma[0] ** (1 - place) * self.sigma[1] ** place)

    def __call__(
        self,
        alpha: float,
        strategy: str,
        lmbda: float,
        epoch: int,
        seed: int,
        tuned: Mapping[str, Value] | None = None,
    ) -> float:
        left = 1 - epoch / self.epochs
        value = sum(
            harm * (1 + self.k * left) - gain - early * left**2
            for gain, harm, early in self._parts(alpha, strategy, lmbda)
        )
        key: tuple[object, ...] = (self.member, alpha, strategy, lmbda, seed)
        if tuned:
            value += self.effect(tuned, left)
            key = (*key, *sorted(tuned.items()))
        of_reading = (self.f - 1) * left**1.5 * standard_normal(*key, epoch)
        return float(value + self.noise(lmbda) * (standard_normal(*key) + of_reading))
