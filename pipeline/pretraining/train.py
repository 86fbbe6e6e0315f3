"""From shuffled shards to a trained model, in one process or in several."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from lexbeam.models.cores import usable_cores
from lexbeam.models.pretraining.batches import SequenceStore
from lexbeam.models.pretraining.checkpoints import (
    CheckpointError,
    Checkpoints,
    TrainingState,
)
from lexbeam.models.pretraining.config import MASKINGS, TrainingConfig
from lexbeam.models.pretraining.evaluation import HeldOutScore
from lexbeam.models.pretraining.processes import Processes
from lexbeam.models.pretraining.start import (
    checkpoint_model,
    new_model,
    set_dropout,
    start_from_frequencies,
)
from lexbeam.models.pretraining.subwords import SpecialTokens, read_tokenizer, special_tokens
from lexbeam.models.pretraining.trainer import DivergedError, Task, Trainer
from lexbeam.models.transformer.model import MaskedLanguageModel
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import progress, storage
from lexbeam.transforms.host_models import directory_on_host
from lexbeam.transforms.part_files import PartFolder, read_arrow

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Trained:
    """A trained model and how it got there.

    Attributes:
        model: in evaluation mode.
        special: its special tokens.
        state: the end of the training.
        num_steps: that were planned.
        train_tokens, held_out_tokens: of the corpus.
        scores: over all held-out texts, by masking; empty in all processes but the first.
    """

    model: MaskedLanguageModel
    special: SpecialTokens
    state: TrainingState
    num_steps: int
    train_tokens: int
    held_out_tokens: int
    scores: dict[str, HeldOutScore]


def train(work: Workspace, processes: Processes, view: ProgressView) -> Trained:
    """Train, from the latest checkpoint where there is one.

    Raises JobError where the corpus is too small, the loss diverges or a checkpoint cannot be
    written.
    """
    # The same rounding whatever this process did before; torchrun would leave each one thread.
    torch.set_num_threads(max(1, usable_cores() // processes.local_size))
    task = _task(work, processes)
    model = _first_model(work, task, view).to(task.device)
    set_dropout(model, task.config.dropout)
    checkpoints = Checkpoints(Path(storage.local_path(work.run.file("checkpoints"))))
    note = ""

    def report(tokens: int, said: str) -> None:
        nonlocal note
        note = said
        if processes.is_first:
            progress.report("train", tokens)

    trainer = Trainer(model, task, checkpoints, processes, report)
    done = (checkpoints.read_state() or TrainingState()).step
    if done:
        view.say(f"the training goes on from step {done:,} of {trainer.num_steps:,}")
    shown: AbstractContextManager[None] = nullcontext()
    if processes.is_first:
        left = (trainer.num_steps - done) * trainer.tokens_per_step
        shown = view.stage("train", left, lambda: note)
    try:
        with shown:
            state = trainer.train()
    except (DivergedError, CheckpointError) as error:
        raise JobError(str(error)) from error
    return Trained(
        model=model,
        special=task.special,
        state=state,
        num_steps=trainer.num_steps,
        train_tokens=task.train.num_tokens,
        held_out_tokens=task.held_out.num_tokens,
        scores=_scores(trainer) if processes.is_first else {},
    )


def _scores(trainer: Trainer) -> dict[str, HeldOutScore]:
    """Over all held-out texts, by masking."""
    return {
        name: trainer.evaluate(trainer.held_out(whole_words=name == "word")) for name in MASKINGS
    }


def _task(work: Workspace, processes: Processes) -> Task:
    """What is learned; raises JobError where there is too little of it."""
    sequences = work.plan.sequences
    assert sequences is not None
    # The first one's, which may have been asked for other batches than the plan was made with.
    training = cast(TrainingConfig, processes.share(work.plan.training))
    on_cuda = training.device == "cuda"
    task = Task(
        train=_store(work.shards),
        held_out=_store(work.held_out),
        special=special_tokens(read_tokenizer(storage.local_path(work.tokenizer))),
        config=training,
        seed=sequences.seed,
        device=torch.device("cuda", processes.local_rank) if on_cuda else torch.device("cpu"),
        dtype=_DTYPES[training.dtype],
    )
    _check_size(task, sequences.eval_fraction)
    return task


def _store(folder: PartFolder) -> SequenceStore:
    return SequenceStore([read_arrow(path) for path in folder.parts()])


def _check_size(task: Task, eval_fraction: float) -> None:
    if task.train.num_tokens < task.step_tokens:
        raise JobError(
            f"the corpus is smaller than a batch: {task.train.num_tokens:,} tokens to learn from, "
            f"--batch_tokens {task.step_tokens:,}. Give more documents, or a lower --batch_tokens"
        )
    if not task.held_out.num_tokens:
        raise JobError(
            f"no document was held out by --eval_fraction {eval_fraction:g}: raise it, or give "
            "more documents"
        )


def _first_model(work: Workspace, task: Task, view: ProgressView) -> MaskedLanguageModel:
    sequences, spec = work.plan.sequences, work.plan.encoder
    assert sequences is not None
    if spec is None:
        model, has_head = new_model(sequences, task.special.vocab_size, task.special.pad), False
    else:
        directory = directory_on_host(spec)
        model, has_head = checkpoint_model(directory, sequences, task.special)
        if not has_head:
            view.say(f"note: {spec.name} has no head for masked tokens: a new one is tied to it")
    if not has_head:
        start_from_frequencies(model, task.train, task.special)
    return model
