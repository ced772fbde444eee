"""Two images coded by the baseline and the tuned model of one quality: figures 3 and 4 of the paper."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from lic.data.cache import PackedImages
from lic.data.sets import ImageSet, test_set
from lic.errors import LictuneError
from lic.evaluation import example
from lic.evaluation.example import Example, papers_images
from lic.models.build import build
from lic.paper import CORRELATION_RATIOS
from search.records.folder import OpenedSearch, final_weights
from search.records.results import best_per_rate
from search.records.search_records import TrialRecord
from search.settings.plan import template_of

#: Larger images are used only if the set has no smaller ones, so that the report stays quick to write.
_MANY_PIXELS = 1 << 20


class ExamplesError(LictuneError):
    """No example images can be shown; the message is the reason."""


@dataclass(frozen=True)
class Examples:
    """A trial and the baseline of one quality, the trial's rate change on the test set in percent,
    and the images."""

    tuned: TrialRecord
    baseline: TrialRecord
    rate_change: float
    images: list[Example]

    @property
    def subject(self) -> str:
        """Describes the two models in one line."""
        tuned = self.tuned
        which = f"{tuned.name} ({tuned.point.description})"
        return f"quality {tuned.quality}: {self.baseline.name} and {which}"


def examples(search: OpenedSearch) -> Examples:
    """Examples for the quality whose selected trial has the lowest rate change on the test set. Raises
    ExamplesError if no trial is trained in full, or if a checkpoint or the images are missing."""
    change, tuned = _shown(search)
    baseline = search.records.baselines[tuned.quality]
    try:
        images, numbers = _images(search)
        before, after = _model(search, baseline), _model(search, tuned)
        found = example.examples(images, numbers, before, after)
    except (OSError, ValueError, RuntimeError) as error:
        raise ExamplesError(str(error).partition("\n")[0]) from error
    return Examples(tuned, baseline, change, found)


def _shown(search: OpenedSearch) -> tuple[float, TrialRecord]:
    records, found = search.records, []
    kept = [record for record in best_per_rate(records).values() if not record.point.is_baseline]
    # Where all gains are doubtful, the most promising trial of each quality can still be looked at.
    promising = (records.best(records.finished(quality)) for quality in records.qualities)
    for record in kept or filter(None, promising):
        change = records.rate_change(record, records.epochs, records.test_set)
        if change is not None:
            found.append((change, record.name, record))
    if not found:
        raise ExamplesError("no trial is trained in full yet at any quality")
    change, _, record = min(found)
    return change, record


def _images(search: OpenedSearch) -> tuple[PackedImages, list[int]]:
    """The test set, and the numbers of the paper's two images if it has them, else of the first two images
    that are not too large. Raises ImageError, ExamplesError."""
    test_images = _test_set(search)
    packed = test_images.images
    papers = papers_images(packed)
    if test_images.name.startswith("kodak") and CORRELATION_RATIOS.keys() <= papers.keys():
        return packed, [papers[name] for name in CORRELATION_RATIOS][:2]
    pixels = [image.height * image.width for image in packed.images]
    numbers = sorted(range(len(pixels)), key=lambda number: max(pixels[number], _MANY_PIXELS))
    return packed, numbers[:2]


def _test_set(search: OpenedSearch) -> ImageSet:
    """Exactly the test images of the search. Raises ImageError, ExamplesError."""
    config, name = template_of(search.settings).images, search.records.test_set
    found = test_set(config.kodak, search.test, config.test_images, Path(config.cache))
    recorded = search.environment.get("test_fingerprint")
    # An earlier version may have named the set differently: the fingerprint identifies the images.
    if found.images.fingerprint != recorded if recorded else found.name != name:
        raise ExamplesError(f"the test images of the search ({name}) are no longer available")
    return found


def _model(search: OpenedSearch, record: TrialRecord) -> nn.Module:
    settings = search.settings
    model = build(settings.network, settings.width, settings.latent_width)
    model.load_state_dict(final_weights(search, record))
    return model.eval()
