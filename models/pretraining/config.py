"""How a model is pre-trained; light, so that usage errors answer at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lexbeam.models.config import require, require_at_least, require_choice
from lexbeam.models.training.config import TrainingConfig

MASKINGS = ("word", "token")
VOCABULARIES = ("wordpiece", "unigram")


@dataclass(frozen=True)
class Preset:
    """Sizes of a model that is made from scratch: those of BERT, or of its miniatures."""

    num_layers: int
    hidden_size: int
    num_heads: int
    intermediate_size: int
    vocab_size: int
    learning_rate: float
    batch_tokens: int


# Small models learn faster, from smaller steps.
PRESETS = {
    "tiny": Preset(2, 128, 2, 512, 8_000, 2e-3, 2_048),
    "small": Preset(4, 256, 4, 1024, 12_000, 1e-3, 2_048),
    "medium": Preset(8, 512, 8, 2048, 30_000, 5e-4, 8_192),
    "base": Preset(12, 768, 12, 3072, 30_000, 2e-4, 32_768),
}
# Of a checkpoint, which would forget with a higher one.
_CHECKPOINT_LEARNING_RATE = 5e-5
_CHECKPOINT_BATCH_TOKENS = 8_192


@dataclass(frozen=True)
class PretrainingConfig:
    """What is learned: the sequences that a corpus becomes, and what is hidden in them.

    Attributes:
        model_id: the checkpoint to go on from; None: a model from scratch.
        vocabulary: `wordpiece` or `unigram`, trained on the corpus where there is no checkpoint.
        vocab_size: tokens of that vocabulary; None: as the preset says.
        preset: sizes of a model from scratch, one of PRESETS.
        max_seq_length: tokens of a sequence, special ones included.
        eval_fraction: share of the documents that is held out.
        masking: `word`, all pieces of a word together; `token`, each piece by itself.
        mask_probability: share of the tokens to be foretold.
        batch_tokens: tokens of an optimizer step; None: by the preset.
        seed: of the order, of who is held out, of masks and of the start.
    """

    model_id: str | None = None
    vocabulary: str = "wordpiece"
    vocab_size: int | None = None
    preset: str = "small"
    max_seq_length: int = 512
    eval_fraction: float = 0.02
    masking: str = "word"
    mask_probability: float = 0.15
    batch_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("masking", self.masking, MASKINGS)
        require_choice("vocabulary", self.vocabulary, VOCABULARIES)
        require_choice("preset", self.preset, tuple(PRESETS))
        require_at_least("max_seq_length", self.max_seq_length, 8)
        require_at_least("seed", self.seed, 0)
        fraction = self.eval_fraction
        require(0.0 < fraction < 1.0, "eval_fraction", fraction, "must lie between 0 and 1")
        probability = self.mask_probability
        require(probability > 0.0, "mask_probability", probability, "must be above 0")
        require(probability < 1.0, "mask_probability", probability, "must lie in [0, 1)")
        if self.batch_tokens is not None:
            require_at_least("batch_tokens", self.batch_tokens, 1)
        if self.vocab_size is not None:
            require_at_least("vocab_size", self.vocab_size, 100)

    @property
    def tokens_of_vocabulary(self) -> int:
        """Tokens of a vocabulary that is trained."""
        return self.vocab_size or PRESETS[self.preset].vocab_size


def with_defaults(
    training: TrainingConfig, pretraining: PretrainingConfig
) -> tuple[TrainingConfig, PretrainingConfig]:
    """The configuration with what the preset, or being a checkpoint, decides.

    Raises ConfigError where a step or a batch cannot hold a sequence.
    """
    size = PRESETS[pretraining.preset]
    rate, batch_tokens = size.learning_rate, size.batch_tokens
    if pretraining.model_id is not None:
        rate, batch_tokens = _CHECKPOINT_LEARNING_RATE, _CHECKPOINT_BATCH_TOKENS
    length = pretraining.max_seq_length
    training = replace(training, learning_rate=training.learning_rate or rate)
    batch_tokens = pretraining.batch_tokens or max(batch_tokens, length)
    reason = f"must be at least --max_seq_length {length}"
    require(batch_tokens >= length, "batch_tokens", batch_tokens, reason)
    most = training.max_batch_tokens
    require(most is None or most >= length, "max_batch_tokens", most, reason)
    return training, replace(pretraining, batch_tokens=batch_tokens)
