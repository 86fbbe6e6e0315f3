"""Pictures of a fine-tuning: classes that no font can show are numbered, and none is lost."""

from __future__ import annotations

import pytest

from lexbeam.pipeline.finetuning import pictures


def test_a_class_that_no_font_can_show_is_called_by_its_number(monkeypatch):
    monkeypatch.setattr(pictures, "_HAN_FONTS", ())
    names, family = pictures._names(["money", "体育", "a$b", "x" * 40])
    assert names == ["money", "class 2", r"a\$b", "x" * 23 + "…"]
    assert family == "DejaVu Sans"


@pytest.mark.parametrize("number", [2, 40])
def test_a_matrix_is_drawn_for_few_classes_and_many(number, tmp_path):
    scores = {
        "classes": [{"label": f"c{index} 体育 <b> $x$"} for index in range(number)],
        "confusion_matrix": [
            [index == other for other in range(number)] for index in range(number)
        ],
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }
    pictures.draw_confusion_matrix(scores, tmp_path / "m.png")
    assert (tmp_path / "m.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
