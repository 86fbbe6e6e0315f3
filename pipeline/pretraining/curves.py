"""The curves of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def draw_curves(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss and held-out accuracy over tokens, as a PNG.

    log: records of the evaluations: `tokens`, `train_loss`, `eval_loss`, `eval_accuracy`,
    `eval_constant_accuracy`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    def column(name: str, scale: float = 1.0) -> list[float]:
        return [record[name] * scale for record in log]

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    losses, accuracy = figure.subplots(1, 2)
    tokens = column("tokens", 1e-6)
    losses.plot(tokens, column("train_loss"), color="0.6", label="training")
    losses.plot(tokens, column("eval_loss"), color="C0", marker=".", label="held out")
    losses.set_ylabel("cross-entropy of masked tokens (nats)")
    accuracy.plot(tokens, column("eval_accuracy", 100.0), color="C0", marker=".", label="held out")
    accuracy.plot(
        tokens, column("eval_constant_accuracy", 100.0), "--", color="C3",
        label="best constant guess",
    )  # fmt: skip
    accuracy.set_ylabel("masked tokens foretold right (%)")
    accuracy.set_ylim(bottom=0.0)
    for axes in (losses, accuracy):
        axes.set_xlabel("tokens (millions)")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, format="png")
