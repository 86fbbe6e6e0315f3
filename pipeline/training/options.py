"""Options that every training has; light, so that usage errors answer at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from lexbeam.models.config import ConfigError
from lexbeam.models.training.config import DEVICES, DTYPES, TrainingConfig
from lexbeam.pipeline import options
from lexbeam.pipeline.dataflow.job_options import is_dataflow
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms import storage

# The one run of an output folder.
RUN_ID = "training"

Config = TypeVar("Config")


def training_parser(command: str, description: str) -> argparse.ArgumentParser:
    """A parser that holds only the options that were given."""
    return options.Parser(
        prog=f"lexbeam {command}",
        description=f"{description.capitalize()}.",
        epilog="Options that lexbeam does not know, such as --runner, go to Beam, which prepares "
        f"the documents. Several processes: torchrun --standalone --no-python lexbeam {command} …",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )


def add_optimizer_options(
    group: argparse._ArgumentGroup, *, learning_rate: str, eval_steps: str
) -> None:
    """How weights change; the texts say what the defaults are."""
    add = group.add_argument
    add(
        "--max_batch_tokens",
        type=int,
        metavar="N",
        help="tokens at a time: gradients are accumulated (default: 2048 on CPU, 16384 on GPU)",
    )
    add("--learning_rate", type=float, metavar="X", help=f"its peak (default: {learning_rate})")
    add("--warmup_fraction", type=float, metavar="X", help="steps that it rises (default: 0.06)")
    add("--weight_decay", type=float, metavar="X", help="of AdamW (default: 0.01)")
    add("--max_grad_norm", type=float, metavar="X", help="gradients are clipped (default: 1)")
    add("--dropout", type=float, metavar="P", help="while training (default: 0.1)")
    add(
        "--num_epochs",
        type=int,
        metavar="N",
        help=f"passes over the corpus (default: {TrainingConfig.num_epochs})",
    )
    add("--max_steps", type=int, metavar="N", help="optimizer steps instead")
    add(
        "--eval_steps",
        type=int,
        metavar="N",
        help=f"steps between checkpoints, each with an evaluation (default: {eval_steps})",
    )
    add("--seed", type=int, metavar="N", help="of all that is random (default: 0)")
    add("--dtype", choices=DTYPES, help="auto: bfloat16 where the hardware has it")
    add("--device", choices=DEVICES, help="default: auto")


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """How the job is carried out."""
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--output", metavar="MODEL", help="local folder that gets the model, for --model_id"
    )
    options.add_split_size(group)
    options.add_common_options(group)


def settings_of(given: dict[str, Any], beam_args: tuple[str, ...]) -> options.RunSettings:
    """Raises UsageError where --output is missing, ConfigError where it is no local folder."""
    if not given.get("output"):
        raise UsageError("--output is required: the folder that gets the model")
    if not storage.is_local(given["output"]):
        raise ConfigError("output", given["output"], "the trainer writes to a local folder")
    if is_dataflow(beam_args):
        reason = "its workers do not see the local folder that the corpus is prepared in"
        raise ConfigError("runner", "DataflowRunner", reason)
    return options.run_settings(given | {"run_id": RUN_ID}, beam_args)


def given_config(kind: type[Config], given: Mapping[str, Any], **others: Any) -> Config:
    """A configuration of the options that were given; raises ConfigError where one is wrong."""
    names = options.same(*(each.name for each in fields(kind)))  # type: ignore[arg-type]
    return kind(**others | options.pick(given, names))
