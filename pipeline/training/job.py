"""A training from its plan to its model: documents are prepared, then learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from lexbeam.models.training.processes import Processes, joined
from lexbeam.pipeline import corpus_model, launch, repair, supervised
from lexbeam.pipeline.job import held
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.plan import Plan, read_plan
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.session import Session, open_session
from lexbeam.pipeline.training.plan import run_of
from lexbeam.pipeline.workspace import Workspace

Trained = TypeVar("Trained")


@dataclass(frozen=True)
class TrainingJob(Generic[Trained]):
    """What a command that trains does.

    Attributes:
        prepare: everything up to the examples, by Beam; returns what became of the documents.
        train: in every process, from the latest checkpoint where there is one.
        publish: puts the model, and what there is to know of it, into the output folder.
    """

    prepare: Callable[[Workspace, RunSettings, ProgressView, Session], dict[str, Any]]
    train: Callable[[Workspace, Processes, ProgressView], Trained]
    publish: Callable[[Workspace, Mapping[str, Any], Trained, RunSettings, ProgressView], None]


def run_first(
    job: TrainingJob[Trained], run: RunDir, plan: Plan, settings: RunSettings, view: ProgressView
) -> None:
    """Prepare, train and publish, as the first or only process; nothing where that is done.

    Raises UsageError where another process works on it, TooManyRejectedError where too many
    documents were rejected, JobError where the training cannot go on.
    """
    supervised.say(run=run.path)
    if run.is_finished():
        view.say(f"the training is complete already\nmodel: {settings.output}")
        return
    with held(run):
        repair.remove_damaged(run, view.say)
        text = corpus_model.copy_dictionaries(run, plan.config.text)
        plan = replace(plan, config=replace(plan.config, text=text))
        work = Workspace(run, plan)
        with open_session(settings.beam_args, run) as session:
            launch.share_cores(settings.beam_args)
            documents = job.prepare(work, settings, view, session)
        with joined() as processes:
            trained = job.train(work, processes, view)
        job.publish(work, documents, trained, settings, view)


def run_other(job: TrainingJob[Trained], settings: RunSettings, view: ProgressView) -> None:
    """Train beside the first process, once that has prepared the documents."""
    with joined() as processes:
        run = run_of(settings.output)
        job.train(Workspace(run, read_plan(run)), processes, view)
