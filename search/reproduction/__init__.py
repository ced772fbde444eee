"""Reproduces the paper's protocol (`python -m search.reproduce`).

    protocol     what to train: models, qualities, strategies, alphas, seeds; and what comes next
    trainings    the training runs, several in parallel, in slices that can be resumed
    evidence     the paper's tables and further statistics from the records, in pandas
    report       the tables as text and the figures as PNG

None of it needs Ray, Optuna or MLflow.
"""

from __future__ import annotations

#: Default fraction of the paper's steps without a GPU.
FRACTION_ON_CPU = 0.03
