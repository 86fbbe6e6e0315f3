"""Options of `lexbeam pretrain`; light, so that usage errors answer at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from lexbeam.models.config import TextConfig, require
from lexbeam.models.pretraining.config import (
    MASKINGS,
    PRESETS,
    VOCABULARIES,
    PretrainingConfig,
)
from lexbeam.models.training.config import TrainingConfig
from lexbeam.pipeline import options
from lexbeam.pipeline.training.options import (
    add_optimizer_options,
    add_run_options,
    given_config,
    training_parser,
)

DESCRIPTION = "pre-train a model on a corpus: masked language modelling"
# Of what is made from scratch alone.
_FROM_SCRATCH = ("preset", "vocabulary", "vocab_size")


def pretrain_parser() -> argparse.ArgumentParser:
    """The parser; holds only the options that were given."""
    parser = training_parser("pretrain", DESCRIPTION)
    options.add_input_options(parser, kept=False)
    options.add_segmenter_options(parser.add_argument_group("words"))
    _add_model_options(parser)
    _add_training_options(parser)
    add_run_options(parser)
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
    group = parser.add_argument_group("training")
    add = group.add_argument
    add(
        "--masking",
        choices=MASKINGS,
        help="word: all pieces of a word together; token: each by itself (default: word)",
    )
    add("--mask_probability", type=float, metavar="P", help="of each token (default: 0.15)")
    add("--batch_tokens", type=int, metavar="N", help="tokens a step (default: by the preset)")
    add("--eval_fraction", type=float, metavar="X", help="documents held out (default: 0.02)")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="end after so many evaluations without a better loss; 0: never (default: 5)",
    )
    add_optimizer_options(group, learning_rate="by the preset", eval_steps="a twentieth")


def job_config(given: Mapping[str, Any]) -> options.JobConfig:
    """What is read, and how text becomes words."""
    text = TextConfig(**options.pick(given, options.same("language", "user_dict")))
    return options.JobConfig(input=options.input_config(given), text=text, features=())


def pretraining_config(given: Mapping[str, Any]) -> PretrainingConfig:
    """Raises ConfigError where a value is wrong, or does not go with a checkpoint."""
    if given.get("model_id") is not None:
        for option in _FROM_SCRATCH:
            reason = "is for a model from scratch; with --model_id the checkpoint decides it"
            require(option not in given, option, given.get(option), reason)
    return given_config(PretrainingConfig, given)


def training_config(given: Mapping[str, Any]) -> TrainingConfig:
    """Raises ConfigError where a value is wrong."""
    return given_config(TrainingConfig, given)
