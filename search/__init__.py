"""The search: a decision core over Optuna's storage, and around it Ray Tune, MLflow, commands.

From Python:

    import search

    found = search.tune(model="cheng", budget=64, data="photos")   # or search.load("last")
    found.best[3].alpha, found.table("rates"), found.bd_rate("y+z"), found.plot("rd")
    found.export("zoo")
    search.Simulation(curve, budget=500, workers=64).run()
"""

from __future__ import annotations

import getpass
import os
from typing import TYPE_CHECKING, Any

from lic.files import home

if TYPE_CHECKING:
    from search.session.api import (
        Search,
        SearchError,
        SearchInterruptedError,
        Simulation,
        load,
        resume,
        tune,
    )

__all__ = ["Search", "SearchError", "SearchInterruptedError", "Simulation", "load", "resume", "tune"]

# What Ray Tune, MLflow and torch ask for when they are imported, for a user, such as a container's, who has
# neither a home folder nor a name.
os.environ.setdefault("HOME", str(home()))
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())


def __getattr__(name: str) -> Any:
    """The Python API, imported when it is asked for: it brings pandas, Optuna and torch."""
    if name in __all__:
        from search.session import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
