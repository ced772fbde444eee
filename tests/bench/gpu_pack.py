"""Pack the search's packages for a GPU machine without a network: `python -m tests.bench.gpu_pack`.

For a machine that has Python 3.12 on x86-64 Linux (glibc 2.34 or newer), torch and the usual scientific
packages (NumPy, SciPy, pandas, Matplotlib, Pillow, PyArrow), and nothing of ours. The archive, a .tar.xz of
one folder `site` for PYTHONPATH, holds Ray, Optuna, MLflow, CompressAI and what else they need, in the
versions of requirements.lock, hashes checked, without what a search does not use. It must not be larger than
55 MiB.
--check PYTHON, such an interpreter, unpacks it and runs tests.bench.gpu_check with it. For
tests/bench/gpu_search.sh.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

#: MiB that the archive may have.
MOST = 55

#: The machine that it is for, in uv's words. CompressAI has no wheel for an older glibc.
PYTHON, PLATFORM = "3.12", "x86_64-manylinux_2_34"

#: Packages that are left out, with all that only they need.
LEFT_OUT = {
    "torch": "is there",
    "numpy": "is there",
    "scipy": "is there",
    "pandas": "is there",
    "matplotlib": "is there",
    "pillow": "is there",
    "pyarrow": "is there",
    "torchvision": "CompressAI's data transforms; lic.models.compressai_parts imports none of them",
    "torch-geometric": "CompressAI's point clouds",
    "optuna-dashboard": "a web server",
    "psycopg": "studies in PostgreSQL",
    "psycopg-binary": "studies in PostgreSQL",
    "scikit-learn": "MLflow's flavour of it, and importances that lictune does not use",
    "skops": "MLflow's flavour of scikit-learn",
    "docker": "MLflow's projects",
    "flask": "MLflow's server",
    "flask-cors": "MLflow's server",
    "flask-wtf": "MLflow's server",
    "graphene": "MLflow's server",
    "gunicorn": "MLflow's server",
    "huey": "MLflow's server",
    "waitress": "MLflow's server",
    "uvicorn": "MLflow's server",
    "gitpython": "MLflow's tag of the commit",
    "py-spy": "Ray's dashboard",
    "virtualenv": "Ray's runtime environments",
    "tensorboardx": "--log-to tensorboard",
    "setuptools": "builds packages",
    "wheel": "builds packages",
    "pybind11": "builds packages",
}

#: Files and folders below `site` that are left out, as fnmatch writes them ("*" goes through folders).
PATTERNS = {
    "bin": "commands",
    "share": "manual pages",
    "*/tests": "tests of packages",
    "*/test": "tests of packages",
    "*.pyi": "types for checkers",
    "*.pyx": "source of compiled code",
    "*.pxd": "source of compiled code",
    "*.h": "headers for builds",
    "*.hpp": "headers for builds",
    "*.a": "libraries for builds",
    "*.map": "for debuggers of JavaScript",
    "ray/jars": "Ray's Java API",
    "ray/cpp": "Ray's C++ API",
    "ray/rllib": "reinforcement learning",
    "ray/serve": "model servers",
    "ray/llm": "model servers",
    "ray/dashboard/client": "the dashboard's web page",
    "databricks/sdk/*": "MLflow's stores at Databricks; it looks for the package itself",
    "mlflow/server/js": "the web page",
    "plotly/labextension": "for notebooks",
    "plotly/package_data/datasets": "example data",
    "plotly/package_data/widgetbundle.js": "for notebooks",
}


def names(dependencies: list[str]) -> list[str]:
    """Names of packages, without versions and extras."""
    return [re.split(r"[^a-z0-9.-]", each.lower(), maxsplit=1)[0] for each in dependencies]


def wanted(lock: str, roots: list[str]) -> dict[str, str]:
    """Name of each package to pack -> its entries in the text of a lock, hashes and all: the `roots` and what
    they need, by the lock's own notes of who needs what, without what is left out."""
    entries: dict[str, str] = defaultdict(str)
    needs: dict[str, set[str]] = defaultdict(set)
    for entry in re.findall(r"^[a-z0-9].*\n(?:[ ]+.*\n?)*", lock, re.MULTILINE):
        pinned, _, via = entry.partition("# via")
        name = pinned.partition("==")[0]
        entries[name] += pinned.rstrip() + "\n"
        for parent in re.findall(r"^ *(?:# +)?([a-z0-9][a-z0-9.-]*)", via, re.MULTILINE):
            needs[parent].add(name)
    found: dict[str, str] = {}
    open_ends = list(roots)
    while open_ends:
        name = open_ends.pop()
        if name not in found and name not in LEFT_OUT:
            found[name] = entries[name]
            open_ends += needs[name]
    return dict(sorted(found.items()))


