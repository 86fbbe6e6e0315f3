"""How well classes were foretold, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def classification_scores(
    expected: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float32], labels: Sequence[str]
) -> dict[str, Any]:
    """Accuracy, macro F1, scores of each class, and the confusion matrix, as JSON.

    Args:
        expected: (n,) numbers of the classes.
        probabilities: (n, classes).
        labels: names of the classes.

    Returns:
        `accuracy`, `macro_f1`, `loss`, `classes` (`label`, `precision`, `recall`, `f1`,
        `documents`) and `confusion_matrix`: rows are the true classes, columns the foretold ones.
    """
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        f1_score,
        log_loss,
        precision_recall_fscore_support,
    )

    numbers = list(range(len(labels)))
    foretold = probabilities.argmax(axis=1)
    each = precision_recall_fscore_support(expected, foretold, labels=numbers, zero_division=0.0)
    names = ("precision", "recall", "f1", "documents")
    rows = [dict(zip(names, map(float, row), strict=True)) for row in zip(*each, strict=True)]
    totals = probabilities.astype(np.float64)
    totals /= totals.sum(axis=1, keepdims=True)
    return {
        "accuracy": float(accuracy_score(expected, foretold)),
        "macro_f1": float(
            f1_score(expected, foretold, labels=numbers, average="macro", zero_division=0.0)
        ),
        "loss": float(log_loss(expected, totals, labels=numbers)),
        "classes": [
            {"label": label, **row, "documents": int(row["documents"])}
            for label, row in zip(labels, rows, strict=True)
        ],
        "confusion_matrix": confusion_matrix(expected, foretold, labels=numbers).tolist(),
    }
