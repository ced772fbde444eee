"""Convergence of the baselines: the gain in the last quarter of their training."""

from __future__ import annotations

from collections.abc import Mapping

from search.base.formats import percent
from search.base.space import three_quarters
from search.decide.objective import rd_cost_change
from search.records.search_records import SearchRecords


def last_gains(records: SearchRecords) -> dict[int, float]:
    """By quality, the rate change of the baseline over the last quarter of its training on the selection
    images: 100 (J_end - J_before) / R_before in percent, negative if it saved bits; only for baselines
    evaluated at both epochs."""
    begin, found = three_quarters(records.epochs), {}
    for quality, baseline in sorted(records.baselines.items()):
        before, end = (baseline.readings.get(epoch, {}) for epoch in (begin or 0, records.epochs))
        if all(f"{records.selection}/bpp" in reading for reading in (before, end)):
            lmbda = baseline.lmbda
            found[quality] = rd_cost_change(end, before, records.selection, lmbda, records.distortion)
    return found


def statement(records: SearchRecords, reported: Mapping[int, float]) -> list[str]:
    """A sentence on the gain per quality in the last quarter, and a warning if it exceeds the `reported` rate
    changes of the selected points (by quality, in percent)."""
    gains, begin = last_gains(records), three_quarters(records.epochs)
    if not gains:
        return []
    each = ", ".join(f"{percent(gain)} (quality {quality})" for quality, gain in gains.items())
    last = f"the last {records.epochs - (begin or 0)} of {records.epochs} epochs"
    found = [f"rate change of the baselines over {last}, on {records.selection}: {each}"]
    moving = {q: change for q, change in reported.items() if q in gains and abs(gains[q]) > abs(change)}
    if moving:
        pairs = ", ".join(
            f"quality {q}: reported {percent(change)}, still gaining {percent(gains[q])}"
            for q, change in moving.items()
        )
        found.append(
            f"warning: the baselines have not converged, they still gain more than the reported rate change "
            f"({pairs}); train longer (--epochs), or with --optimizer soap or muon"
        )
    return found
