"""Of all processes on all machines one drives a search."""

from __future__ import annotations

import socket
import threading
from typing import Any

import optuna
import pytest

from search.settings.complaints import ConfigError
from search.store import lock
from search.store.lock import signs_of_life

BEAT = 0.05


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(study_name="s")


def elsewhere(study: optuna.Study, **changes: Any) -> dict[str, Any]:
    sign = {**lock._self(), "host": "another", "id": "theirs", **changes}
    study.set_user_attr("driver", sign)
    return sign


def test_a_search_that_another_host_drives_is_refused_by_its_name(study: optuna.Study) -> None:
    over = threading.Event()
    sign = elsewhere(study)

    def live() -> None:
        count = 0
        while not over.wait(BEAT):
            count += 1
            study.set_user_attr("driver", {**sign, "count": count})

    thread = threading.Thread(target=live)
    thread.start()
    said: list[str] = []
    with (
        pytest.raises(ConfigError, match=r"running as process \d+ of \w+ on another, since 20"),
        signs_of_life(study, said.append, said.append, BEAT),
    ):
        pass
    over.set()
    thread.join()
    assert len(said) == 1 and "checking for" in said[0]


def test_one_that_gives_no_sign_any_more_is_taken_over(study: optuna.Study) -> None:
    elsewhere(study)
    with signs_of_life(study, lambda _: None, pytest.fail, BEAT):
        assert study.user_attrs["driver"]["host"] == socket.gethostname()
        first = study.user_attrs["driver"].get("count")
        threading.Event().wait(4 * BEAT)
        assert study.user_attrs["driver"]["count"] != first
    assert study.user_attrs["driver"] is None


def test_a_process_of_this_machine_that_has_ended_is_not_waited_for(study: optuna.Study) -> None:
    elsewhere(study, host=socket.gethostname(), since=1.0)
    with signs_of_life(study, pytest.fail, pytest.fail, 1000.0):
        pass


def test_a_driver_that_was_asleep_for_long_learns_that_it_was_replaced(study: optuna.Study) -> None:
    lost: list[str] = []
    with signs_of_life(study, lambda _: None, lost.append, BEAT):
        sign = elsewhere(study)
        for _ in range(100):
            if lost:
                break
            threading.Event().wait(BEAT)
        assert len(lost) == 1 and lost[0].endswith("has taken over this search")
    assert study.user_attrs["driver"] == sign  # theirs is not taken away