def is_left_out(path: str) -> bool:
    """Whether a file, given by its path below `site`, is left out."""
    parts = path.split("/")
    parents = ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]
    return any(fnmatch.fnmatchcase(part, pattern) for pattern in PATTERNS for part in parents)


def install(site: Path) -> None:
    """Install the packages into an empty folder, for the machine that they are for. Raises
    CalledProcessError."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    roots = names(project["dependencies"])
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("".join(wanted((ROOT / "requirements.lock").read_text(), roots).values()))
        file.flush()
        # Copied, not linked to uv's cache and so to other environments: strip writes into the files.
        subprocess.run(
            [
                str(Path(sys.executable).with_name("uv")), "pip", "install", "--quiet", "--link-mode", "copy",
                "--target", str(site), "--python-version", PYTHON, "--python-platform", PLATFORM, "--no-deps",
                "--require-hashes", "--only-binary", ":all:", "--requirement", file.name,
            ],
            check=True,
        )  # fmt: skip
    # A search records the version of lictune, whose code is the checkout.
    metadata = site / f"{project['name']}-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")


def prune(site: Path) -> None:
    """Remove what is left out, and symbols from compiled code. Raises CalledProcessError."""
    for path in sorted(site.rglob("*")):
        if path.is_file() and is_left_out(path.relative_to(site).as_posix()):
            path.unlink()
    for path in sorted(site.rglob("*")):
        # Those in NAME.libs were edited after linking, which strip does not survive.
        if path.is_file() and not path.parent.name.endswith(".libs") and _is_elf(path):
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=True)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _files(site: Path) -> Iterator[Path]:
    """Files in an order that compresses well: of a kind together."""
    there = (path for path in site.rglob("*") if path.is_file())
    return iter(sorted(there, key=lambda path: (_is_elf(path), path.suffix, path)))


def pack(site: Path, out: Path) -> None:
    """Write the files of a folder as an archive, the same for the same files."""

    def anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.mode & 0o100 else 0o644
        return entry

    # Blocks of a fixed size, or the archive would depend on the number of threads.
    command = ["xz", "--threads=2", "--block-size=201326592", "--x86", "--lzma2=preset=9e", "--stdout"]
    with (
        out.open("wb") as target,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=target) as compressing,
        tarfile.open(fileobj=compressing.stdin, mode="w|") as archive,
    ):
        for path in _files(site):
            archive.add(path, f"site/{path.relative_to(site)}", filter=anonymous)
    if compressing.returncode:
        raise subprocess.CalledProcessError(compressing.returncode, command)


def check(archive: Path, python: str, folder: Path) -> None:
    """Unpack the archive into a folder and use it as a search does. Raises CalledProcessError."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    place = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder / 'site'}"}
    # Ray's processes have to be up in 30 seconds, which compiling thousands of files takes.
    subprocess.run(
        [python, "-m", "compileall", "-q", str(folder / "site")], check=False, stdout=subprocess.DEVNULL
    )
    subprocess.run([python, "-W", "ignore", "-m", "tests.bench.gpu_check"], check=True, cwd=folder, env=place)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/site.tar.xz"), help="(default: %(default)s)")
    parser.add_argument("--check", metavar="PYTHON", help="an interpreter to try the archive with")
    parser.add_argument("--keep", type=Path, help="leave what was packed in this folder")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        site = args.keep or Path(temporary) / "site"
        shutil.rmtree(site, ignore_errors=True)
        install(site)
        prune(site)
        print(f"{sum(path.stat().st_size for path in _files(site)) / 2**20:.0f} MiB to compress", flush=True)
        pack(site, args.out)
        size = args.out.stat().st_size / 2**20
        print(f"{args.out} has {size:.1f} MiB", flush=True)
        if size > MOST:
            sys.exit(f"gpu_pack: more than {MOST} MiB; leave more out (PATTERNS, LEFT_OUT)")
        if args.check:
            check(args.out, args.check, Path(temporary))


if __name__ == "__main__":
    main()
