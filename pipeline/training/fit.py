"""The training itself, in one process or in several, with its progress and its checkpoints."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import cast

import torch

from lexbeam.models.cores import usable_cores
from lexbeam.models.training.checkpoints import CheckpointError, Checkpoints, TrainingState
from lexbeam.models.training.config import TrainingConfig
from lexbeam.models.training.processes import Processes
from lexbeam.models.training.trainer import DivergedError, Objective, Trainer
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import progress, storage


def training_config(work: Workspace, processes: Processes) -> TrainingConfig:
    """The first process' one, which may have been asked for other batches than the plan says.

    Also sets the threads of this process: the same rounding whatever it did before, and torchrun
    would leave each one thread.
    """
    torch.set_num_threads(max(1, usable_cores() // processes.local_size))
    return cast(TrainingConfig, processes.share(work.plan.training))


def checkpoints_of(work: Workspace) -> Checkpoints:
    """Where a training's checkpoints lie."""
    return Checkpoints(Path(storage.local_path(work.run.file("checkpoints"))))


def fit(
    work: Workspace,
    objective: Objective,
    config: TrainingConfig,
    processes: Processes,
    view: ProgressView,
) -> tuple[TrainingState, int]:
    """Train from the latest checkpoint where there is one; the end, and the steps planned.

    Raises JobError where the loss diverges or a checkpoint cannot be written.
    """
    checkpoints = checkpoints_of(work)
    note = ""

    def report(tokens: int, said: str) -> None:
        nonlocal note
        note = said
        if processes.is_first:
            progress.report("train", tokens)

    trainer = Trainer(objective, config, checkpoints, processes, report)
    done = (checkpoints.read_state() or TrainingState()).step
    if done:
        view.say(f"the training goes on from step {done:,} of {trainer.num_steps:,}")
    shown: AbstractContextManager[None] = nullcontext()
    if processes.is_first:
        left = (trainer.num_steps - done) * objective.tokens_per_step
        shown = view.stage("train", left, lambda: note)
    try:
        with shown:
            return trainer.train(), trainer.num_steps
    except (DivergedError, CheckpointError) as error:
        raise JobError(str(error)) from error
