"""The folder of a search whose trainings are made up: no image, no model and no Ray, in a second."""

from __future__ import annotations

import json
from pathlib import Path

from search.base.space import Candidate
from search.decide.core import Core
from search.settings.config import SETTINGS, resolve
from search.settings.plan import plan_of
from search.store.find import STUDY
from search.store.provenance import ENVIRONMENT, TEST_SET
from search.store.storage import sqlite_address

#: The fingerprint of the setup that its baselines say they were trained with.
FINGERPRINT = "0123456789abcdef"


def figures(candidate: Candidate, epoch: int) -> dict[str, float]:
    """Of the selection images and of the set 'leaves': every rate is better than the one before."""
    saved = 1 - 0.04 * (not candidate.point.is_baseline)
    measured = {"bpp": 0.1 * 1.5**candidate.quality * saved / epoch, "mse": 90.0 / 1.4**candidate.quality,
                "psnr": 28.0 + candidate.quality, "ms_ssim": 0.9 + 0.01 * candidate.quality}  # fmt: skip
    return {f"{where}/{name}": value for where in ("val", "leaves") for name, value in measured.items()}


def made_up_search(folder: Path, count: int = 99, **settings: str) -> Path:
    """Make the folder of a search over two rates, of four trials, of which at most `count` trainings were
    begun; the folder."""
    folder.mkdir(parents=True)
    given = {"model": "hyperprior", "width": "8", "rates": "1,3", "budget": "4", "epochs": "2",
             "stopping": "no", "start": "scratch", "sampler": "random", "name": folder.name}  # fmt: skip
    resolved = resolve({**given, **settings}, {}, lambda _: 0)
    (folder / SETTINGS).write_text(resolved.report() + "\n")
    (folder / ENVIRONMENT).write_text(json.dumps({"git_commit": "f" * 40, TEST_SET: "leaves"}))
    core = Core(sqlite_address(folder / STUDY), folder.name, plan_of(resolved.settings), FINGERPRINT)
    go_on(core, count)
    return folder


def go_on(core: Core, count: int) -> None:
    """Train at most so many more of what the core suggests."""
    for _ in range(count):
        candidate = core.suggest()
        if candidate is None:
            return
        for epoch in range(1, core.plan.epochs + 1):
            found = figures(candidate, epoch)
            core.observe(candidate.name, epoch, found, {name: [value] * 3 for name, value in found.items()})
            core.decide(candidate.name, epoch)
