"""The names of models and strategies, without importing torch, so that commands can check them quickly."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lic.errors import LictuneError
from lic.files import shown

STRATEGIES = ("y", "z", "y+z")

#: CompressAI registry name -> (has a latent channel count M apart from N, has a hyper-latent z).
ARCHITECTURES: dict[str, tuple[bool, bool]] = {
    "bmshj2018-factorized": (True, False),
    "bmshj2018-factorized-relu": (True, False),
    "bmshj2018-hyperprior": (True, True),
    "mbt2018-mean": (True, True),
    "mbt2018": (True, True),
    "cheng2020-anchor": (False, True),
    "cheng2020-attn": (False, True),
    "cheng2020-anchor-checkerboard": (False, True),
    "elic2022-official": (True, True),
    "elic2022-chandelier": (True, True),
}

#: Short names of the paper's two models.
ALIASES = {"cheng": "cheng2020-anchor", "hyperprior": "bmshj2018-hyperprior"}

#: The name of a model of the user's own: MODULE:CLASS, or MODULE:FUNCTION that returns a model.
OWN = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")

#: The dotted path of a module in a model.
MODULE_PATH = re.compile(r"\w+(\.\w+)*")

STARTERS = Path(__file__).parent / "starters"

#: The weights in the folder of a model in a zoo.
WEIGHTS = "model.safetensors"


class ModelError(LictuneError):
    """A model, latent or weights file is not available; the message is for the user."""


@dataclass(frozen=True)
class OwnModel:
    """A model of the user's own.

    `name` is MODULE:CLASS, or MODULE:FUNCTION; `arguments` are the keyword arguments that it is called with,
    as JSON. `latents` are the paths of the modules whose outputs are y and z, by latent, as JSON; without
    them, the modules named g_a and h_a.
    """

    name: str
    arguments: str = "{}"
    latents: str = "{}"

    @staticmethod
    def of(name: str, arguments: Mapping[str, Any], latents: Mapping[str, str]) -> OwnModel:
        """Raises ValueError if the arguments are not plain values."""
        given = (json.dumps(dict(part), sort_keys=True, allow_nan=False) for part in (arguments, latents))
        return OwnModel(name, *given)

    @property
    def paths(self) -> dict[str, str]:
        """The paths of the modules whose outputs are latents, by latent."""
        return dict(json.loads(self.latents))

    def __str__(self) -> str:
        arguments = ", ".join(f"{key}={value}" for key, value in json.loads(self.arguments).items())
        return f"{self.name}({arguments})"


def is_own(name: str) -> bool:
    """Whether this is the name of a model of the user's own."""
    return bool(OWN.fullmatch(name))


def architecture(model: str | OwnModel) -> str:
    """The CompressAI registry name of a model, an alias or itself; for a user's own, MODULE.CLASS, which can
    also name a folder. Raises ModelError."""
    name = model.name if isinstance(model, OwnModel) else model
    return name.replace(":", ".") if is_own(name) else registered(name)


def registered(name: str) -> str:
    """The CompressAI registry name of an alias or of itself. Raises ModelError."""
    resolved = ALIASES.get(name, name)
    if is_own(name):
        raise ModelError(f"{name} is a model of your own, which only python -m search.run can train")
    if resolved not in ARCHITECTURES:
        known = ", ".join([*ALIASES, *ARCHITECTURES])
        raise ModelError(f"unknown model {shown(name)}; choose from {known}, or MODULE:CLASS of your own")
    return resolved


def strategies(model: str | OwnModel) -> tuple[str, ...]:
    """The decorrelation strategies of a model; 'z' and 'y+z' need a hyper-latent z."""
    has_z = "z" in model.paths if isinstance(model, OwnModel) else ARCHITECTURES[registered(model)][1]
    return STRATEGIES if has_z else ("y",)


