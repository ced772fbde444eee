"""Which models and strategies there are: names only, so that a command can check them at once."""

from __future__ import annotations

from pathlib import Path

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

STARTERS = Path(__file__).parent / "starters"


class ModelError(LictuneError):
    """A model, latent or weight file that cannot be had; the message is for the user."""


def architecture(name: str) -> str:
    """The CompressAI registry name of `name`, an alias or itself. Raises ModelError."""
    resolved = ALIASES.get(name, name)
    if resolved not in ARCHITECTURES:
        known = ", ".join([*ALIASES, *ARCHITECTURES])
        raise ModelError(f"no model is called {shown(name)}; choose one of {known}")
    return resolved


def strategies(name: str) -> tuple[str, ...]:
    """The decorrelation strategies that the architecture offers: no z, no 'z' and no 'y+z'."""
    return STRATEGIES if ARCHITECTURES[architecture(name)][1] else ("y",)


def check_strategy(name: str, strategy: str) -> None:
    """Raise ModelError if the architecture lacks a latent that `strategy` decorrelates."""
    if strategy not in STRATEGIES:
        raise ModelError(f"no strategy is called {shown(strategy)}; choose one of {', '.join(STRATEGIES)}")
    if strategy not in strategies(name):
        raise ModelError(
            f"strategy '{strategy}' needs the hyper-latent z, and {architecture(name)} has none; "
            "use strategy 'y'"
        )


def starter_path(name: str, width: int, latent_width: int | None = None) -> Path:
    """Where the repository keeps its starter weights of this model and width."""
    latent = width if latent_width is None else latent_width
    size = f"{width}" if latent == width else f"{width}x{latent}"
    return STARTERS / f"{architecture(name)}-{size}.safetensors"


def starting_weights(start: str, name: str, width: int, latent_width: int | None = None) -> str:
    """What a wish to start from something stands for, `scratch` or a file: with `auto` the starter weights if
    there are any of this model and width, with `starter` these alone. Raises ModelError."""
    if start not in ("auto", "starter"):
        return start
    if (path := starter_path(name, width, latent_width)).is_file():
        return str(path)
    if start == "auto":
        return "scratch"
    raise ModelError(
        f"there are no starter weights for {name} of width {width}; "
        "use --start scratch, or make them with python -m lic.starter"
    )
