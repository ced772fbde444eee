"""A search that also trains its baselines on other seeds (`--noise-seeds`)."""

from __future__ import annotations

from search.base.space import Candidate
from search.decide.core import Core
from search.records.confirm import FixedSchedule, baselines_on
from search.store.optuna_internals import storage_of


class WithNoise:
    """A scheduler with the interface of the decision core: its baselines, then the baselines on other seeds,
    then its trials. The baselines on other seeds are recorded among the training runs of the confirmation,
    which does not repeat them; they are trained in full."""

    def __init__(self, core: Core) -> None:
        self.plan, self._core = core.plan, core
        seeds = range(self.plan.seed + 1, self.plan.seed + 1 + self.plan.noise_seeds)
        candidates = [candidate for seed in seeds for candidate in baselines_on(self.plan, seed)]
        name = core.trials.study_name
        # The core's own storage: it reads what is recorded there, and keeps a copy.
        self._noise = FixedSchedule(storage_of(core.trials), name, self.plan, candidates)
        self._names = {candidate.name for candidate in candidates}

    def suggest(self) -> Candidate | None:
        """The next training run, or None."""
        if any(self._core.baseline(quality) is None for quality in self.plan.qualities):
            candidate = self._core.suggest()
            if candidate is not None:
                return candidate
        return self._noise.suggest() or self._core.suggest()

    def waits(self) -> bool:
        """Whether a trial is left to suggest that can only begin later."""
        return self._noise.waits() or self._core.waits()

    def unfinished(self) -> list[Candidate]:
        """The training runs that have started and not ended."""
        return [*self._core.unfinished(), *self._noise.unfinished()]

    def observe(
        self,
        name: str,
        epoch: int,
        figures: dict[str, float],
        images: dict[str, list[float]] | None = None,
    ) -> None:
        """Record what a training run measured after an epoch."""
        self._of(name).observe(name, epoch, figures, images)

    def decide(self, name: str, epoch: int) -> bool:
        """Whether the training run continues."""
        return self._of(name).decide(name, epoch)

    def fail(self, name: str, reason: str) -> None:
        """Record that a training run failed, and why."""
        self._of(name).fail(name, reason)

    def end(self, name: str, reason: str) -> None:
        """Record that a training run was ended before its time."""
        self._of(name).end(name, reason)

    def close(self) -> None:
        """Mark unfinished training runs as failed."""
        self._core.close()
        self._noise.close()

    def _of(self, name: str) -> Core | FixedSchedule:
        return self._noise if name in self._names else self._core
