"""One job from its options to its published run: plan, stages, checks, publish."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pyarrow.compute as pc

from lexbeam.models import schemas
from lexbeam.pipeline import (
    corpus_model,
    isolation,
    launch,
    log,
    prepare,
    publish,
    repair,
    stages,
    supervised,
)
from lexbeam.pipeline.errors import JobError, TooManyRejectedError, UsageError
from lexbeam.pipeline.options import RunSettings
from lexbeam.pipeline.plan import Plan
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.run_lock import RunBusyError, run_lock
from lexbeam.pipeline.runs import RunDir, read_json
from lexbeam.pipeline.session import Session, open_session
from lexbeam.pipeline.stages import Stage
from lexbeam.pipeline.summary import summary_lines, summary_of
from lexbeam.pipeline.workspace import Workspace
from lexbeam.transforms import storage
from lexbeam.transforms.extract import DUPLICATE_ID
from lexbeam.transforms.part_files import read_part

_MIN_ALLOWED_REJECTED = 10
_EXAMPLES_SHOWN = 3


def run_job(
    run: RunDir,
    plan: Plan,
    settings: RunSettings,
    view: ProgressView,
    session: Session | None = None,
) -> None:
    """Carry out a plan in its run's folder, and publish; nothing where that has been done.

    `session` runs the pipelines; None: one that the settings ask for.

    Raises UsageError where another process works on the run, ModelError where the encoder cannot
    be made ready, TooManyRejectedError where too many documents were rejected, JobError where the
    counts do not add up.
    """
    launch.share_cores(settings.beam_args)
    supervised.say(run=run.path, run_id=run.run_id)
    if run.is_complete():
        _finish_complete(run, settings, view)
        return
    with held(run):
        if run.is_complete():  # by another process, just before this one held the run
            _finish_complete(run, settings, view)
            return
        repair.remove_damaged(run, view.say)
        if plan.command != "transform":
            text = corpus_model.copy_dictionaries(run, plan.config.text)
            plan = replace(plan, config=replace(plan.config, text=text))
        opened = nullcontext(session) if session else open_session(settings.beam_args, run)
        with opened as session:
            _carry_out(Workspace(run, plan), settings, view, session)


def _finish_complete(run: RunDir, settings: RunSettings, view: ProgressView) -> None:
    publish.finish(run, keep_intermediate=settings.keep_intermediate)
    line = f"run {run.run_id} is complete already, with this configuration and input"
    view.say(f"{line}\noutput: {run.path}", "complete-already", output=run.path)


@contextmanager
def held(run: RunDir) -> Iterator[None]:
    """Hold the run's lock; raises UsageError where another process holds it."""
    try:
        with run_lock(run):
            yield
    except RunBusyError as error:
        raise UsageError(str(error)) from error


def _carry_out(
    work: Workspace, settings: RunSettings, view: ProgressView, session: Session
) -> None:
    command = work.plan.command

    def run_stages(todo: Sequence[Stage], total: int | None) -> None:
        for stage in todo:
            run_stage(work, stage, settings, view, session, total)

    run_stages([stages.tokenize(work), stages.drop_duplicates(work)], None)
    num_documents = publish.documents_in(work)
    check_rejected(work, num_documents, publish.rejected_by_reason(work), settings)
    if command != "transform":
        counting = [stages.count(work), stages.merge_counts(work), stages.fit_vocabulary(work)]
        run_stages(counting, num_documents)
        if "lda" in work.plan.config.features:
            corpus_model.check_topic_mass(work)
        corpus_model.write_config(work)
    if command != "fit" and work.plan.encoder and not work.encoded.is_complete():
        # Before any worker needs it.
        prepare.convert_model(work.plan.encoder, work.plan.config.encoder, view.say)
    if work.plan.classifier and work.plan.config.classifier and not work.classified.is_complete():
        prepare.convert_model(work.plan.classifier, work.plan.config.classifier, view.say)
    run_stages(_later_stages(work), num_documents)
    run_stages(_stages_for_reuse(work), num_documents)
    has_topics = corpus_model.topic_metrics(work)["num_topics"] > 0
    if command == "fit":
        run_stages([stages.collect_errors(work)], num_documents)
    else:
        run_stages([stages.extract(work, has_topics=has_topics)], num_documents)
    _publish(work, settings, view)


