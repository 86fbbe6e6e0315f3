"""`lexbeam pretrain`: options, and who does what.

Only light modules are imported before the options have been checked.
"""

from __future__ import annotations

from typing import Any

from lexbeam.models.config import ConfigError
from lexbeam.models.pretraining.config import SequenceConfig, TrainingConfig
from lexbeam.models.pretraining.torchrun import rank, started_by_torchrun
from lexbeam.pipeline import log, options
from lexbeam.pipeline.job_command import carried_out
from lexbeam.pipeline.pretraining import options as pretraining_options


def run_pretrain(arguments: list[str], *, supervise: bool) -> int:
    """Carry out `lexbeam pretrain`; returns the exit code.

    Args:
        arguments: of the command line, behind the name.
        supervise: carry it out in a child, and again where that dies; torchrun does that itself.

    Raises:
        ConfigError, UsageError: wrong options, found before anything is launched.
        TooManyRejectedError, JobError: see `lexbeam.pipeline.pretraining.job`.
    """
    log.set_format(options.wanted_log_format(arguments))
    parser = pretraining_options.pretrain_parser()
    given, beam_args = options.parse_job_options(parser, arguments)
    settings = pretraining_options.settings(given, beam_args)
    log.set_format(settings.log_format)
    config = pretraining_options.job_config(given)
    sequences = pretraining_options.sequence_config(given)
    training = pretraining_options.training_config(given, sequences)
    return carried_out(
        ["pretrain", *arguments],
        settings,
        lambda: _carry_out(settings, config, sequences, training, given),
        supervise=supervise and not started_by_torchrun(),
    )


def _carry_out(
    settings: options.RunSettings,
    config: options.JobConfig,
    sequences: SequenceConfig,
    training: TrainingConfig,
    given: dict[str, Any],
) -> None:
    from lexbeam.pipeline.quiet import quiet_libraries, return_memory

    return_memory()
    quiet_libraries(settings.verbose)
    from lexbeam.models.encoder_spec import ModelError
    from lexbeam.pipeline import prepare
    from lexbeam.pipeline.pretraining import plan
    from lexbeam.pipeline.progress_view import ProgressView

    is_first = rank() == 0
    view = ProgressView(quiet=settings.quiet or not is_first)
    settings = prepare.with_absolute_output(settings)
    try:
        if not is_first:
            from lexbeam.pipeline.pretraining import job

            job.run_other(settings, view)
            return
        wanted = plan.make_plan(config, sequences, training, settings, view)
        # Only now, since it takes seconds: Beam, and what it says of its options.
        from lexbeam.pipeline import session
        from lexbeam.pipeline.pretraining import job

        session.check_runner(settings.beam_args)
        run, claimed = plan.claim(wanted, settings, view)
        job.run_first(run, claimed, settings, view)
    except ModelError as error:
        raise ConfigError("model_id", given.get("model_id", ""), str(error)) from error
