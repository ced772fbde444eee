"""Selects, verifies and writes the best models of a search (`python -m search.export`)."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lic import zoo
from lic.cli import INTERNAL_ERROR
from lic.errors import LictuneError
from lic.files import one_line
from lic.models.architectures import WEIGHTS, ModelError, OwnModel, architecture
from lic.recipe import MOST_QUALITIES
from lic.zoo import BASELINE, TUNED, ModelConfig, ZooError, ZooModel
from search.base.dimensions import shown_values
from search.base.space import parse_rates
from search.records.folder import OpenedSearch, final_weights, open_search
from search.records.results import selected
from search.records.search_records import TrialRecord
from search.settings.config import Settings
from search.settings.plan import template_of
from search.zoo import card
from search.zoo.card import Choice
from search.zoo.hub import open_hub, push

FORMATS = ("safetensors", "compressai")


class ExportError(LictuneError):
    """The export is not possible; the message is one sentence."""


def export(args: argparse.Namespace) -> int:
    """Run the export; the zoo appears under its name only once it is complete. Returns the exit status."""
    from lic.codec.verification import VerificationError

    qualities, formats = _rates(args.rates), _formats(args.format)
    search = open_search(args.search, args.results)
    target = args.out / architecture(search.settings.model)
    _check_target(target, args.overwrite)
    if args.private and not args.push_to_hub:
        raise ExportError("--private has no effect without --push-to-hub")
    hub = open_hub(args.push_to_hub) if args.push_to_hub else None
    image_set, images = _images(args.images, search) if args.verify else ("", [])
    codes = _codes(search.settings)
    if args.verify and not codes:
        raise ExportError(f"{search.settings.model} has no compress and decompress to verify; omit --verify")
    choices = choose(search, qualities)
    for quality, choice in choices.items():
        for reason in choice.skipped:
            print(f"quality {quality}: skipped {reason}")
        print(f"quality {quality}: {describe(choice.record)}")
    try:
        with _workplace(target) as work:
            models = write_models(search, choices, work / "zoo", work / "baselines", args.with_baseline)
            if "compressai" in formats:
                _write_compressai(search, work / "zoo", models)
            table = _verify(models, images, args.processes) if args.verify else None
            records = {quality: choice.record for quality, choice in choices.items()}
            metrics = card.ZooMetrics.of(search, records, table, image_set)
            about = card.About(args.data_licence, args.push_to_hub, codes)
            _write_documents(search, choices, work / "zoo", metrics, about)
            _publish(work / "zoo", target)
    except VerificationError as error:
        print(f"lictune: {error}; no zoo was written", file=sys.stderr)
        return INTERNAL_ERROR
    trust = ", trust_module=True" if isinstance(search.settings.network, OwnModel) else ""
    print(f"wrote {target}; load a model with lic.zoo.load('{target}', quality={next(iter(choices))}{trust})")
    if args.register:
        from search.tracking.registry import register

        for name, version in register(target, search).items():
            print(f"registered {name}, version {version}, with the alias champion")
    if hub is not None:
        print(f"pushed to {push(hub, target, args.push_to_hub, args.private)}")
    return 0


def _codes(settings: Settings) -> bool:
    """Whether the search's model codes real bitstreams. Raises ModelError."""
    from lic.models.build import build
    from lic.models.own import can_code

    return isinstance(settings.network, str) or can_code(build(settings.network, settings.width))


