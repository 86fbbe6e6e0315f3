"""The command line: `lexbeam run | fit | transform | evaluate | verify | inspect | runs | models`.

Only the standard library and light modules are imported before a command's options have been
checked, so that help and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import log, metrics, options, supervised, supervisor
from lexbeam.pipeline.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_TOO_MANY_REJECTED,
    EXIT_USAGE,
    JobError,
    TooManyRejectedError,
    UsageError,
)

_JOBS = {
    "run": "fit the corpus models, then write features for every document",
    "fit": "fit the corpus models only: vocabulary, idf, LDA",
    "transform": "write features for new documents with the corpus models of an earlier run",
}
_EPILOG = "Options that lexbeam does not know, such as --runner, go to Beam."


def job_parser(command: str) -> argparse.ArgumentParser:
    """The parser of `run`, `fit` or `transform`; holds only the options that were given."""
    parser = options.Parser(
        prog=f"lexbeam {command}",
        description=_JOBS[command].capitalize() + ".",
        epilog=_EPILOG,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    if command == "transform":
        parser.add_argument("--model", metavar="DIR", help="a run, or the folder model/ of one")
    options.add_input_options(parser)
    options.add_corpus_options(parser)
    options.add_feature_options(parser)
    options.add_run_options(parser)
    return parser


def main_parser() -> argparse.ArgumentParser:
    """The parser of the first word."""
    parser = options.Parser(
        prog="lexbeam",
        description="Keywords, topics and embeddings of Chinese and English corpora.",
        allow_abbrev=False,
    )
    version = metadata.version("lexbeam")
    parser.add_argument("--version", action="version", version=f"lexbeam {version}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in _JOBS.items():
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("evaluate", help="score a run's keywords against gold", add_help=False)
    verify = commands.add_parser("verify", help="check a run's files against its manifest")
    verify.add_argument("run", metavar="RUN", help="OUT/runs/RUN_ID, or OUT for its latest run")
    inspect = commands.add_parser("inspect", help="show a run, or one of its documents")
    inspect.add_argument("run", metavar="RUN", help="OUT/runs/RUN_ID, or OUT for its latest run")
    inspect.add_argument("doc_id", metavar="DOC_ID", nargs="?", help="id of a document")
    inspect.add_argument(
        "--diversity",
        action="store_true",
        help="leave near-duplicates and sub-phrases out of the keyword lists that are shown",
    )
    runs = commands.add_parser("runs", help="list an output folder's runs, or remove old ones")
    actions = runs.add_subparsers(dest="action", metavar="ACTION", required=True)
    listed = actions.add_parser("list", help="every run, the newest first")
    listed.add_argument("output", metavar="OUT")
    pruned = actions.add_parser("prune", help="remove all but the newest finished runs")
    pruned.add_argument("output", metavar="OUT")
    pruned.add_argument("--keep", type=int, required=True, metavar="N", help="runs that stay")
    pruned.add_argument("--dry_run", "--dry-run", action="store_true", help="only say what goes")
    models = commands.add_parser("models", help="list the models, or fetch one")
    actions = models.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="the catalogue, and what is here")
    pull = actions.add_parser("pull", help="fetch a model of the catalogue, and convert it")
    pull.add_argument("name", metavar="NAME")
    return parser


def main(arguments: Sequence[str] | None = None, *, supervise: bool = True) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: of the command line, without the program's name; None: those of this process.
        supervise: carry out a job in a child, and again where it dies; else in this process.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments, supervise=supervise)
    except (ConfigError, UsageError) as error:
        return _complain(str(error), EXIT_USAGE)
    except TooManyRejectedError as error:
        return _complain(str(error), EXIT_TOO_MANY_REJECTED)
    except JobError as error:
        return _complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        text = "interrupted; what was finished is kept, the same command resumes"
        return _complain(text, EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of what `inspect` or `verify` prints has gone (`| head`). A job does not end
        # here: its view goes quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_DONE


def _complain(message: str, code: int, **fields: Any) -> int:
    log.write("error", "error", message, exit_code=code, **fields)
    return code


def _dispatch(arguments: list[str], *, supervise: bool) -> int:
    if arguments and arguments[0] in _JOBS:
        return _job(arguments[0], arguments[1:], supervise=supervise)
    if arguments and arguments[0] == "evaluate":
        return _evaluate(arguments[1:])
    parser = main_parser()
    parsed = parser.parse_args(arguments)
    if parsed.command is None:
        parser.print_help()
        return EXIT_USAGE
    if parsed.command == "models":
        return _models(parsed)
    if parsed.command == "runs":
        return _runs(parsed)
    return _verify(parsed.run) if parsed.command == "verify" else _inspect(parsed)


def _job(command: str, arguments: list[str], *, supervise: bool) -> int:
    parser = job_parser(command)
    log.set_format(options.wanted_log_format(arguments))
    given, beam_args = options.parse_job_options(parser, arguments)
    settings = options.run_settings(given, beam_args)
    log.set_format(settings.log_format)
    config = options.job_config(given)
    model_path = given.get("model")
    if command == "transform" and not model_path:
        raise UsageError("--model is required: a run, or the folder model/ of one")
    for option in ("keep_state", "warm_start"):
        if command == "transform" and option in given:
            raise UsageError(f"--{option} is of run and fit: a transform fits nothing")
    if supervised.is_supervised():
        supervised.begin()
    elif supervise:
        return _supervise([command, *arguments], settings)
    try:
        _run_job(command, config, settings, given, model_path)
    except (ConfigError, UsageError, TooManyRejectedError, JobError):
        raise
    except Exception as error:
        return _report_failure(error, settings.verbose)
    return EXIT_DONE


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


def _run_job(
    command: str,
    config: options.JobConfig,
    settings: options.RunSettings,
    given: dict[str, Any],
    model_path: str | None,
) -> None:
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(settings.verbose)
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline import corpus_model, prepare
    from lexbeam.pipeline.progress_view import ProgressView

    view = ProgressView(quiet=settings.quiet)
    settings = prepare.local_settings(settings)
    model = None
    try:
        if model_path is not None:
            model = corpus_model.load_corpus_model(model_path)
            config = model.job(config, given)
        plan = prepare.make_plan(command, config, settings, model, view)
        # Only now, since it takes seconds: Beam, and what it says of its options.
        from lexbeam.pipeline import job, launch

        launch.check_runner(settings.beam_args)
        run, plan = prepare.claim_run(plan, settings, view)
        job.run_job(run, plan, settings, view)
    except ModelError as error:
        raise ConfigError("model_id", config.encoder.model_id, str(error)) from error


def _report_failure(error: Exception, verbose: bool) -> int:
    """Say why the job failed; a change of the input under the job is the user's to mend."""
    from lexbeam.transforms.splits import SourceChanged

    if "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error
    # A runner may hand on the worker's error as text alone.
    changed = re.search(rf"{SourceChanged.__name__}: (.*)", str(error))
    if isinstance(error, SourceChanged) or changed:
        return _complain(changed[1] if changed else str(error), EXIT_USAGE)
    text = "the job failed; what was finished is kept, the same command resumes"
    message = f"{type(error).__name__}: {error}\n{text}"
    frames = "".join(traceback.format_exception(error, limit=None if verbose else -6))
    if log.is_json():
        return _complain(message, EXIT_FAILED, traceback=frames)
    print(frames, end="", file=sys.stderr)
    return _complain(message, EXIT_FAILED)


