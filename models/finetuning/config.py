"""What a model is fine-tuned for; light, so that usage errors answer at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lexbeam.models.config import EncoderConfig, require, require_at_least, require_choice
from lexbeam.models.training.config import TrainingConfig

CLASSIFY, EMBED = "classify", "embed"
TASKS = (CLASSIFY, EMBED)
CLASS_WEIGHTS = ("none", "balanced")
NUM_EVALUATIONS = 6
LEARNING_RATE = 5e-5
# Pairs learn from the others of their step.
BATCH_SIZES = {CLASSIFY: 16, EMBED: 64}


@dataclass(frozen=True)
class FinetuningConfig:
    """What is learned, and from which part of the documents.

    Attributes:
        task: `classify`, labels of documents; `embed`, vectors of pairs of texts.
        model_id: the encoder to go on from.
        max_seq_length: model tokens a window, prefix and special tokens included.
        batch_size: documents or pairs of an optimizer step; None: by the task.
        eval_fraction: share of the documents that is held out; of a classifier, of each class.
        class_weights: `balanced` weighs classes by the inverse of their size; of `classify`.
        temperature: cosines are divided by it; of `embed`.
        frozen_layers: so many of the first layers stay as they are.
        train_embeddings: whether word and position embeddings change; they are most of a
            multilingual model, and a small corpus says little of most words.
        seed: of the split, of orders, windows and dropout.
    """

    task: str
    model_id: str = EncoderConfig.model_id
    max_seq_length: int = 256
    batch_size: int | None = None
    eval_fraction: float = 0.2
    class_weights: str = "none"
    temperature: float = 0.02
    frozen_layers: int = 0
    train_embeddings: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("task", self.task, TASKS)
        require(bool(self.model_id), "model_id", self.model_id, "must not be empty")
        require_choice("class_weights", self.class_weights, CLASS_WEIGHTS)
        require_at_least("max_seq_length", self.max_seq_length, 16)
        require_at_least("frozen_layers", self.frozen_layers, 0)
        require_at_least("seed", self.seed, 0)
        least = 2 if self.task == EMBED else 1
        if self.batch_size is not None:
            require_at_least("batch_size", self.batch_size, least)
        fraction = self.eval_fraction
        require(0.0 < fraction < 1.0, "eval_fraction", fraction, "must lie between 0 and 1")
        require(self.temperature > 0.0, "temperature", self.temperature, "must be above 0")
        reason = "would change what the frozen layers get; leave one of them out"
        both = self.train_embeddings and self.frozen_layers > 0
        require(not both, "train_embeddings", self.train_embeddings, reason)


def with_defaults(
    training: TrainingConfig, finetuning: FinetuningConfig
) -> tuple[TrainingConfig, FinetuningConfig]:
    """The configuration with what the task decides.

    Raises ConfigError where a batch cannot hold a window.
    """
    rate = training.learning_rate or LEARNING_RATE
    size = finetuning.batch_size or BATCH_SIZES[finetuning.task]
    most = training.max_batch_tokens
    reason = f"must be at least --max_seq_length {finetuning.max_seq_length}"
    require(most is None or most >= finetuning.max_seq_length, "max_batch_tokens", most, reason)
    return replace(training, learning_rate=rate), replace(finetuning, batch_size=size)