def _later_stages(work: Workspace) -> list[Stage]:
    features, command = work.plan.config.features, work.plan.command
    todo = [stages.bag_of_words(work)]
    if command != "transform":
        todo.append(stages.fit_topics(work))
    if command != "fit" and "bert" in features:
        todo.append(stages.encode(work))
    if work.plan.classifier is not None:
        todo.append(stages.classify(work))
    return todo


def _stages_for_reuse(work: Workspace) -> list[Stage]:
    todo = [stages.compare(work)] if work.earlier_work else []
    if work.plan.keep_state:
        todo.append(stages.keep_ids(work))
    return todo + ([stages.index_texts(work)] if work.plan.reuse_store else [])


def run_stage(
    work: Workspace,
    stage: Stage,
    settings: RunSettings,
    view: ProgressView,
    session: Session,
    total: int | None,
) -> None:
    """Run a stage's pipelines, unless all that it writes is there.

    `total`: documents that it has, where that is known. Raises JobError where it ends with files
    missing.
    """
    if stage.is_done():
        return
    timeout = settings.stall_timeout / 2 or None

    def isolate_suspects() -> None:
        isolation.isolate_suspects(work, stage, timeout, view, verbose=settings.verbose)

    with view.stage(stage.name, stage.passes or total, session.note):
        isolate_suspects()
        hints = settings.encoder_hints() if stage.name in schemas.ENCODING_STAGES else ()
        for build in stage.pipelines():
            session.run(build, stage.name, hints)
        # Where a cluster starts dead workers again, they become suspects while the pipeline runs.
        isolate_suspects()
    if not stage.is_done():
        raise JobError(f"stage {stage.name} ended, but some of its files are missing")


def check_rejected(
    work: Workspace, num_documents: int, reasons: dict[str, int], settings: RunSettings
) -> None:
    """Raise TooManyRejectedError where more documents were rejected than the job allows."""
    rejected = sum(reasons.values())
    allowed = max(_MIN_ALLOWED_REJECTED, int(settings.max_error_fraction * num_documents))
    if rejected <= allowed:
        return
    commonest = max(sorted(reasons), key=lambda reason: reasons[reason])
    examples = first_rejected(work, commonest)
    raise TooManyRejectedError(
        f"{rejected:,} of {num_documents:,} documents were rejected, {allowed:,} are allowed "
        f"(--max_error_fraction {settings.max_error_fraction:g}, at least "
        f"{_MIN_ALLOWED_REJECTED}). The commonest reason is {commonest} "
        f"({reasons[commonest]:,} documents)"
        + "".join(f"\n  {line}" for line in examples)
        + f"\nNot published: {work.run.path}. Mend the input, or raise --max_error_fraction "
        "and run the same command again."
    )


def first_rejected(work: Workspace, error_type: str) -> list[str]:
    """A few of the documents rejected for a reason: source, position and message."""
    columns = ["source", "position", "error_type", "error_message"]
    lines: list[str] = []
    for tokens, dropped in zip(work.tokens.parts(), work.dropped.parts(), strict=True):
        rows = read_part(tokens, columns)
        if error_type == DUPLICATE_ID:
            later = read_part(dropped)
            places = zip(later["first_source"], later["first_position"], strict=True)
            messages = [f"the id stands first in {source}, position {at}" for source, at in places]
            found = rows.take(later["row"]).select(columns[:2]).to_pylist()
        else:
            found = rows.filter(pc.equal(rows["error_type"], error_type)).to_pylist()
            messages = [row["error_message"] for row in found]
        for row, message in zip(found, messages, strict=True):
            lines.append(f"{row['source']}, position {row['position']}: {message}")
        if len(lines) >= _EXAMPLES_SHOWN:
            break
    return lines[:_EXAMPLES_SHOWN]


def _publish(work: Workspace, settings: RunSettings, view: ProgressView) -> None:
    totals = publish.totals_of(work)
    storage.remove_temporaries(work.run.path)
    check_rejected(work, totals["documents_in"], totals["rejected_by_reason"], settings)
    runner = launch.runner_name(settings.beam_args)
    extra = corpus_model.manifest_entries(work)
    manifest = publish.manifest_of(work, totals, view.seconds, runner, extra)
    publish.put_manifest(work.run, manifest)
    publish.finish(work.run, keep_intermediate=settings.keep_intermediate)
    manifest = read_json(work.run.manifest)
    lines = [*summary_lines(manifest), f"output: {work.run.path}"]
    text = f"run {work.run.run_id} is done" if log.is_json() else "\n".join(lines)
    view.say(text, "done", output=work.run.path, summary=summary_of(manifest))
