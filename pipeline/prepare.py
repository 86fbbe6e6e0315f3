"""From options to a plan and the run that carries it out; nothing is launched here.

No Beam and no model is imported, so that usage errors answer at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lexbeam.models import catalogue
from lexbeam.models.config import ConfigError, EncoderConfig
from lexbeam.models.encoder_backend import resolve_backend
from lexbeam.models.encoder_spec import ModelSpec
from lexbeam.pipeline import corpus_model, retry, supervised
from lexbeam.pipeline.errors import JobError, UsageError
from lexbeam.pipeline.lda_execution import lda_execution
from lexbeam.pipeline.options import JobConfig, RunSettings
from lexbeam.pipeline.plan import (
    Plan,
    check_same,
    identity_of,
    read_plan,
    resolved_config,
    with_classifier,
    write_plan,
)
from lexbeam.pipeline.progress_view import ProgressView
from lexbeam.pipeline.reuse import choose_earlier, warm_start_model
from lexbeam.pipeline.run_lock import is_busy
from lexbeam.pipeline.runs import RunDir, absolute, created_of_latest
from lexbeam.pipeline.tables import count_of
from lexbeam.pipeline.versions import installed_versions
from lexbeam.transforms import splits, storage


def with_absolute_output(settings: RunSettings) -> RunSettings:
    """The settings with the output's path from the root, or its URL.

    Raises ConfigError where nothing can be written, or what was written would be lost.
    """
    output = settings.output
    try:
        scheme = storage.scheme_of(output)
    except ValueError as error:
        raise ConfigError("output", output, str(error)) from error
    if not storage.is_writable_scheme(output):
        reason = (
            "can only be read: it lacks the conditional create by which one of two writers wins"
        )
        raise ConfigError("output", output, f"{scheme}:// {reason}")
    if scheme == "memory" and supervised.is_supervised():
        raise ConfigError("output", output, "would be gone when the job has ended")
    return replace(settings, output=absolute(output))


def make_plan(
    command: str,
    config: JobConfig,
    settings: RunSettings,
    model: corpus_model.CorpusModel | None,
    view: ProgressView,
) -> Plan:
    """List and cut the input, and resolve every `auto`."""
    layout = planned_layout(config, settings, view)
    resolve = resolved_config if model is None else model.resolved
    on_gpus = settings.gpu_type is not None
    config, encoder = resolve(config, view.say, gpu_elsewhere=on_gpus)
    config, encoder, classifier = with_classifier(config, encoder, view.say, gpu_elsewhere=on_gpus)
    fingerprint = model.fingerprint if model else None
    return Plan(
        command=command,
        created=now(),
        config=config,
        layout=layout,
        encoder=encoder,
        model_source=model.directory if model else None,
        lda_execution=lda_execution(config, layout, settings),
        identity=identity_of(command, config, encoder, fingerprint, classifier)
        | {"warm_start": settings.warm_start != "none"},
        versions=installed_versions(),
        classifier=classifier,
    )


def planned_layout(config: JobConfig, settings: RunSettings, view: ProgressView) -> splits.Layout:
    """List and cut the input, and say what was found."""
    notes: list[str] = []
    layout = splits.plan_layout(config.input, settings.split_size, notes)
    view.say(
        f"input: {count_of(len(layout.sources), 'file')}, {count_of(len(layout.splits), 'split')}"
    )
    for note in notes:
        view.say(f"note: {note}")
    return layout


def make_retry_plan(
    run: RunDir, given: Mapping[str, Any], settings: RunSettings, view: ProgressView
) -> Plan:
    """The plan of `lexbeam retry-errors`: see `lexbeam.pipeline.retry`."""
    failed = read_plan(run)
    config = retry.job_of_run(run, failed, given)
    model = corpus_model.load_corpus_model(failed.model_dir(run))
    layout = retry.retry_layout(run, failed, view.say)
    config, encoder = model.resolved(
        replace(config, input=layout.config),
        view.say,
        gpu_elsewhere=settings.gpu_type is not None,
    )
    config, encoder, classifier = with_classifier(
        config, encoder, view.say, gpu_elsewhere=settings.gpu_type is not None
    )
    identity = identity_of("transform", config, encoder, model.fingerprint, classifier)
    return Plan(
        command="transform",
        created=now(),
        config=config,
        layout=layout,
        encoder=encoder,
        model_source=model.directory,
        lda_execution="local",
        identity=identity | {"warm_start": False, "retry_of": run.run_id},
        versions=installed_versions(),
        classifier=classifier,
    )


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def claim_run(wanted: Plan, settings: RunSettings, view: ProgressView) -> tuple[RunDir, Plan]:
    """The run to work on, and its plan: a named one, an unfinished one of this job, or a new one.

    Raises UsageError where the named run has another configuration or input, ConfigError where
    the output cannot be written.
    """
    if settings.run_id is not None:
        run = RunDir(settings.output, settings.run_id)
        return _claim(run, wanted, settings, view)
    for run in reversed(unfinished_runs(settings.output)):
        found = _plan_of(run)
        if found is None or not _is_same_job(found, wanted):
            continue
        # Its job may have been killed a moment ago.
        if not _is_busy(run, view):
            view.say(f"resuming run {run.run_id}")
            return run, _with_local_settings(found, wanted, settings)
    wanted = _for_new_run(wanted, settings, view)
    stamp = datetime.fromisoformat(wanted.created).strftime("%Y-%m-%dT%H%M%SZ")
    for suffix in ("", *(f"-{number}" for number in range(2, 100))):
        run = RunDir(settings.output, stamp + suffix)
        if _try_write_plan(run, wanted):
            return run, wanted
    raise JobError(f"no free run id that begins with {stamp} in {settings.output}")


def _for_new_run(wanted: Plan, settings: RunSettings, view: ProgressView) -> Plan:
    """The plan, with what is decided once when a run begins."""
    earlier = choose_earlier(wanted, settings, view.say)
    wanted = replace(
        wanted,
        reuse=earlier,
        reuse_store=settings.reuse_store == "on",
        keep_state=settings.keep_state,
        warm_start=warm_start_model(wanted, settings, view.say),
    )
    return _after_latest(wanted, settings.output, view)


def _after_latest(wanted: Plan, output: str, view: ProgressView) -> Plan:
    """The plan, dated after the latest run also where the clock was put back since that one.

    latest.json goes by these dates, and never back.
    """
    latest = created_of_latest(output)
    if not latest or wanted.created > latest:
        return wanted
    view.say(f"note: the clock is behind the latest run, of {latest}; this run is dated after it")
    created = datetime.fromisoformat(latest) + timedelta(microseconds=1)
    return replace(wanted, created=created.isoformat(timespec="microseconds"))


def _claim(
    run: RunDir, wanted: Plan, settings: RunSettings, view: ProgressView
) -> tuple[RunDir, Plan]:
    if not storage.exists(run.plan):
        wanted = _for_new_run(wanted, settings, view)
        if _try_write_plan(run, wanted):
            return run, wanted
    found = read_plan(run)
    check_same(run, wanted, found)
    if not run.is_complete():
        check_versions(run, found)
        view.say(f"resuming run {run.run_id}")
    return run, _with_local_settings(found, wanted, settings)


def check_versions(run: RunDir, found: Plan) -> None:
    """Raise UsageError where other versions of packages would go on with a run."""
    here = installed_versions()
    differing = [
        f"{name} {found.versions.get(name)} there, {version} here"
        for name, version in here.items()
        if found.versions.get(name) != version
    ]
    if differing:
        raise UsageError(
            f"run {run.run_id} was begun with other packages ({'; '.join(differing[:5])}); "
            "choose another --run_id"
        )


def _with_local_settings(found: Plan, wanted: Plan, settings: RunSettings) -> Plan:
    """The plan found, with what may differ from one machine or call to the next."""
    execution = found.lda_execution
    if settings.lda_execution != "auto":
        execution = settings.lda_execution
    device = replace(
        found.config.encoder,
        device=wanted.config.encoder.device,
        max_batch_tokens=wanted.config.encoder.max_batch_tokens,
    )
    text = wanted.config.text
    classifier = wanted.config.classifier
    config = replace(found.config, encoder=device, text=text, classifier=classifier)
    return replace(
        found,
        config=config,
        encoder=wanted.encoder,
        classifier=wanted.classifier,
        model_source=wanted.model_source,
        lda_execution=execution,
    )


def _plan_of(run: RunDir) -> Plan | None:
    """An unfinished run's plan; None where it cannot be read or resumed here."""
    try:
        found = read_plan(run)
    except (UsageError, OSError):
        return None
    return found if run.is_complete() or found.versions == installed_versions() else None


