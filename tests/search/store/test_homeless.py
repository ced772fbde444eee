"""A user of neither a home folder nor a name, as a container's often is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

#: What Ray Tune, MLflow and matplotlib do when they are imported, and torch when it compiles.
_ASK = """
import os
os.getuid = lambda: 2**31 - 7  # of no entry in the passwd file
import pathlib, search, getpass
pathlib.Path("~/ray_results").expanduser()
print(pathlib.Path.home(), pathlib.Path.home().is_dir(), getpass.getuser())
"""


def test_libraries_find_a_home_folder_and_a_user(tmp_path: Path) -> None:
    unknown = ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    environment = {key: value for key, value in os.environ.items() if key not in unknown}
    done = subprocess.run(
        [sys.executable, "-c", _ASK], env={**environment, "TMPDIR": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == f"{tmp_path}/lictune-2147483641 True 2147483641\n", done.stderr
