"""Options of Beam's in a command line; Beam, which takes seconds, is not imported for them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

IN_PROCESS_RUNNERS = (None, "DirectRunner", "FnApiRunner")


def values_of(beam_args: Sequence[str], name: str) -> list[str]:
    """The values of an option that may be repeated, as `--name value` or `--name=value`."""
    values = []
    for place, argument in enumerate(beam_args):
        if argument == f"--{name}" and place + 1 < len(beam_args):
            values.append(beam_args[place + 1])
        elif argument.startswith(f"--{name}="):
            values.append(argument.partition("=")[2])
    return values


def value_of(beam_args: Sequence[str], name: str) -> str | None:
    """The value of an option, the last one counts; None where it is not given."""
    values = values_of(beam_args, name)
    return values[-1] if values else None


def is_in_process(beam_args: Sequence[str]) -> bool:
    """Whether the job's workers are this process, or its children."""
    return value_of(beam_args, "runner") in IN_PROCESS_RUNNERS


def partition(arguments: Sequence[str], names: Collection[str]) -> tuple[list[str], list[str]]:
    """The arguments of options of these names, each with its value, and all others."""
    chosen: list[str] = []
    others: list[str] = []
    target = others
    for argument in arguments:
        if argument.startswith("--"):
            name = argument[2:].partition("=")[0]
            target = chosen if name in names else others
        target.append(argument)
    return chosen, others


def resource_hint_options(hints: Sequence[str]) -> list[str]:
    """Beam's options that give hints to all steps of a pipeline.

    Steps with other hints than their neighbours would be no part of their executable stage.
    """
    return [f"--resource_hint={hint}" for hint in hints]
