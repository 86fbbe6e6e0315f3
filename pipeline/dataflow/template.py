"""The Flex Template: a Dataflow job of one worker, which drives a lexbeam job.

A template may launch one pipeline and must not wait for it, while a lexbeam job is a pipeline for
each stage. So what the template launches has one step, and that is the driver: `lexbeam run` with
the template's parameters, which submits the stages. A driver whose worker dies is begun again by
Dataflow, and goes on with the same run.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions, WorkerOptions

from lexbeam.pipeline import options
from lexbeam.pipeline.beam_arguments import partition, value_of
from lexbeam.pipeline.dataflow.job_options import check_options
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.job_command import job_parser
from lexbeam.transforms.run_command import RunCommand

# Of the template's own job, not of those that it submits.
_OF_THE_LAUNCH = ("template_location", "job_name", "staging_location", "num_workers", "labels")
_COMMANDS = ("run", "fit", "transform")
# It waits, and at the end reads all that it publishes.
_DRIVER_MACHINE = "e2-standard-4"


def command_lines(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the template's parameters mean.

    Returns:
        The command line of lexbeam's, and Beam's options of the job that carries it out.

    Raises:
        UsageError, ConfigError: wrong parameters, so that the launch fails and no job starts.
    """
    of_the_launch, rest = partition(options.normalise_flags(arguments), _OF_THE_LAUNCH)
    chosen, rest = partition(rest, ("command",))
    command = value_of(chosen, "command") or "run"
    if command not in _COMMANDS:
        raise UsageError(f"--command {command!r}: choose one of {', '.join(_COMMANDS)}")
    job_name = value_of(of_the_launch, "job_name")
    if value_of(rest, "run_id") is None and job_name:
        # A driver that is begun again must go on with its run, not begin another.
        rest.append(f"--run_id={job_name}")
    given, beam_args = options.parse_job_options(job_parser(command), rest)
    settings = options.run_settings(given, beam_args)
    options.job_config(given)
    check_options(settings, given.get("input", ()), given.get("model"))
    return [command, *rest], [*beam_args, *of_the_launch]


def main(arguments: Sequence[str] | None = None) -> None:
    """Launch the driver's job, as the launcher of a Flex Template asks for it.

    Args:
        arguments: the template's parameters and Dataflow's own as `--name=value`; None: those of
            this process.

    Raises:
        UsageError, ConfigError: wrong parameters.
    """
    command_line, launch = command_lines(sys.argv[1:] if arguments is None else arguments)
    workers = PipelineOptions(launch).view_as(WorkerOptions)
    workers.num_workers = workers.max_num_workers = 1
    workers.machine_type = _DRIVER_MACHINE
    pipeline = beam.Pipeline(options=workers.view_as(PipelineOptions))
    command = [sys.executable, "-m", "lexbeam.pipeline.cli", *command_line]
    _ = pipeline | "Drive" >> RunCommand(command)
    # Whoever waited would keep the template from launching it.
    pipeline.run()