def _rates(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return parse_rates(text, MOST_QUALITIES)
    except ValueError as error:
        raise ExportError(f"--rates {one_line(text, 60)}: {error}, such as 1-6 or 1,3,5") from None


def _formats(text: str) -> set[str]:
    asked = {part.strip() for part in text.split(",")}
    if unknown := asked - set(FORMATS):
        raise ExportError(f"--format {one_line(min(unknown), 60)}: choose from {', '.join(FORMATS)}")
    return asked


def _check_target(target: Path, overwrite: bool) -> None:
    """Raise ExportError unless the zoo may be written there; first restore what a killed export left."""
    aside = _aside(target)
    if aside.is_dir() and not target.exists():
        aside.rename(target)  # killed between the two renames of `_publish`
    if not target.exists():
        return
    if not overwrite:
        raise ExportError(f"{target} exists; give --overwrite, or another --out")
    if not (target / zoo.MANIFEST).is_file():
        raise ExportError(f"{target} is not a zoo (no {zoo.MANIFEST}); give another --out")


def _images(given: Path | None, search: OpenedSearch) -> tuple[str, list[Path]]:
    """The name of the image set and the images to verify on: those of a given folder, called 'kodak' only if
    they are, or else those that the search was tested on. Raises ImageError."""
    from lic.data.images import ImageError
    from lic.data.kodak import check_kodak
    from lic.data.sets import test_files

    config = template_of(search.settings).images
    if given is None:
        count, cache = config.test_images, Path(config.cache)
        name, files, source = test_files(config.kodak, search.test, count, cache)
    else:
        name, files, source = test_files(None, str(given), None, Path(config.cache))
        with contextlib.suppress(ImageError):
            name = "kodak" if check_kodak(given) == files else name
    print(f"verifying on {source}")
    return name, files


def choose(search: OpenedSearch, qualities: tuple[int, ...] | None = None) -> dict[int, Choice]:
    """The training run of each quality, or of the given qualities, that the search selected; where its
    checkpoint cannot be read, what it would select of the others, the baseline last. Omits qualities whose
    baseline is not trained in full yet. Raises ExportError if none is left, or if a given quality is
    missing."""
    from lic.training.trainer import CheckpointError

    records, chosen = search.records, {}
    for quality in qualities or records.qualities:
        baseline = records.baselines.get(quality)
        if baseline is None or baseline.last_epoch < records.epochs:
            if qualities:
                raise ExportError(f"quality {quality} has no baseline trained in full; omit it from --rates")
            continue
        left, skipped = [*records.finished(quality), baseline], []
        while left and quality not in chosen:
            record = selected(records, left)
            try:
                weights = final_weights(search, record)
            except (CheckpointError, FileNotFoundError) as error:
                skipped.append(f"{record.name}: {error}")
                left.remove(record)
                continue
            chosen[quality] = Choice(record, weights, tuple(skipped))
        if quality not in chosen:
            raise ExportError(f"quality {quality} has no readable checkpoint: {'; '.join(skipped)}")
    if not chosen:
        raise ExportError(f"{search.folder} has no baseline trained in full yet")
    return chosen


def describe(record: TrialRecord) -> str:
    """A short description of a training run."""
    if record.point.is_baseline:
        return "the baseline: no trial is sure enough to save bits"
    term = f"strategy {record.strategy}, alpha {record.alpha:.3g}" if record.alpha else ""
    return ", ".join(filter(None, (record.name, term, shown_values(record.tuned))))


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A temporary folder beside the target to build in; removed at the end."""
    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _publish(built: Path, target: Path) -> None:
    """Move the finished zoo into place; an existing zoo is deleted only afterwards."""
    for path in [*built.rglob("*"), built]:
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
    shutil.rmtree(_aside(target), ignore_errors=True)
    if target.exists():
        target.rename(_aside(target))
    built.rename(target)
    shutil.rmtree(_aside(target), ignore_errors=True)


def write_models(
    search: OpenedSearch, choices: dict[int, Choice], tuned: Path, baselines: Path, with_baseline: bool
) -> list[ZooModel]:
    """Write the model of each quality and its baseline, the latter into the zoo if `with_baseline`, else into
    the folder `baselines`. Omits baselines whose checkpoint cannot be read. Raises ZooError."""
    written = []
    for quality, choice in choices.items():
        written.append(_write_model(search, choice.record, choice.weights, tuned / f"q{quality}"))
        record = search.records.baselines[quality]
        try:
            weights = choice.weights if record is choice.record else final_weights(search, record)
        except (ValueError, RuntimeError, FileNotFoundError) as error:
            print(f"quality {quality}: baseline omitted: {error}")
            continue
        place = tuned / f"q{quality}" / BASELINE if with_baseline else baselines / f"q{quality}"
        written.append(_write_model(search, record, weights, place, baseline=True))
    return written


def _write_model(
    search: OpenedSearch, record: TrialRecord, weights: dict[str, Any], folder: Path, baseline: bool = False
) -> ZooModel:
    from lic.models.build import build

    settings, network, tuned = search.settings, search.settings.network, dict(record.tuned)
    config = ModelConfig(
        architecture(settings.model), settings.width, settings.latent_width, record.quality, record.lmbda,
        record.alpha, record.strategy or "", str(tuned.get("scale", settings.scale)), record.seed,
        record.name, str(tuned.get("regularizer", settings.regularizer)), settings.distortion,
        network if isinstance(network, OwnModel) else None,
    )  # fmt: skip
    model = build(network, config.width, config.latent_width)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ZooError(f"the checkpoint of {record.name} does not fit {config.name} ({first})") from error
    zoo.write_model(folder, zoo.prepare(model), config)
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return ZooModel(folder, digest, config, baseline, trust_module=True)  # which has just been imported


def _write_compressai(search: OpenedSearch, root: Path, models: list[ZooModel]) -> None:
    name = architecture(search.settings.model)
    if isinstance(search.settings.network, OwnModel):
        print(f"CompressAI checkpoints omitted: CompressAI's tools do not know {name}")
        return
    for entry in models:
        if not entry.folder.is_relative_to(root):
            continue  # a baseline that is only verified
        folder = root / "compressai" / (BASELINE if entry.baseline else "")
        try:
            zoo.write_compressai(folder, entry.load(), f"{name}-{entry.config.quality}")
        except ModelError as error:
            print(f"CompressAI checkpoints omitted: {error}")
            return


def _verify(models: list[ZooModel], images: list[Path], processes: int | None) -> pd.DataFrame:
    from lic.codec.verification import verify

    columns = (TextColumn("verifying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console()
    if not console.is_terminal:
        print(f"verifying {len(models)} models on {len(images)} images ...", flush=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        return verify(
            models, images, processes, lambda done, total: bar.update(task, completed=done, total=total)
        )


def _write_documents(
    search: OpenedSearch,
    choices: dict[int, Choice],
    root: Path,
    metrics: card.ZooMetrics,
    about: card.About,
) -> None:
    """Write the figure, the result files, the model card and, last, the manifest."""
    from search.records.figures import rd_figure
    from search.tracking.registry import run_ids

    if metrics.images is not None:
        metrics.images.to_csv(root / "verification.csv", index=False)
    for name, document in card.results(search, metrics).items():
        (root / name).write_text(json.dumps(document, indent=2) + "\n")
    rd_figure(search.records, search.plan.strategies, root / "rd.png")
    (root / "README.md").write_text(card.readme(search, metrics, choices, root, about))
    runs, models = run_ids(search), {}
    for folder in sorted(path.parent for path in root.rglob(WEIGHTS)):
        config = json.loads((folder / zoo.CONFIG).read_text())
        role, quality = BASELINE if folder.name == BASELINE else TUNED, config["quality"]
        record = search.records.baselines[quality] if role == BASELINE else choices[quality].record
        models[folder.relative_to(root).as_posix()] = {
            "role": role,
            "mlflow_run": runs.get(config["trial"]),
            "figures": metrics.of_model(quality, role),
            **card.tuned_entry(search, record),
        }
    manifest = zoo.manifest_of(root, card.provenance(search, metrics.verified), models)
    (root / zoo.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
