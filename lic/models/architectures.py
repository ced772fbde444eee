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

#: The weights in the folder of a model in a zoo.
WEIGHTS = "model.safetensors"


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


def starter_sizes(name: str) -> list[tuple[int, int]]:
    """Channels N and latent channels M of the starter weights that the repository keeps of this model."""
    stems = [path.stem for path in sorted(STARTERS.glob(f"{architecture(name)}-*.safetensors"))]
    sizes = [stem.removeprefix(f"{architecture(name)}-").split("x") for stem in stems]
    return [(int(size[0]), int(size[-1])) for size in sizes]


def check_width(name: str, width: int, latent_width: int | None) -> None:
    """Raise ModelError if the architecture cannot have so many channels N and latent channels M."""
    latent = width if latent_width is None else latent_width
    if not has_latent_width(name) and latent != width:
        raise ModelError(
            f"{architecture(name)} has one width; leave latent_width {latent} out or make it {width}"
        )
    if width < 2 or latent < least_latent_width(name):
        raise ModelError(
            f"{architecture(name)} cannot be {width} channels wide with {latent} latent channels; it takes "
            f"at least 2 and {least_latent_width(name)}"
        )


def has_latent_width(name: str) -> bool:
    """Whether the architecture has a number of latent channels of its own."""
    return ARCHITECTURES[architecture(name)][0]


def least_latent_width(name: str) -> int:
    """The fewest latent channels that it can have: ELIC has groups of them."""
    return 8 if architecture(name).startswith("elic") else 2


def starting_weights(start: str, name: str, width: int, latent_width: int | None = None) -> str:
    """What a wish to start from something stands for, `scratch` or a file: with `auto` the starter weights if
    there are any of this model and width, with `starter` these alone; of a zoo's folder the weights of its
    highest quality, of one model's those. Raises ModelError."""
    if start == "scratch":
        return start
    if start not in ("auto", "starter"):
        return str(_weights_at(Path(start)))
    if (path := starter_path(name, width, latent_width)).is_file():
        return str(path)
    if start == "auto":
        return "scratch"
    there = " and ".join("x".join(map(str, dict.fromkeys(size))) for size in starter_sizes(name)) or "none"
    raise ModelError(
        f"there are no starter weights for {name} of width {width} (there are of {there}); "
        "use --start scratch, or make them with python -m lic.training.starter"
    )


def _weights_at(path: Path) -> Path:
    """The weights that a path names: a file, or that of a zoo's folder."""
    if path.is_dir():
        if (path / WEIGHTS).is_file():
            return path / WEIGHTS
        if models := sorted(path.glob(f"q[0-9]/{WEIGHTS}")):
            return models[-1]
        raise ModelError(
            f"the folder {shown(str(path))} is none of a zoo, zoo/ARCHITECTURE, nor of a model in one, "
            f"zoo/ARCHITECTURE/q3, with {WEIGHTS} in it; name one, or a file"
        )
    if not path.is_file():
        raise ModelError(
            f"there are no weights at {shown(str(path))}; --start takes scratch, starter, auto, a file "
            "(.safetensors, .pth, .pth.tar), a search's best/q3.pt, or the folder of a zoo or of its model"
        )
    return path
