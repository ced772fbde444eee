"""When a trial ends early: ASHA's rungs, kept per rate (Li et al. 2020, 'A system for massively
parallel hyperparameter tuning', in its stopping variant).

By rank alone a rung stops nearly every new proposal once proposals are good, since they differ by less
than a reading's noise, and it trains too many while each is the best so far. So where a model says what
a trial will be worth at full length, that decides at the rung.
"""

from __future__ import annotations

from collections.abc import Sequence


def should_stop(value: float, others: Sequence[float], eta: int) -> bool:
    """Whether a trial with this rate change at a rung is not among the best 1/eta of all that have
    reached the same rung of the same rate, itself included. While those are fewer than eta, it must
    be the best of them and no worse than the baseline, whose rate change is 0."""
    better = sum(other < value for other in others)
    arrived = len(others) + 1
    if arrived < eta:
        return better > 0 or value > 0
    return better >= arrived // eta


#: Smallest expected improvement (percent) for which a trial is finished.
_WORTH = 0.17

#: A rate change in percent from which no trial comes back, whatever a model says that has seen none end: of
#: the recorded curves (docs/bench/*_grid.csv) none that read above 77 % at a rung ended below +50 %.
_HOPELESS = 100.0

#: Trials of every rate that are finished unless they are clearly harmful, and the part of an equal share of
#: all that finish: what a rate can gain is learnt from what was trained in full, and early readings at high
#: rates are too noisy to tell.
_LEAST_FINISHED, _FINISHED_SHARE = 3, 0.75

#: Clearly harmful: worse than the baseline by so many standard deviations.
_CLEARLY = 1.0


def owed(finished: int, finished_of_all: int, rates: int) -> bool:
    """Whether a rate with so many finished trials is to have more of them, as all `rates` have together."""
    return finished < max(_LEAST_FINISHED, _FINISHED_SHARE * finished_of_all / rates)


def worth_finishing(value: float, improvement: float, harm: float, is_owed: bool) -> bool:
    """Whether a trial with this rate change (percent) goes on at a rung: given by how much its rate's best is
    expected to improve when it is trained to the end (percent), by how many standard deviations the trial is
    expected to be worse than the baseline, and whether its rate is owed finished trials."""
    if value >= _HOPELESS:
        return False
    return improvement > _WORTH or (is_owed and harm < _CLEARLY)