def _is_same_job(found: Plan, wanted: Plan) -> bool:
    return (found.fingerprint(), found.input_fingerprint()) == (
        wanted.fingerprint(),
        wanted.input_fingerprint(),
    )


def _try_write_plan(run: RunDir, plan: Plan) -> bool:
    try:
        return write_plan(run, plan)
    except OSError as error:
        raise ConfigError("output", run.output, f"cannot be written: {error}") from error


def _is_busy(run: RunDir, view: ProgressView) -> bool:
    """Whether another process works on the run; waits for one that is just ending, or dead."""
    if not storage.is_local(run.path):
        view.say(
            f"note: run {run.run_id} is unfinished: looking whether its job lives, for a minute"
        )
    return is_busy(run, wait=None)


def unfinished_runs(output: str) -> list[RunDir]:
    """Runs with a plan and no _SUCCESS, in order of their ids.

    Raises ConfigError where the output cannot be read.
    """
    try:
        names = storage.list_folders(storage.join(output, "runs"))
    except OSError as error:
        raise ConfigError("output", output, f"cannot be read: {error}") from error
    runs = [RunDir(output, name) for name in names]
    return [run for run in runs if storage.exists(run.plan) and not run.is_finished()]


def convert_model(spec: ModelSpec, config: EncoderConfig, say: Callable[[str], None]) -> None:
    """Convert an encoder for the backend that `config` names; done once on a machine.

    Raises ModelError where the model cannot be converted.
    """
    from lexbeam.models.encoder import prepare_encoder
    from lexbeam.models.encoder_openvino import graph_path

    if config.backend == "openvino" and not graph_path(spec, config).exists():
        what = "quantising" if config.dtype == "int8" else "converting"
        say(f"{what} {spec.name} for OpenVINO, this once")
    prepare_encoder(spec, config)


def pull_model(name: str, say: Callable[[str], None]) -> Path:
    """Fetch a model of the catalogue and make it ready for this machine; returns its folder.

    Raises ModelError where it cannot be fetched or converted.
    """
    directory = catalogue.pull(name, progress=say)
    spec = catalogue.resolve_model(name)
    convert_model(spec, resolve_backend(spec, EncoderConfig(model_id=name), say), say)
    return directory
