"""The curves of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lexbeam.pipeline.training.figures import curves_figure, save


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and held-out accuracy over tokens, as a PNG.

    log: records of the evaluations: `tokens`, `train_loss`, `eval_loss`, `eval_accuracy`,
    `eval_constant_accuracy`.
    """
    tokens = [record["tokens"] * 1e-6 for record in log]
    figure, accuracy = curves_figure(
        log, tokens, "tokens (millions)", "cross-entropy of masked tokens (nats)"
    )
    right, constant = (
        [100.0 * record[name] for record in log]
        for name in ("eval_accuracy", "eval_constant_accuracy")
    )
    accuracy.plot(tokens, right, color="C0", marker=".", label="held out")
    accuracy.plot(tokens, constant, "--", color="C3", label="best constant guess")
    accuracy.set_ylabel("masked tokens foretold right (%)")
    accuracy.set_ylim(bottom=0.0)
    accuracy.legend(frameon=False)
    save(figure, path)
