"""The page that shows where everything is."""

from __future__ import annotations

from tests import architecture


def test_the_drawing_is_that_of_the_code() -> None:
    """Mended by `python -m tests.architecture`."""
    assert architecture.page() == architecture.PAGE.read_text()


def test_what_follows_from_others_is_left_out() -> None:
    assert architecture.reduced({("a", "b"), ("b", "c"), ("a", "c")}) == {("a", "b"), ("b", "c")}
