"""Puts a trained model into its folder: all of it, or nothing of it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lexbeam.models.encoder_spec import WEIGHTS
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import json_bytes
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import local_files, storage

RECORD = "training.json"
Draw = Callable[[Path], None]
"""Draws pictures into a folder."""


def put_model(
    work: Workspace,
    settings: RunSettings,
    view: ProgressView,
    write: Callable[[Path], None],
    record: Mapping[str, Any],
    draw: Draw,
    summary: Sequence[str],
) -> None:
    """Put a model's files into the output folder, weights last; then _SUCCESS.

    Args:
        work: of the training.
        settings: name the folder.
        view: is told what was made, and where matplotlib, for the pictures, is missing.
        write: puts the model's files into a folder.
        record: all there is to know of the training.
        draw: puts pictures of it into a folder.
        summary: lines that are said at the end.

    Raises:
        JobError: it cannot be written; the last checkpoint stays.
    """
    output = Path(storage.local_path(settings.output))
    aside = Path(storage.local_path(work.run.file("model.tmp")))
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        write(aside)
        (aside / RECORD).write_bytes(json_bytes(dict(record)))
        if importlib.util.find_spec("matplotlib") is not None:
            draw(aside)
        else:
            view.say("note: no pictures without matplotlib (pip install 'lexbeam[train]')")
        names = sorted(path.name for path in aside.iterdir())
        for name in sorted(names, key=lambda name: name == WEIGHTS):
            _replace(aside / name, output / name)
        aside.rmdir()
        local_files.replace(b"done\n", storage.local_path(work.run.file("_SUCCESS")))
    except (OSError, SafetensorError) as error:
        reason = f"{settings.output} cannot be written: {error}; the last checkpoint stays"
        raise JobError(reason) from error
    if not settings.keep_intermediate:
        storage.delete_tree(work.run.intermediate, root=work.run.path)
        storage.delete_tree(work.run.file("checkpoints"), root=work.run.path)
    view.say("\n".join([*summary, f"model: {settings.output}"]), "done")


def _replace(source: Path, target: Path) -> None:
    """Rename a file or folder; a folder of an attempt that was cut short goes first."""
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    os.replace(source, target)


def table(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lines of a short table: names, and what there is to say of them."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def steps_row(record: Mapping[str, Any]) -> tuple[str, str]:
    """How many steps were taken."""
    stopped = record["steps"] < record["planned_steps"]
    since = f", no better since {record['best_step']:,}" if stopped else ""
    return "steps", f"{record['steps']:,} of {record['planned_steps']:,}{since}"
