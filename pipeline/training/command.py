"""How `lexbeam pretrain` and `lexbeam finetune` are carried out, and by which process.

Only light modules are imported before the options have been checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lexbeam.models.config import ConfigError
from lexbeam.models.training.torchrun import rank, started_by_torchrun
from lexbeam.pipeline import log, options
from lexbeam.pipeline.job_command import carried_out
from lexbeam.pipeline.training.options import settings_of

if TYPE_CHECKING:
    from lexbeam.pipeline.plan import Plan
    from lexbeam.pipeline.progress_view import ProgressView
    from lexbeam.pipeline.training.job import TrainingJob

MakePlan = Callable[["options.RunSettings", "ProgressView"], "Plan"]


@dataclass(frozen=True)
class TrainingCommand:
    """One of the commands that train.

    Attributes:
        name: its first word.
        parser: makes its parser, which holds only the options that were given.
        configure: checks the options, and returns what makes a plan of them.
        job: imports what it does, which takes seconds.
    """

    name: str
    parser: Callable[[], argparse.ArgumentParser]
    configure: Callable[[dict[str, Any]], MakePlan]
    job: Callable[[], TrainingJob[Any]]


def run_command(command: TrainingCommand, arguments: list[str], *, supervise: bool) -> int:
    """Carry out a command that trains; returns the exit code.

    Args:
        command: which one.
        arguments: of the command line, behind the name.
        supervise: carry it out in a child, and again where that dies; torchrun does that itself.

    Raises:
        ConfigError, UsageError: wrong options, found before anything is launched.
        TooManyRejectedError, JobError: see `lexbeam.pipeline.training.job`.
    """
    log.set_format(options.wanted_log_format(arguments))
    given, beam_args = options.parse_job_options(command.parser(), arguments)
    settings = settings_of(given, beam_args)
    log.set_format(settings.log_format)
    make_plan = command.configure(given)
    return carried_out(
        [command.name, *arguments],
        settings,
        lambda: _carry_out(command, settings, make_plan, given),
        supervise=supervise and not started_by_torchrun(),
    )


def _carry_out(
    command: TrainingCommand,
    settings: options.RunSettings,
    make_plan: MakePlan,
    given: dict[str, Any],
) -> None:
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(settings.verbose)
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline import prepare
    from lexbeam.pipeline.progress_view import ProgressView

    is_first = rank() == 0
    view = ProgressView(quiet=settings.quiet or not is_first)
    settings = prepare.with_absolute_output(settings)
    try:
        if not is_first:
            from lexbeam.pipeline.training import job

            job.run_other(command.job(), settings, view)
            return
        wanted = make_plan(settings, view)
        # Only now, since it takes seconds: Beam, and what it says of its options.
        from lexbeam.pipeline import session
        from lexbeam.pipeline.training import job, plan

        session.check_runner(settings.beam_args)
        run, claimed = plan.claim(wanted, settings, view)
        job.run_first(command.job(), run, claimed, settings, view)
    except ModelError as error:
        raise ConfigError("model_id", given.get("model_id", ""), str(error)) from error
