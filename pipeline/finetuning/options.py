"""Options of `lexbeam finetune`; light, so that usage errors answer at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lexbeam.models.config import require
from lexbeam.models.finetuning.config import (
    BATCH_SIZES,
    CLASS_WEIGHTS,
    CLASSIFY,
    EMBED,
    LEARNING_RATE,
    TASKS,
    FinetuningConfig,
)
from lexbeam.models.training.config import TrainingConfig
from lexbeam.pipeline import options
from lexbeam.pipeline.errors import UsageError
from lexbeam.pipeline.training.options import (
    add_optimizer_options,
    add_run_options,
    given_config,
    training_parser,
)

DESCRIPTION = "fine-tune a model: a classifier, or vectors that bring pairs of texts together"
# Of one task alone.
_OF_TASK = {
    CLASSIFY: ("label_key", "class_weights"),
    EMBED: ("pair_key", "temperature"),
}


def finetune_parser() -> argparse.ArgumentParser:
    """The parser; holds only the options that were given."""
    parser = training_parser("finetune", DESCRIPTION)
    parser.add_argument("--task", choices=TASKS, help="what is learned")
    options.add_input_options(parser, kept=False)
    _add_task_options(parser)
    group = parser.add_argument_group("training")
    _add_training_options(group)
    add_run_options(parser)
    return parser


def _add_task_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the task").add_argument
    add("--label_key", metavar="KEY", help="classify: field with a document's class")
    add(
        "--class_weights",
        choices=CLASS_WEIGHTS,
        help="classify: balanced, errors of rare classes weigh more (default: none)",
    )
    add(
        "--pair_key",
        metavar="KEY",
        help="embed: field with the text that belongs to the text (default: title and text "
        "belong together)",
    )
    add("--temperature", type=float, metavar="X", help="embed: of the cosines (default: 0.02)")
    add(
        "--model_id",
        metavar="NAME",
        help=f"encoder to go on from, as of run (default: {FinetuningConfig.model_id})",
    )
    add(
        "--max_seq_length",
        type=int,
        metavar="N",
        help=f"model tokens a window (default: {FinetuningConfig.max_seq_length})",
    )
    add("--eval_fraction", type=float, metavar="X", help="documents held out (default: 0.2)")


def _add_training_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    sizes = ", ".join(f"{size} of {task}" for task, size in BATCH_SIZES.items())
    add("--batch_size", type=int, metavar="N", help=f"documents or pairs a step (default: {sizes})")
    add(
        "--frozen_layers",
        type=int,
        metavar="N",
        help="the first N layers stay as they are: faster, and learns less (default: 0)",
    )
    add(
        "--train_embeddings",
        action="store_true",
        help="change word and position embeddings, too (default: they stay)",
    )
    add_optimizer_options(group, learning_rate=f"{LEARNING_RATE:g}", eval_steps="a sixth")


def finetuning_config(given: Mapping[str, Any]) -> FinetuningConfig:
    """Raises UsageError where the task is missing, ConfigError where an option is wrong."""
    if "task" not in given:
        raise UsageError(f"--task is required: {' or '.join(TASKS)}")
    task = given["task"]
    for other, names in _OF_TASK.items():
        for name in names:
            reason = f"is for --task {other}"
            require(other == task or name not in given, name, given.get(name), reason)
    if task == CLASSIFY and "label_key" not in given:
        raise UsageError("--label_key is required: the field with a document's class")
    return given_config(FinetuningConfig, given)


def job_config(given: Mapping[str, Any]) -> options.JobConfig:
    """What is read; the options have been checked by `finetuning_config`."""
    keys = tuple(given[name] for name in ("label_key", "pair_key") if name in given)
    how = {"keep_columns": keys, "title_apart": not keys}
    return options.JobConfig(input=options.input_config({**given, **how}), features=())


def training_config(given: Mapping[str, Any]) -> TrainingConfig:
    """Raises ConfigError where a value is wrong.

    There is no patience: what ends a training by its held-out documents has learned from them.
    """
    return given_config(TrainingConfig, given, patience=0)
