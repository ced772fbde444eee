"""Trainings that take no time, for tests.bench.scale: in a file of their own, as each worker imports it."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune

from lic import atomic_io
from lic.recipe import LAMBDAS

EPOCHS = 9


def reading(alpha: float, quality: int, epoch: int) -> dict[str, float]:
    """The figures of a made-up training: bits fall with the epochs, and are fewest at alpha 1e-7."""
    gain = -3 + 4 * (math.log10(alpha) + 7) ** 2 if alpha else 0.0
    rate = 0.2 * quality * (1 + gain / 100) * (1 + 1 / epoch)
    return {"val/bpp": rate, "val/mse": 100.0 / quality, "time/measured_at": time.time()}


class Instant(tune.Trainable):
    """A training that takes no time, for either side."""

    def setup(self, config: dict[str, Any]) -> None:
        # Where our engine puts the point, or Ray's own search; that of ours ends by its scheduler alone.
        self.point, self.ours = config.get("trial", config), "trial" in config
        self.epoch, self.config = 0, config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        self.epoch += 1
        time.sleep(self.point["seconds"])
        figures = reading(self.point["alpha"], self.point["quality"], self.epoch)
        cost = figures["val/bpp"] + LAMBDAS[self.point["quality"]] * figures["val/mse"]
        readings = SimpleNamespace(epoch=self.epoch, figures=figures, images=None)
        done = not self.ours and self.epoch >= EPOCHS
        if self.ours:  # Ray saves those of its own side
            with self.config["checkpoints"].saving(self.config["training"], self.epoch) as path:
                atomic_io.write(path, str(self.epoch))
        return {**figures, "readings": [readings], "rd_cost": cost, "done": done}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "state.pt").write_text(str(self.epoch))

    def load_checkpoint(self, checkpoint: Any) -> None:
        self.epoch = int((Path(checkpoint) / "state.pt").read_text())
