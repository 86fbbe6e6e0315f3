"""Options of `lexbeam pretrain`; light, so that usage errors answer at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lexbeam.models.config import ConfigError, TextConfig, require
from lexbeam.models.pretraining.config import (
    DEVICES,
    DTYPES,
    MASKINGS,
    PRESETS,
    VOCABULARIES,
    SequenceConfig,
    TrainingConfig,
    with_defaults,
)
from lexbeam.pipeline import options
from lexbeam.pipeline.dataflow.job_options import is_dataflow
from lexbeam.pipeline.errors import UsageError
from lexbeam.transforms import storage

DESCRIPTION = "pre-train a model on a corpus: masked language modelling"
# The one run of an output folder.
RUN_ID = "training"
# Of what is made from scratch alone.
_FROM_SCRATCH = ("preset", "vocabulary", "vocab_size")


def pretrain_parser() -> argparse.ArgumentParser:
    """The parser; holds only the options that were given."""
    parser = options.Parser(
        prog="lexbeam pretrain",
        description=DESCRIPTION.capitalize() + ".",
        epilog="Options that lexbeam does not know, such as --runner, go to Beam, which prepares "
        "the corpus. Several processes: torchrun --standalone --no-python lexbeam pretrain …",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    options.add_input_options(parser, kept=False)
    options.add_segmenter_options(parser.add_argument_group("words"))
    _add_model_options(parser)
    _add_training_options(parser)
    group = parser.add_argument_group("the run")
    group.add_argument(
        "--output", metavar="MODEL", help="local folder that gets the model, for --model_id"
    )
    options.add_split_size(group)
    options.add_common_options(group)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the model").add_argument
    add(
        "--model_id",
        metavar="NAME",
        help="checkpoint to go on from, as of run; without it the model is made from scratch",
    )
    sizes = ", ".join(
        f"{name} {size.num_layers} x {size.hidden_size}" for name, size in PRESETS.items()
    )
    add("--preset", choices=tuple(PRESETS), help=f"layers x width: {sizes} (default: small)")
    add("--vocabulary", choices=VOCABULARIES, help="trained on the corpus (default: wordpiece)")
    add("--vocab_size", type=int, metavar="N", help="its tokens (default: by the preset)")
    add(
        "--max_seq_length",
        type=int,
        metavar="N",
        help="tokens a sequence; longer texts become several (default: 512)",
    )


def _add_training_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("training").add_argument
    add(
        "--masking",
        choices=MASKINGS,
        help="word: all pieces of a word together; token: each by itself (default: word)",
    )
    add("--mask_probability", type=float, metavar="P", help="of each token (default: 0.15)")
    add("--batch_tokens", type=int, metavar="N", help="tokens a step (default: by the preset)")
    add(
        "--max_batch_tokens",
        type=int,
        metavar="N",
        help="of these at a time: gradients are accumulated (default: 2048 on CPU, 16384 on GPU)",
    )
    add("--learning_rate", type=float, metavar="X", help="its peak (default: by the preset)")
    add("--warmup_fraction", type=float, metavar="X", help="steps that it rises (default: 0.06)")
    add("--weight_decay", type=float, metavar="X", help="of AdamW (default: 0.01)")
    add("--max_grad_norm", type=float, metavar="X", help="gradients are clipped (default: 1)")
    add("--dropout", type=float, metavar="P", help="while training (default: 0.1)")
    add("--num_epochs", type=int, metavar="N", help="passes over the corpus (default: 3)")
    add("--max_steps", type=int, metavar="N", help="optimizer steps instead")
    add(
        "--eval_steps",
        type=int,
        metavar="N",
        help="steps between checkpoints, each with an evaluation (default: a twentieth)",
    )
    add("--eval_fraction", type=float, metavar="X", help="documents held out (default: 0.02)")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="end after so many evaluations without a better loss; 0: never (default: 5)",
    )
    add("--seed", type=int, metavar="N", help="of all that is random (default: 0)")
    add("--dtype", choices=DTYPES, help="auto: bfloat16 where the hardware has it")
    add("--device", choices=DEVICES, help="default: auto")


def job_config(given: Mapping[str, Any]) -> options.JobConfig:
    """What is read, and how text becomes words."""
    text = TextConfig(**options.pick(given, options.same("language", "user_dict")))
    return options.JobConfig(input=options.input_config(given), text=text, features=())


def sequence_config(given: Mapping[str, Any]) -> SequenceConfig:
    """Raises ConfigError where a value is wrong, or does not go with a checkpoint."""
    if given.get("model_id") is not None:
        for option in _FROM_SCRATCH:
            reason = "is for a model from scratch; with --model_id the checkpoint decides it"
            require(option not in given, option, given.get(option), reason)
    return SequenceConfig(**_of_dataclass(SequenceConfig, given))


def training_config(given: Mapping[str, Any], sequences: SequenceConfig) -> TrainingConfig:
    """Raises ConfigError where a value is wrong, or a sequence is longer than a batch."""
    return with_defaults(TrainingConfig(**_of_dataclass(TrainingConfig, given)), sequences)


def settings(given: dict[str, Any], beam_args: tuple[str, ...]) -> options.RunSettings:
    """Raises UsageError where --output is missing, ConfigError where it is no local folder."""
    if not given.get("output"):
        raise UsageError("--output is required: the folder that gets the model")
    if not storage.is_local(given["output"]):
        raise ConfigError("output", given["output"], "the trainer writes to a local folder")
    if is_dataflow(beam_args):
        reason = "its workers do not see the local folder that the corpus is prepared in"
        raise ConfigError("runner", "DataflowRunner", reason)
    return options.run_settings(given | {"run_id": RUN_ID}, beam_args)


def _of_dataclass(kind: type[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    return options.pick(given, options.same(*(each.name for each in fields(kind))))
