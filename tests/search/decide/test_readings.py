"""What a training measured, written to an Optuna trial and read back."""

from __future__ import annotations

from typing import Any

from optuna.trial import FrozenTrial, create_trial

from search.decide.objective import Reading
from search.decide.readings import attributes_of, by_epoch, has_reading, images_of, reading_at, readings_of

FIGURES = {"val/bpp": 0.5, "val/mse": 30.0}
COLUMNS = {"val/bpp": [0.4, 0.6]}


def trial(attributes: dict[str, Any]) -> FrozenTrial:
    return create_trial(value=0.0, user_attrs=attributes)


def test_what_is_written_is_read_back() -> None:
    written = trial(attributes_of(2, FIGURES, COLUMNS) | attributes_of(10, {"val/bpp": 0.4}, None))
    assert readings_of(written) == {2: FIGURES, 10: {"val/bpp": 0.4}}
    assert images_of(written) == {2: COLUMNS}
    assert reading_at(written, 2) == Reading(FIGURES, COLUMNS)
    assert reading_at(written, 10) == Reading({"val/bpp": 0.4}, {})
    assert [has_reading(written, epoch) for epoch in (1, 2, 10)] == [False, True, True]


def test_an_epoch_that_was_not_recorded_is_empty() -> None:
    assert reading_at(trial({}), 3) == Reading({}, {})
    assert readings_of(trial({})) == images_of(trial({})) == {}


def test_images_come_before_the_figures_that_say_an_epoch_is_there() -> None:
    """A process killed between the two writes leaves no epoch that lacks its images."""
    assert list(attributes_of(3, FIGURES, COLUMNS)) == ["images:3", "readings:3"]
    assert list(attributes_of(3, FIGURES, {})) == ["readings:3"]
    assert not has_reading(trial({"images:3": COLUMNS}), 3)


def test_epochs_are_in_their_order_and_of_one_prefix() -> None:
    found = by_epoch(
        trial({"variance:10": 1.0, "variance:9": 2.0, "readings:1": {}, "name": "x"}), "variance:"
    )
    assert list(found.items()) == [(9, 2.0), (10, 1.0)]
