"""The search: a decision core over Optuna's storage, and around it Ray Tune, MLflow, commands."""

from __future__ import annotations

import getpass
import os

from lic.files import home

# What Ray Tune, MLflow and torch ask for when they are imported, for a user, such as a container's, who has
# neither a home folder nor a name.
os.environ.setdefault("HOME", str(home()))
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())
