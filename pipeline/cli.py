"""The command line: `lexbeam COMMAND`.

Only the standard library and light modules are imported before a command's options have been
checked, so that help and usage errors answer at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import metadata

from lexbeam.models.config import ConfigError
from lexbeam.pipeline import log, options
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
from lexbeam.pipeline.finetuning.options import DESCRIPTION as FINETUNING
from lexbeam.pipeline.job_command import JOBS, run_job
from lexbeam.pipeline.pretraining.options import DESCRIPTION as PRETRAINING


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
    for name, text in JOBS.items():
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("worker-pool", help="Beam workers on this host", add_help=False)
    commands.add_parser("evaluate", help="score a run's keywords against gold", add_help=False)
    commands.add_parser(
        "plan", help="foretell what a job would take, from a sample", add_help=False
    )
    commands.add_parser("pretrain", help=PRETRAINING, add_help=False)
    commands.add_parser("finetune", help=FINETUNING, add_help=False)
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
        return log.complain(str(error), EXIT_USAGE)
    except TooManyRejectedError as error:
        return log.complain(str(error), EXIT_TOO_MANY_REJECTED)
    except JobError as error:
        return log.complain(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        text = "interrupted; what was finished is kept, the same command resumes"
        return log.complain(text, EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of what `inspect` or `verify` prints has gone (`| head`). A job does not end
        # here: its view goes quiet.
        return EXIT_DONE
    finally:
        _flush()


def _flush() -> None:
    """Write what is still buffered, or drop it where its reader has gone.

    Python would try when it ends, and end with an exit code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _dispatch(arguments: list[str], *, supervise: bool) -> int:
    if arguments and arguments[0] in JOBS:
        return run_job(arguments[0], arguments[1:], supervise=supervise)
    if arguments and arguments[0] == "evaluate":
        return _evaluate(arguments[1:])
    if arguments and arguments[0] == "plan":
        from lexbeam.pipeline.forecast.command import run_plan

        run_plan(arguments[1:])
        return EXIT_DONE
    if arguments and arguments[0] == "pretrain":
        from lexbeam.pipeline.pretraining.command import PRETRAIN
        from lexbeam.pipeline.training.command import run_command

        return run_command(PRETRAIN, arguments[1:], supervise=supervise)
    if arguments and arguments[0] == "finetune":
        from lexbeam.pipeline.finetuning.command import FINETUNE
        from lexbeam.pipeline.training.command import run_command

        return run_command(FINETUNE, arguments[1:], supervise=supervise)
    if arguments and arguments[0] == "worker-pool":
        from lexbeam.pipeline.workers.command import run_worker_pool

        return run_worker_pool(arguments[1:])
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
