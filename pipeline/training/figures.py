"""What the pictures of both trainings have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def curves_figure(
    log: Sequence[Mapping[str, Any]], places: Sequence[float], xlabel: str, loss: str
) -> tuple[Figure, Axes]:
    """A figure with the losses of the evaluations on the left, and axes for more on the right.

    log: records with `train_loss` and `eval_loss`; places: of them, for both axes.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    losses, right = figure.subplots(1, 2)
    for name, color, label in (("train", "0.6", "training"), ("eval", "C0", "held out")):
        values = [record[f"{name}_loss"] for record in log]
        losses.plot(places, values, color=color, marker=".", label=label)
    losses.set_ylabel(loss)
    losses.legend(frameon=False)
    for axes in (losses, right):
        axes.set_xlabel(xlabel)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, right


def save(figure: Figure, path: Path) -> None:
    """As a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=150, format="png")
