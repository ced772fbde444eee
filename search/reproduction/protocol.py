"""The protocol of a reproduction: what to train next is a function of what has been trained."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lic import atomic_io
from lic.errors import LictuneError
from lic.files import shown
from lic.recipe import ON_CPU, ON_GPU, Precision, TrainingConfig
from lic.training.trial import ImagesConfig, TrialConfig
from search.base.space import BASELINE, CONFIRMATION, TRIAL, Candidate, SearchPoint
from search.decide.objective import rd_cost_change

#: Role of a baseline that is trained longer, to measure what longer training alone gains.
LONGER = "longer"

#: The seed on which points are selected; later seeds are fresh.
CHOSEN_ON = 0

#: The image set used for selection, and the prefix of its columns in a record.
SELECTION = "val"

PROTOCOL_FILE, RECORDS_FILE = "protocol.json", "records.jsonl"


class ReproductionError(LictuneError):
    """The state folder cannot be used; the message says what to do."""


@dataclass(frozen=True)
class Protocol:
    """Everything that determines the results, except the machine. `alphas` is the grid per strategy;
    `training` has the fields of TrainingConfig that all training runs share; `start` is the SHA-256 of the
    initial weights file, or empty; `fingerprints` identify the images. The longer baselines (seed 0) train
    `longer` times the usual number of steps. `precision` is that of training on a GPU."""

    model: str
    width: int
    latent_width: int | None
    start: str
    fraction: float
    rates: tuple[int, ...]
    strategies: tuple[str, ...]
    alphas: dict[str, list[float]]
    refined: int
    seeds: int
    longer: int
    training: dict[str, Any]
    val_images: int
    val_crop: int | None
    test_set: str
    fingerprints: dict[str, str]
    precision: Precision = "tf32"

    @property
    def epochs(self) -> int:
        """Number of epochs: how often a training run is saved, and a baseline evaluated on the validation
        images."""
        return int(self.training["epochs"])

    @property
    def steps(self) -> int:
        """Number of steps of a training run."""
        return int(self.training["epochs"] * self.training["steps_per_epoch"])

    def save(self, state: Path) -> None:
        """Write the protocol to the state folder. Raises OSError."""
        atomic_io.write(state / PROTOCOL_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @staticmethod
    def load(state: Path) -> Protocol:
        """Read the protocol of a state folder. Raises ReproductionError."""
        path = state / PROTOCOL_FILE
        try:
            found = json.loads(path.read_text())
            lists = {name: tuple(found[name]) for name in ("rates", "strategies")}
            return Protocol(**{**found, **lists})
        except FileNotFoundError:
            raise ReproductionError(f"{state} is not the state folder of a reproduction") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReproductionError(
                f"{path} cannot be read ({error}); give another --state folder"
            ) from error

    def check_same(self, other: Protocol, state: Path) -> None:
        """Raise ReproductionError, naming the first difference, unless the protocol in `state` is the
        same."""
        begun = asdict(other)
        for name, own in asdict(self).items():
            if (there := begun[name]) != own:
                raise ReproductionError(
                    f"{state} was started with {name} {shown(there)}, not {shown(own)}; give the same "
                    "options, or another --state folder"
                )

    def trial_config(
        self, candidate: Candidate, images: ImagesConfig, start: str | None, device: str
    ) -> TrialConfig:
        """The configuration of a training run on this machine, evaluated at its end. Baselines are also
        evaluated on the validation images after every epoch, to check convergence."""
        times = self.longer if candidate.role == LONGER else 1
        own = {
            "lmbda": candidate.lmbda, "alpha": candidate.alpha, "seed": candidate.seed,
            "strategy": candidate.strategy or "y",
            "steps_per_epoch": times * self.training["steps_per_epoch"],
        }  # fmt: skip
        end, every = (self.epochs,), tuple(range(1, self.epochs + 1))
        return TrialConfig(
            self.model, self.width, self.latent_width, start, TrainingConfig(**{**self.training, **own}),
            images, every if candidate.role == BASELINE else end, end, device,
            replace(ON_GPU, precision=self.precision) if device == "cuda" else ON_CPU,
        )  # fmt: skip


@dataclass(frozen=True)
class Record(Candidate):
    """The result of one training run of `steps` steps on a `device` (lic.models.acceleration.device_name).
    `curve` has, by epoch, the seconds of its steps and, if measured, the means over the validation images
    (bpp, mse). `images` has the final values per image of both sets ('val/bpp', 'kodak/psnr', ...).
    `correlation` and `covariance` have, by image, the summed channel correlation and covariance of y
    (lic.evaluation.latents); older records lack the latter."""

    steps: int
    curve: dict[int, dict[str, float]]
    images: dict[str, list[float]]
    correlation: dict[str, float]
    device: str
    #: Why the training run failed; then it has neither curve nor images.
    failure: str = ""
    covariance: dict[str, float] = field(default_factory=dict)

    def mean(self, column: str) -> float:
        """Mean of a column over the images."""
        return math.fsum(self.images[column]) / len(self.images[column])

    def metrics(self, image_set: str) -> dict[str, float]:
        """The metrics of an image set that search.decide.objective reads."""
        names = [f"{image_set}/{name}" for name in ("bpp", "mse")]
        return {name: self.mean(name) for name in names}

    def line(self) -> str:
        """The record as a line of JSON, numbers with seven digits."""
        return json.dumps(_rounded(self.as_row()), separators=(",", ":"))

    @staticmethod
    def of_line(text: str) -> Record:
        found = json.loads(text)
        found["curve"] = {int(epoch): metrics for epoch, metrics in found["curve"].items()}
        point = SearchPoint.of_row({key: found.pop(key) for key in ("quality", "alpha", "strategy")})
        return Record(point=point, **found)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


class Records(Mapping[str, Record]):
    """The ended training runs by name, in order of their end; one line each in records.jsonl."""

    def __init__(self, records: Iterable[Record] = ()) -> None:
        self._found = {record.name: record for record in records}

    @staticmethod
    def load(state: Path) -> Records:
        """Read the records of a state folder; empty if nothing has ended yet. Raises ReproductionError."""
        path = state / RECORDS_FILE
        try:
            return Records(Record.of_line(line) for line in path.read_text().splitlines())
        except FileNotFoundError:
            return Records()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReproductionError(f"{path} cannot be read ({error}); restore it from a copy") from error

    def add(self, record: Record, state: Path) -> None:
        """Add a record, on disk as well. Raises OSError."""
        # Rounded as on disk, so that a later slice makes the same decisions.
        self._found[record.name] = Record.of_line(record.line())
        atomic_io.write(state / RECORDS_FILE, "".join(f"{found.line()}\n" for found in self._found.values()))

    def __getitem__(self, name: str) -> Record:
        return self._found[name]

    def __iter__(self) -> Any:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def of(self, role: str) -> list[Record]:
        """The records of a role that did not fail."""
        return [record for record in self._found.values() if record.role == role and not record.failure]

    def ended(self, candidate: Candidate) -> Record | None:
        """The record of a training run that ended without failure, or None."""
        found = self.get(candidate.name)
        return None if found is None or found.failure else found

    def baseline(self, quality: int, seed: int) -> Record | None:
        """The baseline of a quality and seed that ended without failure, or None."""
        return self.ended(baseline(quality, seed))

    def rate_change(self, record: Record, image_set: str) -> float | None:
        """The record's final rate change in percent on an image set (search.decide.objective.rd_cost_change);
        None without a baseline of its quality and seed."""
        base = self.baseline(record.quality, record.seed)
        if base is None or record.failure:
            return None
        return rd_cost_change(record.metrics(image_set), base.metrics(image_set), image_set, record.lmbda)


def baseline(quality: int, seed: int) -> Candidate:
    return Candidate(f"q{quality}-baseline-s{seed}", BASELINE, SearchPoint(quality), seed)


def longer(quality: int) -> Candidate:
    return Candidate(f"q{quality}-longer-s{CHOSEN_ON}", LONGER, SearchPoint(quality), CHOSEN_ON)


def trial(point: SearchPoint, seed: int = CHOSEN_ON) -> Candidate:
    """The training run of a point of the search or, on another seed, its confirmation."""
    role = TRIAL if seed == CHOSEN_ON else CONFIRMATION
    name = f"q{point.quality}-{point.strategy_name}-{point.alpha:.3g}-s{seed}"
    return Candidate(name, role, point, seed)


def planned(protocol: Protocol, records: Records) -> list[Candidate]:
    """All training runs known to be needed so far, in order: baselines; the grid of alphas per quality and
    strategy; alphas between the best grid point and its neighbours; baselines on fresh seeds; longer
    baselines; and, on fresh seeds, the selected points and those that the test images would select."""
    rates, fresh = protocol.rates, range(CHOSEN_ON + 1, protocol.seeds)
    found = [baseline(quality, CHOSEN_ON) for quality in rates]
    found += [
        trial(SearchPoint(quality, strategy, alpha))
        for number in range(max(map(len, protocol.alphas.values())))
        for strategy in protocol.strategies
        for alpha in protocol.alphas[strategy][number : number + 1]
        for quality in rates
    ]
    found += refinements(protocol, records)
    found += [baseline(quality, seed) for seed in fresh for quality in rates]
    found += [longer(quality) for quality in _some(rates)] if protocol.longer > 1 else []
    if all(candidate.name in records for candidate in found):
        by_test_set = best(records, protocol.test_set).values()
        for chosen in (choice(records, SELECTION).values(), by_test_set):
            again = [trial(r.point, seed) for seed in fresh for r in chosen]
            found += [candidate for candidate in again if candidate not in found]
    return found


def _some(rates: Sequence[int]) -> list[int]:
    """The lowest, middle and highest quality."""
    return sorted({rates[0], rates[len(rates) // 2], rates[-1]})


def refinements(protocol: Protocol, records: Records) -> list[Candidate]:
    """For each quality and strategy with a complete grid, `refined` alphas on each side of the best grid
    point, evenly spaced towards its neighbours on a logarithmic axis, within the grid."""
    found = []
    for quality, strategy in itertools.product(protocol.rates, protocol.strategies):
        grid = protocol.alphas[strategy]
        names = [trial(SearchPoint(quality, strategy, alpha)).name for alpha in grid]
        if not all(name in records for name in names) or records.baseline(quality, CHOSEN_ON) is None:
            continue
        best = min(
            range(len(grid)), key=lambda i: _or_worst(records.rate_change(records[names[i]], SELECTION))
        )
        for neighbour in (best - 1, best + 1):
            if 0 <= neighbour < len(grid):
                for k in range(1, protocol.refined + 1):
                    share = k / (protocol.refined + 1)
                    alpha = grid[best] ** (1 - share) * grid[neighbour] ** share
                    found.append(trial(SearchPoint(quality, strategy, float(f"{alpha:.3g}"))))
    return found


def _or_worst(change: float | None) -> float:
    return math.inf if change is None else change


def choice(records: Records, image_set: str) -> dict[tuple[int, str], Record]:
    """Per quality and strategy, the point of the search with the lowest rate change on an image set."""
    found: dict[tuple[int, str], tuple[float, str]] = {}
    for record in records.of(TRIAL):
        change = records.rate_change(record, image_set)
        if change is not None:
            place = (record.quality, record.strategy_name)
            found[place] = min(found.get(place, (math.inf, "")), (change, record.name))
    return {place: records[name] for place, (_, name) in sorted(found.items())}


def best(records: Records, image_set: str) -> dict[int, Record]:
    """Per quality, the point of the search of any strategy with the lowest rate change on an image set."""
    found: dict[int, Record] = {}
    chosen = choice(records, image_set).values()
    for record in sorted(chosen, key=lambda record: _or_worst(records.rate_change(record, image_set))):
        found.setdefault(record.quality, record)
    return found
