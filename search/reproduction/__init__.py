"""The paper's protocol, trained and told as it comes out: `python -m search.reproduce`.

    protocol     what is trained: models, rates, strategies, alphas, seeds; and what is next
    trainings    the trainings themselves, several at once, in slices that go on where the last ended
    evidence     the paper's tables and what else follows from the records, in pandas
    report       the tables as text and the figures as PNG

None of it needs Ray, Optuna or MLflow.
"""

from __future__ import annotations

#: The fraction of the paper's steps that a model is trained without a GPU, where it is not given.
FRACTION_ON_CPU = 0.03
