"""The curves of a fine-tuning, and what a classifier mistakes for what, as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lexbeam.models.finetuning.config import CLASSIFY
from lexbeam.pipeline.training.figures import curves_figure, save

# Families with Han characters, of Linux, macOS and Windows; matplotlib's own font has none.
_HAN_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC",
    "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "PingFang SC",
    "Hiragino Sans GB", "Heiti TC", "Arial Unicode MS", "Microsoft YaHei", "SimHei", "SimSun",
)  # fmt: skip
_MOST_NUMBERED = 30  # of more classes the cells are too small for numbers
_LONGEST_NAME = 24


def draw_curves(record: Mapping[str, Any], path: Path) -> None:
    """Loss and held-out accuracy over steps, as a PNG; `record`: of training.json."""
    log = record["log"]
    steps = [entry["step"] for entry in log]
    figure, accuracy = curves_figure(log, steps, "steps", "cross-entropy (nats)")
    is_classifier = record["task"] == CLASSIFY
    points = [100.0 * entry["eval_accuracy"] for entry in log]
    before, after = (100.0 * record[name]["accuracy"] for name in ("before", "after"))
    if is_classifier:  # its start was asked for the same documents
        name = "some, by their first windows"
        accuracy.plot([0, *steps], [before, *points], color="C0", marker=".", label=name)
    else:
        accuracy.plot(steps, points, color="C0", marker=".", label="some")
        accuracy.axhline(before, linestyle=":", color="C3", label="all, before")
    accuracy.axhline(after, linestyle="--", color="C3", label="all, at the end")
    accuracy.set_ylabel("classes right (%)" if is_classifier else "nearest text right (%)")
    accuracy.legend(frameon=False)
    save(figure, path)


def draw_confusion_matrix(scores: Mapping[str, Any], path: Path) -> None:
    """Documents by true and foretold class, as a PNG.

    scores: of `classification_scores`. Classes whose names no font of this machine can show are
    numbered, in their order.
    """
    from matplotlib.figure import Figure

    labels = [each["label"] for each in scores["classes"]]
    matrix = scores["confusion_matrix"]
    size = min(20.0, 3.2 + 0.45 * len(labels))
    figure = Figure(figsize=(size + 1.0, size), layout="constrained")
    axes = figure.subplots()
    shares = [[value / max(1, sum(row)) for value in row] for row in matrix]
    image = axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    names, family = _names(labels)
    places = range(len(labels))
    for axis, rotation in ((axes.xaxis, 60), (axes.yaxis, 0)):
        axis.set_ticks(places, names, rotation=rotation, fontfamily=family)
    for label in axes.get_xticklabels():
        label.set_horizontalalignment("right")
        label.set_rotation_mode("anchor")
    if len(labels) <= _MOST_NUMBERED:
        for row in places:
            for column in places:
                if matrix[row][column]:
                    color = "white" if shares[row][column] > 0.5 else "black"
                    axes.text(column, row, matrix[row][column], color=color, ha="center",
                              va="center", fontsize=9)  # fmt: skip
    axes.set_xlabel("foretold")
    axes.set_ylabel("true")
    axes.set_title(
        f"accuracy {scores['accuracy']:.3f}, macro F1 {scores['macro_f1']:.3f}", fontsize=10
    )
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    save(figure, path)


def _names(labels: Sequence[str]) -> tuple[list[str], str]:
    """How classes are called in a picture, and the font that shows most of them."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    families = ("DejaVu Sans", *(name for name in _HAN_FONTS if name in installed))

    def shown(family: str) -> list[bool]:
        known = font_manager.get_font(font_manager.findfont(family)).get_charmap()
        return [all(ord(character) in known for character in label) for label in labels]

    family = max(families, key=lambda name: sum(shown(name)))
    names = [
        _shortened(label) if can else f"class {number}"
        for number, (label, can) in enumerate(zip(labels, shown(family), strict=True), 1)
    ]
    return names, family


def _shortened(label: str) -> str:
    # A dollar sign would begin a formula.
    label = label.replace("$", r"\$")
    return label if len(label) <= _LONGEST_NAME else label[: _LONGEST_NAME - 1] + "…"
