"""What a pre-training leaves: the model, what there is to know of it, and its curves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lexbeam.models.encoder_spec import read_json
from lexbeam.models.pretraining.sequences import HELD_OUT, WITHOUT_TOKENS
from lexbeam.models.transformer.checkpoints import (
    family_for,
    read_config,
    write_masked_language_model,
)
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.pretraining.curves import draw_curves
from lexbeam.pipeline.pretraining.train import Trained
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.training.model_files import put_model, steps_row, table
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms.sequences import copy_of_tokenizer

CURVES = "curves.png"


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
        write=lambda folder: _write_model(work, trained, folder),
        record=record,
        draw=lambda folder: draw_curves(record["log"], folder / CURVES),
        summary=summary_lines(record),
    )


def _write_model(work: Workspace, trained: Trained, folder: Path) -> None:
    spec = work.plan.encoder
    if spec is None:
        family, like = family_for(trained.model.encoder.config), {}
    else:
        (family, _), like = read_config(spec.directory), read_json(spec.directory, "config.json")
    write_masked_language_model(trained.model, folder, family, like)
    copy_of_tokenizer(work.tokenizer, folder)


def _record(work: Workspace, trained: Trained, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Everything that there is to know of a training, as JSON."""
    plan, state = work.plan, trained.state
    return {
        "train_tokens": trained.train_tokens,
        "held_out_tokens": trained.held_out_tokens,
        "vocab_size": trained.special.vocab_size,
        "parameters": sum(each.numel() for each in trained.model.parameters()),
        "steps": state.step,
        "planned_steps": trained.num_steps,
        "best_step": state.best_step,
        "tokens": state.tokens,
        "held_out": {name: asdict(score) for name, score in trained.scores.items()},
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "log": list(state.log),
        "identity": dict(plan.identity),
        "versions": dict(plan.versions),
    }


def summary_lines(record: Mapping[str, Any]) -> list[str]:
    """A short table of a training."""
    epochs = record["tokens"] / max(1, record["train_tokens"])
    rows = [
        (
            "documents",
            f"{record['documents']:,}, {sum(record['rejected'].values()):,} rejected, "
            f"{record[HELD_OUT]:,} held out, {record[WITHOUT_TOKENS]:,} without tokens",
        ),
        ("parameters", f"{record['parameters']:,}, {record['vocab_size']:,} word pieces"),
        steps_row(record),
        ("tokens", f"{record['tokens']:,}, {epochs:.1f} times {record['train_tokens']:,}"),
    ]
    for name, score in record["held_out"].items():
        times = score["accuracy"] / score["constant_accuracy"]
        rows.append(
            (
                f"held out, by {name}",
                f"loss {score['loss']:.3f}, {score['accuracy']:.1%} right, {times:.1f} times the "
                "best constant guess",
            )
        )
    return table(rows)
