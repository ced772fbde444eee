"""The search: a decision core on Optuna's storage, with Ray Tune, MLflow and commands around it.

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

# Ray Tune, MLflow and torch need a home folder and a user name on import; users of containers may have
# neither.
os.environ.setdefault("HOME", str(home()))
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())


def __getattr__(name: str) -> Any:
    """Import the Python API lazily: it imports pandas, Optuna and torch."""
    if name in __all__:
        from search.session import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