def _verify(path: str) -> int:
    from lexbeam.pipeline import runs, verify

    run = runs.find_run(path)
    problems = verify.problems_of(run)
    print("\n".join(verify.verify_lines(run, problems)))
    return EXIT_FAILED if problems else EXIT_DONE


def _evaluate(arguments: Sequence[str]) -> int:
    from lexbeam.pipeline.evaluation_options import evaluation_options, parse_evaluate

    parsed = parse_evaluate(arguments)
    from lexbeam.pipeline import evaluate, evaluation_fit, evaluation_view, gold, runs
    from lexbeam.pipeline.quiet import quiet_libraries

    quiet_libraries(verbose=False)
    settings = evaluate.EvaluationOptions(**evaluation_options(parsed))
    run = runs.find_run(parsed.run)
    plan = evaluate.load(run, settings.ks)
    matched = [evaluate.match(run, plan, gold.read_gold(path)) for path in parsed.gold]
    report = evaluate.evaluate(run, plan, matched, settings)
    print("\n".join(evaluation_view.evaluation_lines(report)))
    if parsed.fit_weights:
        fitted = evaluation_fit.fit_to_gold(run, plan, matched, settings, _say)
        runs.write_json("fit_weights", parsed.fit_weights, fitted.weights.as_dict())
        report["fit"] = evaluation_view.fit_json(fitted)
        print("\n".join(evaluation_view.fit_lines(fitted)))
        print(f"weights: {parsed.fit_weights}")
    if parsed.json:
        runs.write_json("json", parsed.json, report)
    return EXIT_DONE


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _inspect(parsed: argparse.Namespace) -> int:
    from lexbeam.pipeline import inspect, runs

    run = runs.find_run(parsed.run)
    if parsed.doc_id is None:
        print("\n".join(inspect.run_lines(run, diverse=parsed.diversity)))
    else:
        print("\n".join(inspect.document_lines(run, parsed.doc_id, diverse=parsed.diversity)))
    return EXIT_DONE


def _runs(parsed: argparse.Namespace) -> int:
    from lexbeam.models.config import require_at_least
    from lexbeam.pipeline import runs, runs_command

    if parsed.action == "prune":
        require_at_least("keep", parsed.keep, 1)
    entries = runs_command.list_runs(runs.absolute(parsed.output))
    if parsed.action == "list":
        print("\n".join(runs_command.list_lines(entries)))
        return EXIT_DONE
    choices = runs_command.choose(entries, parsed.keep)
    print("\n".join(runs_command.prune_lines(choices, dry_run=parsed.dry_run)), flush=True)
    if not parsed.dry_run:
        for choice in choices:
            if choice.reason is None:
                runs_command.remove_run(choice.entry)
    return EXIT_DONE


def _models(parsed: argparse.Namespace) -> int:
    from lexbeam.models import catalogue
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline.models_view import model_table

    if parsed.action == "list":
        print("\n".join(model_table(catalogue.list_models())))
        return EXIT_DONE
    from lexbeam.pipeline import prepare

    try:
        print(prepare.pull_model(parsed.name, _say))
    except ModelError as error:
        raise UsageError(str(error)) from error
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(main())
