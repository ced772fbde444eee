"""Whether the baselines had come to rest: what the last quarter of their training still gained."""

from __future__ import annotations

from collections.abc import Mapping

from search.base.formats import percent
from search.base.space import three_quarters
from search.decide.objective import rd_cost_change
from search.records.search_records import SearchRecords


def last_gains(records: SearchRecords) -> dict[int, float]:
    """By quality what its baseline gained from there to its end, on the images that decide: its rate change,
    100 (J_end - J_before) / R_before in percent, negative if it saved bits; of those with both readings."""
    begin, found = three_quarters(records.epochs), {}
    for quality, baseline in sorted(records.baselines.items()):
        before, end = (baseline.readings.get(epoch, {}) for epoch in (begin or 0, records.epochs))
        if all(f"{records.selection}/bpp" in reading for reading in (before, end)):
            found[quality] = rd_cost_change(end, before, records.selection, baseline.lmbda)
    return found


def statement(records: SearchRecords, reported: Mapping[int, float]) -> list[str]:
    """What the last quarter gained per rate, in a sentence, and a warning where that is more than the
    differences that are `reported`: by quality the rate change of the point that is kept, in percent."""
    gains, begin = last_gains(records), three_quarters(records.epochs)
    if not gains:
        return []
    each = ", ".join(f"{percent(gain)} at quality {quality}" for quality, gain in gains.items())
    last = f"the last {records.epochs - (begin or 0)} of {records.epochs} epochs"
    found = [f"over {last} the baselines' rate change on {records.selection} was {each}"]
    moving = {q: change for q, change in reported.items() if q in gains and abs(gains[q]) > abs(change)}
    if moving:
        pairs = ", ".join(
            f"{percent(change)} at quality {q}, against {percent(gains[q])}" for q, change in moving.items()
        )
        found.append(
            f"warning: the baselines had not converged: they still gained more than is reported ({pairs}); "
            "before relying on it train longer (--epochs), or with --optimizer soap or muon"
        )
    return found
