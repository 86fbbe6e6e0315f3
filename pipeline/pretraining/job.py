"""A pre-training from its plan to its model: the corpus is prepared, then learned from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from lexbeam.models.encoder_windows import load_tokenizer
from lexbeam.models.pretraining.processes import joined
from lexbeam.models.pretraining.sequences import FATES
from lexbeam.pipeline import corpus_model, launch, publish, repair, stages, supervised
from lexbeam.pipeline.errors import JobError
from lexbeam.pipeline.job import check_rejected, held, run_stage
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.plan import Plan, read_plan
from lexbeam.pipeline.pretraining import result
from lexbeam.pipeline.pretraining.plan import run_of
from lexbeam.pipeline.pretraining.train import train
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.runs import RunDir
from lexbeam.pipeline.session import Session, open_session
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms.part_files import part_statistics
from lexbeam.transforms.sequences import TOKENIZER_CONFIG, put_tokenizer


def run_first(run: RunDir, plan: Plan, settings: RunSettings, view: ProgressView) -> None:
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
            documents = prepare_corpus(work, settings, view, session)
        with joined() as processes:
            trained = train(work, processes, view)
        result.publish(work, documents, trained, settings, view)


def run_other(settings: RunSettings, view: ProgressView) -> None:
    """Train beside the first process, once that has prepared the corpus."""
    with joined() as processes:
        run = run_of(settings.output)
        train(Workspace(run, read_plan(run)), processes, view)


def prepare_corpus(
    work: Workspace, settings: RunSettings, view: ProgressView, session: Session
) -> dict[str, Any]:
    """Everything up to the shuffled shards; what became of the documents, for the record.

    Raises TooManyRejectedError, and JobError where documents in are not those that are learned
    from, held out, without tokens and rejected.
    """

    def run(stage: stages.Stage, total: int | None = None) -> None:
        run_stage(work, stage, settings, view, session, total)

    run(stages.tokenize(work))
    run(stages.drop_duplicates(work))
    num_documents = publish.documents_in(work)
    check_rejected(work, num_documents, publish.rejected_by_reason(work), settings)
    if work.plan.encoder is None:
        run(stages.train_tokenizer(work), num_documents)
    else:
        _copy_tokenizer(work)
    run(stages.make_sequences(work))
    run(stages.shuffle(work))
    run(stages.collect_errors(work), num_documents)
    return _documents(work, num_documents, settings)


def _documents(work: Workspace, num_documents: int, settings: RunSettings) -> dict[str, Any]:
    reasons = publish.error_counts(work)
    # With those over which the sequences' stage has died.
    check_rejected(work, num_documents, reasons, settings)
    fates: Counter[str] = Counter(dict.fromkeys(FATES, 0))
    for statistics in publish.of_each(part_statistics, work.sequences.parts()):
        fates.update(statistics)
    if num_documents != fates.total() + sum(reasons.values()):
        raise JobError(
            f"{num_documents} documents were read, but {fates.total()} kept and "
            f"{sum(reasons.values())} rejected: nothing is trained"
        )
    return {"documents": num_documents, "rejected": reasons, **fates}


def _copy_tokenizer(work: Workspace) -> None:
    """Put the checkpoint's tokenizer where the workers look for it."""
    spec = work.plan.encoder
    assert spec is not None
    config = spec.directory / TOKENIZER_CONFIG
    text = config.read_text(encoding="utf-8") if config.is_file() else "{}\n"
    put_tokenizer(work.tokenizer, load_tokenizer(spec).to_str(), text)
