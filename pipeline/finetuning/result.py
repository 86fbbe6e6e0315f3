"""What a fine-tuning leaves: the model, what there is to know of it, and its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lexbeam.models.finetuning.config import CLASSIFY
from lexbeam.models.finetuning.save import save
from lexbeam.pipeline.finetuning.pictures import draw_confusion_matrix, draw_curves
from lexbeam.pipeline.finetuning.train import Trained
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.model_files import put_model, steps_row, table
from lexbeam.pipeline.workspace import Workspace

PREDICTIONS = "held_out.jsonl"
CURVES, CONFUSION = "curves.png", "confusion_matrix.png"
_LEAST_SHOWN_CLASSES = 5  # of many classes these are shown: where it is worst


def publish(
    work: Workspace,
    documents: Mapping[str, Any],
    trained: Trained,
    settings: RunSettings,
    view: ProgressView,
) -> None:
    """Put the model into the output folder, weights last; then _SUCCESS.

    `documents`: what became of them, for the record.

    Raises JobError where it cannot be written; the last checkpoint stays.
    """
    record = {**documents, **_record(work, trained, view.seconds)}
    put_model(
        work,
        settings,
        view,
        write=lambda folder: _write(work, trained, folder),
        record=record,
        draw=lambda folder: _draw(record, folder),
        summary=summary_lines(record),
    )


def _write(work: Workspace, trained: Trained, folder: Path) -> None:
    spec, config = work.plan.encoder, work.plan.finetuning
    assert spec is not None
    assert config is not None
    save(trained.model, spec, folder, config.max_seq_length, trained.labels)
    if trained.predictions:
        lines = [json.dumps(row, ensure_ascii=False) for row in trained.predictions]
        (folder / PREDICTIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _draw(record: Mapping[str, Any], folder: Path) -> None:
    draw_curves(record, folder / CURVES)
    if record["task"] == CLASSIFY:
        draw_confusion_matrix(record["after"], folder / CONFUSION)


def _record(work: Workspace, trained: Trained, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Everything that there is to know of a training, as JSON."""
    plan, state = work.plan, trained.state
    assert plan.finetuning is not None
    parameters = list(trained.model.parameters())
    return {
        "task": plan.finetuning.task,
        "train_examples": trained.num_train,
        "held_out_examples": trained.num_held_out,
        "parameters": sum(each.numel() for each in parameters),
        "trained_parameters": sum(each.numel() for each in parameters if each.requires_grad),
        "steps": state.step,
        "planned_steps": trained.num_steps,
        "best_step": state.best_step,
        "tokens": state.tokens,
        "before": dict(trained.before),
        "after": dict(trained.after),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "log": list(state.log),
        "identity": dict(plan.identity),
        "versions": dict(plan.versions),
    }


def summary_lines(record: Mapping[str, Any]) -> list[str]:
    """A short table of a training."""
    rows = [
        (
            "documents",
            f"{record['documents']:,}, {sum(record['rejected'].values()):,} rejected, "
            f"{record['held_out_examples']:,} held out",
        ),
        ("parameters", f"{record['parameters']:,}, {record['trained_parameters']:,} trained"),
        steps_row(record),
    ]
    before, after = record["before"], record["after"]
    if record["task"] == CLASSIFY:
        rows.append(
            (
                "held out",
                f"accuracy {after['accuracy']:.3f}, macro F1 {after['macro_f1']:.3f}",
            )
        )
        rows.append(
            (
                "by first windows",
                f"accuracy {before['accuracy']:.3f} with a head alone, "
                f"{record['log'][-1]['eval_accuracy']:.3f} after training",
            )
        )
        rows += _class_rows(after["classes"])
    else:
        rows.append(
            (
                "held out",
                f"the nearest of {after['num_pairs']:,} is the right one for "
                f"{after['accuracy']:.1%} (before {before['accuracy']:.1%}), mean reciprocal rank "
                f"{after['mrr']:.3f} ({before['mrr']:.3f})",
            )
        )
    return table(rows)


def _class_rows(classes: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Of the classes that were not all foretold right those with the lowest F1."""
    classes = [each for each in classes if each["f1"] < 1.0]
    worst = sorted(classes, key=lambda each: (each["f1"], each["label"]))[:_LEAST_SHOWN_CLASSES]
    return [
        (
            "lowest F1" if index == 0 else "",
            f"{each['f1']:.3f}  {each['label']}: precision {each['precision']:.3f}, recall "
            f"{each['recall']:.3f}, {each['documents']:,} documents",
        )
        for index, each in enumerate(worst)
    ]
