"""Pack what a GPU machine without a network lacks: `python -m tests.bench.carry --data DIR --kodak DIR`.

For a machine that has Python and torch (3.12 and 2.11, say) with the usual scientific packages, and nothing
of ours. --to then holds `site`, the pure Python of CompressAI and of the other small packages as installed
here (PYTHONPATH), and `train`, `val` and `kodak`, the images. CompressAI's entropy coder, which is compiled
for one Python, stays behind: training and the estimate of the rate need none, and coding says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
from pathlib import Path

#: Distributions that go along; each is Python alone, but for CompressAI.
PACKAGES = ("compressai", "pytorch-optimizer", "pytorch-msssim", "bjontegaard")

#: In the place of CompressAI's compiled modules.
_STUB = '''"""Stayed behind: the compiled entropy coder is for another Python."""


class Missing:
    def __getattr__(self, name):
        raise RuntimeError("CompressAI's entropy coder is not on this machine")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return Missing
'''


def pack_package(name: str, site: Path) -> None:
    """Copy the Python files and metadata of an installed distribution."""
    for file in importlib.metadata.files(name) or []:
        if file.parts[0] == ".." or file.suffix in (".pyc", ".h", ".cpp"):
            continue
        target = site / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".so":
            target.with_name(file.name.partition(".")[0] + ".py").write_text(_STUB)
        else:
            shutil.copyfile(str(file.locate()), target)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with the images in train and val")
    parser.add_argument("--kodak", type=Path, required=True, help="folder of the Kodak images")
    parser.add_argument("--to", type=Path, default=Path(".carry"), help="(default: .carry)")
    args = parser.parse_args()
    shutil.rmtree(args.to, ignore_errors=True)
    for name in PACKAGES:
        pack_package(name, args.to / "site")
    for part in ("train", "val"):
        shutil.copytree(args.data / part, args.to / part)
    shutil.copytree(args.kodak, args.to / "kodak")
    size = sum(path.stat().st_size for path in args.to.rglob("*") if path.is_file())
    print(f"{args.to} holds {size / 2**20:.1f} MiB; see tests/bench/on_gpu.sh")


if __name__ == "__main__":
    main()
