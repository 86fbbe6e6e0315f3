"""Options of Beam's in a command line; Beam, which takes seconds, is not imported for them."""

from __future__ import annotations

from collections.abc import Sequence


def value_of(beam_args: Sequence[str], name: str) -> str | None:
    """The value of an option, as `--name value` or `--name=value`; None where it is not given."""
    value = None
    for place, argument in enumerate(beam_args):
        if argument == f"--{name}" and place + 1 < len(beam_args):
            value = beam_args[place + 1]
        elif argument.startswith(f"--{name}="):
            value = argument.partition("=")[2]
    return value
