"""Nothing of this package runs code that is in a file or a text that it was given."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lic import zoo
from lic.models.architectures import WEIGHTS, ModelError
from lic.models.build import build
from lic.training.trainer import CheckpointError, _sealed, read_checkpoint
from lic.training.weights import load_weights
from lic.zoo import ModelConfig, ZooError

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for part in ("lic", "search", "dashboards", "configs") for path in (ROOT / part).rglob("*.py")
)

#: Modules that run what they read, and calls that do unless they are told not to.
_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
}
_CALLS = {
    "eval", "exec", "os.system", "os.popen", "subprocess.getoutput", "yaml.load", "yaml.load_all",
    "yaml.full_load", "yaml.unsafe_load", "pd.read_pickle",
}  # fmt: skip
_METHODS = {"extractall", "unpack_archive"}


def test_the_sources_run_nothing_that_they_read() -> None:
    assert len(SOURCES) > 50
    assert [
        f"{path.relative_to(ROOT)}: {what}" for path in SOURCES for what in doubtful(path.read_text())
    ] == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from cloudpickle import loads", "import ray.cloudpickle",
        "from ray import cloudpickle", "torch.load(path)", "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader)", "eval(text)", "np.load(path, allow_pickle=True)",
        "subprocess.run(command, shell=True)", "archive.extractall(folder)",
    ],
)  # fmt: skip
def test_what_would_do_so_is_found(line: str) -> None:
    assert len(list(doubtful(line))) == 1


def doubtful(source: str) -> Iterator[str]:
    """The imports and calls that could run what they read."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {part for alias in node.names for part in alias.name.split(".")}
            names |= set((getattr(node, "module", None) or "").split("."))
            if names & _MODULES:
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and _is_doubtful(node):
            yield ast.unparse(node)


def _is_doubtful(call: ast.Call) -> bool:
    name, given = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load":
        return given.get("weights_only") != "True"
    unsafe = given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False"
    return unsafe or name in _CALLS or name.rpartition(".")[2] in _METHODS


class Hostile:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.target,)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Path]:
    """The file that is there once a hostile pickle was loaded; at the end it must not be."""
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Hostile(ran)))
    assert ran.exists()
    ran.unlink()
    yield ran
    assert not ran.exists()


@pytest.mark.parametrize("how", ["with its checksum", "torch", "old torch", "pickle"])
def test_a_hostile_checkpoint_is_refused(how: str, payload: Path, tmp_path: Path) -> None:
    state = {"config": {}, "step": 1, "model": Hostile(payload), "optimiser": {}}
    path = tmp_path / "q1.pt"
    if how == "with its checksum":
        path.write_bytes(_sealed(state))
    elif how == "pickle":
        path.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(
        CheckpointError,
        match="not a readable checkpoint" if how == "with its checksum" else "checksum mismatch",
    ):
        read_checkpoint(path)


def test_hostile_starting_weights_are_refused(payload: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    torch.save({"g_a.0.weight": Hostile(payload)}, path)
    with pytest.raises(ModelError, match="is not a readable weights file"):
        load_weights(build("hyperprior", 8), path)


def test_a_hostile_zoo_is_refused(payload: Path, tmp_path: Path) -> None:
    config = ModelConfig("bmshj2018-hyperprior", 8, None, 1, 0.0018, 1e-6, "y", "paper", 0, "trial-000")
    root = tmp_path / "zoo"
    zoo.write_model(root / "q1", zoo.prepare(build(config.architecture, 8)), config)
    torch.save(Hostile(payload), root / "q1" / WEIGHTS)
    about = {"role": zoo.TUNED, "figures": {}}
    (root / zoo.MANIFEST).write_text(json.dumps(zoo.manifest_of(root, {}, {"q1": about})))
    (found,) = zoo.list_models(root)
    assert found.sha256 == hashlib.sha256((root / "q1" / WEIGHTS).read_bytes()).hexdigest()
    with pytest.raises(ZooError, match="does not contain"):
        found.load()
    with pytest.raises(ZooError, match="does not contain"):
        zoo.read_model(root / "q1" / WEIGHTS, root / "q1" / zoo.CONFIG)  # as MLflow's registry does