def check_strategy(name: str | OwnModel, strategy: str) -> None:
    """Raise ModelError if the architecture lacks a latent that `strategy` decorrelates."""
    if strategy not in STRATEGIES:
        raise ModelError(f"unknown strategy {shown(strategy)}; choose from {', '.join(STRATEGIES)}")
    if strategy not in strategies(name):
        raise ModelError(
            f"strategy '{strategy}' needs the hyper-latent z, which {architecture(name)} lacks; "
            "use strategy 'y'"
        )


def starter_path(name: str, width: int, latent_width: int | None = None) -> Path:
    """The path of the starter weights of this model and width; the file may not exist."""
    latent = width if latent_width is None else latent_width
    size = f"{width}" if latent == width else f"{width}x{latent}"
    return STARTERS / f"{architecture(name)}-{size}.safetensors"


def starter_sizes(name: str) -> list[tuple[int, int]]:
    """Channels N and latent channels M of the available starter weights of this model."""
    stems = [path.stem for path in sorted(STARTERS.glob(f"{architecture(name)}-*.safetensors"))]
    sizes = [stem.removeprefix(f"{architecture(name)}-").split("x") for stem in stems]
    return [(int(size[0]), int(size[-1])) for size in sizes]


def check_width(name: str, width: int, latent_width: int | None) -> None:
    """Raise ModelError if the architecture cannot have this number of channels N and latent channels M."""
    latent = width if latent_width is None else latent_width
    if not has_latent_width(name) and latent != width:
        raise ModelError(
            f"{architecture(name)} has one width; omit latent_width {latent} or set it to {width}"
        )
    if width < 2 or latent < least_latent_width(name):
        raise ModelError(
            f"{architecture(name)} cannot have {width} channels and {latent} latent channels; the minimum is "
            f"2 and {least_latent_width(name)}"
        )


def has_latent_width(name: str) -> bool:
    """Whether the architecture has a separate number of latent channels M."""
    return ARCHITECTURES[registered(name)][0]


def least_latent_width(name: str) -> int:
    """Minimum number of latent channels; ELIC divides them into groups."""
    return 8 if architecture(name).startswith("elic") else 2


def starting_weights(start: str, name: str, width: int, latent_width: int | None = None) -> str:
    """Resolve the setting `start` to 'scratch' or the path of a weights file. 'auto' is the starter of this
    model and width if available, else 'scratch'; 'starter' requires it; the folder of a zoo model stands for
    its weights, that of a zoo for the weights of its highest quality. Raises ModelError."""
    if start == "scratch":
        return start
    if start not in ("auto", "starter"):
        return str(_weights_at(Path(start)))
    if (path := starter_path(name, width, latent_width)).is_file():
        return str(path)
    if start == "auto":
        return "scratch"
    if is_own(name):
        raise ModelError(f"there are no starter weights for {name}; use --start scratch, or a file")
    available = (
        " and ".join("x".join(map(str, dict.fromkeys(size))) for size in starter_sizes(name)) or "none"
    )
    raise ModelError(
        f"no starter weights for {name} of width {width} (available widths: {available}); "
        "use --start scratch, or train them with python -m lic.training.starter"
    )


def _weights_at(path: Path) -> Path:
    """The weights file of a path: the path itself, or a file in the folder of a zoo or zoo model."""
    if path.is_dir():
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        if models := sorted(path.glob(f"q[0-9]/{WEIGHTS}")):
            return models[-1]
        raise ModelError(
            f"the folder {shown(str(path))} is neither a zoo (zoo/ARCHITECTURE) nor a zoo model "
            f"(zoo/ARCHITECTURE/q3, with {WEIGHTS}); give one of these, or a file"
        )
    if not path.is_file():
        raise ModelError(
            f"no weights at {shown(str(path))}; --start takes scratch, starter, auto, a file "
            "(.safetensors, .pth, .pth.tar, best/q3.pt of a search), or the folder of a zoo or zoo model"
        )
    return path
