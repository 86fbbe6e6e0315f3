"""The commands that carry out a job: `lexbeam run | fit | transform | retry-errors`.

Only light modules are imported before the options have been checked.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import log, metrics, options, supervised, supervisor
from lexbeam.pipeline.dataflow import job_options as dataflow_options
from lexbeam.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_USAGE,
    JobError,
    TooManyRejectedError,
    UsageError,
)

if TYPE_CHECKING:
    from lexbeam.pipeline.plan import Plan
    from lexbeam.pipeline.progress_view import ProgressView

JOBS = {
    "run": "fit the corpus models, then write features for every document",
    "fit": "fit the corpus models only: vocabulary, idf, LDA",
    "transform": "write features for new documents with the corpus models of an earlier run",
    "retry-errors": "read the documents again that a run has rejected, after they were mended",
}
_EPILOG = "Options that lexbeam does not know, such as --runner, go to Beam."


def job_parser(command: str) -> argparse.ArgumentParser:
    """The parser of one of JOBS; holds only the options that were given."""
    parser = options.Parser(
        prog=f"lexbeam {command}",
        description=JOBS[command].capitalize() + ".",
        epilog=_EPILOG,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    if command == "retry-errors":
        parser.add_argument("run", metavar="RUN", help="OUT/runs/RUN_ID, or OUT for its latest run")
        options.add_device_options(parser)
        options.add_run_options(parser)
        return parser
    if command == "transform":
        parser.add_argument("--model", metavar="DIR", help="a run, or the folder model/ of one")
    options.add_input_options(parser)
    options.add_corpus_options(parser)
    options.add_feature_options(parser)
    if command != "fit":
        options.add_classifier_option(parser)
    options.add_device_options(parser)
    options.add_run_options(parser)
    return parser


def run_job(command: str, arguments: list[str], *, supervise: bool) -> int:
    """Carry out one of JOBS; returns the exit code.

    Args:
        command: its name.
        arguments: of the command line, behind the name.
        supervise: carry it out in a child, and again where that dies; else in this process.

    Raises:
        ConfigError, UsageError: wrong options, found before anything is launched.
        TooManyRejectedError, JobError: see `lexbeam.pipeline.job`.
    """
    log.set_format(options.wanted_log_format(arguments))
    given, beam_args = options.parse_job_options(job_parser(command), arguments)
    if command == "retry-errors":
        _complete_retry(given)
    settings = options.run_settings(given, beam_args)
    log.set_format(settings.log_format)
    _check(command, given)
    if dataflow_options.is_dataflow(beam_args):
        dataflow_options.check_options(settings, given.get("input", ()), given.get("model"))
    return carried_out(
        [command, *arguments],
        settings,
        lambda: _carry_out(command, settings, given),
        supervise=supervise,
    )


def carried_out(
    arguments: list[str],
    settings: options.RunSettings,
    work: Callable[[], None],
    *,
    supervise: bool,
) -> int:
    """Do a command's work in a child that runs the same command, or here; the exit code.

    Raises what `run_job` does.
    """
    if supervised.is_supervised():
        supervised.begin()
    elif supervise:
        return _supervise(arguments, settings)
    try:
        work()
    except (ConfigError, UsageError, TooManyRejectedError, JobError):
        raise
    except Exception as error:
        return _report_failure(error, settings.verbose)
    return EXIT_DONE


def _complete_retry(given: dict[str, Any]) -> None:
    """A retry goes where its run lies, and takes nothing over from other runs."""
    from lexbeam.pipeline.runs import find_run

    given.setdefault("output", find_run(given["run"]).output)
    given.setdefault("reuse", "none")


def _check(command: str, given: dict[str, Any]) -> None:
    if command != "retry-errors":
        options.job_config(given)
    if command == "transform" and not given.get("model"):
        raise UsageError("--model is required: a run, or the folder model/ of one")
    for option in ("keep_state", "warm_start"):
        if command not in ("run", "fit") and option in given:
            raise UsageError(f"--{option} is of run and fit: a {command} fits nothing")


def _supervise(arguments: list[str], settings: options.RunSettings) -> int:
    path, began = settings.metrics_file, time.monotonic()
    if path is not None:
        metrics.check_metrics_file(path)
    outcome = supervisor.supervise(arguments, settings.stall_timeout)
    if path is not None:
        try:
            metrics.write_metrics(path, arguments[0], outcome, time.monotonic() - began)
        except (OSError, UsageError) as error:
            log.write("warning", "metrics", f"--metrics_file {path} cannot be written: {error}")
    return outcome.code


def _carry_out(command: str, settings: options.RunSettings, given: dict[str, Any]) -> None:
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(settings.verbose)
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline import prepare
    from lexbeam.pipeline.progress_view import ProgressView

    view = ProgressView(quiet=settings.quiet)
    settings = prepare.with_absolute_output(settings)
    try:
        plan = _plan(command, settings, given, view)
        # Only now, since it takes seconds: Beam, and what it says of its options.
        from lexbeam.pipeline import job, session

        session.check_runner(settings.beam_args)
        run, plan = prepare.claim_run(plan, settings, view)
        job.run_job(run, plan, settings, view)
    except ModelError as error:
        raise ConfigError("model_id", given.get("model_id", ""), str(error)) from error


def _plan(
    command: str, settings: options.RunSettings, given: dict[str, Any], view: ProgressView
) -> Plan:
    from lexbeam.pipeline import corpus_model, prepare, runs

    if command == "retry-errors":
        return prepare.make_retry_plan(runs.find_run(given["run"]), given, settings, view)
    config, model = options.job_config(given), None
    if "model" in given:
        model = corpus_model.load_corpus_model(given["model"])
        config = model.job(config, given)
    return prepare.make_plan(command, config, settings, model, view)


def _report_failure(error: Exception, verbose: bool) -> int:
    """Say why the job failed; a change of the input under the job is the user's to mend."""
    from lexbeam.transforms.splits import SourceChanged

    if "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
    # A runner may hand on the worker's error as text alone.
    changed = re.search(rf"{SourceChanged.__name__}: (.*)", str(error))
    if isinstance(error, SourceChanged) or changed:
        return log.complain(changed[1] if changed else str(error), EXIT_USAGE)
    text = "the job failed; what was finished is kept, the same command resumes"
    message = f"{type(error).__name__}: {error}\n{text}"
    frames = "".join(traceback.format_exception(error, limit=None if verbose else -6))
    if log.is_json():
        return log.complain(message, EXIT_FAILED, traceback=frames)
    print(frames, end="", file=sys.stderr)
    return log.complain(message, EXIT_FAILED)
