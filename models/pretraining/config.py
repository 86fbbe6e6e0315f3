"""How a model is pre-trained; light, so that usage errors answer at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lexbeam.models.config import require, require_at_least, require_choice

MASKINGS = ("word", "token")
VOCABULARIES = ("wordpiece", "unigram")
DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


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
# Tokens at a time, by device. Scores of a whole vocabulary for 15 % of them are what takes memory.
MAX_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


@dataclass(frozen=True)
class SequenceConfig:
    """What decides the sequences that a corpus becomes.

    Attributes:
        model_id: the checkpoint to go on from; None: a model from scratch.
        vocabulary: `wordpiece` or `unigram`, trained on the corpus where there is no checkpoint.
        vocab_size: tokens of that vocabulary; None: as the preset says.
        preset: sizes of a model from scratch, one of PRESETS.
        max_seq_length: tokens of a sequence, special ones included.
        eval_fraction: share of the documents that is held out.
        seed: of the order, of who is held out, of masks and of the start.
    """

    model_id: str | None = None
    vocabulary: str = "wordpiece"
    vocab_size: int | None = None
    preset: str = "small"
    max_seq_length: int = 512
    eval_fraction: float = 0.02
    seed: int = 0

    def __post_init__(self) -> None:
        require_choice("vocabulary", self.vocabulary, VOCABULARIES)
        require_choice("preset", self.preset, tuple(PRESETS))
        require_at_least("max_seq_length", self.max_seq_length, 8)
        require_at_least("seed", self.seed, 0)
        fraction = self.eval_fraction
        require(0.0 < fraction < 1.0, "eval_fraction", fraction, "must lie between 0 and 1")
        if self.vocab_size is not None:
            require_at_least("vocab_size", self.vocab_size, 100)

    @property
    def tokens_of_vocabulary(self) -> int:
        """Tokens of a vocabulary that is trained."""
        return self.vocab_size or PRESETS[self.preset].vocab_size


@dataclass(frozen=True)
class TrainingConfig:
    """How a model learns from sequences.

    Attributes:
        masking: `word`, all pieces of a word together; `token`, each piece by itself.
        mask_probability: share of the tokens to be foretold.
        batch_tokens: tokens of an optimizer step; None: by the preset.
        max_batch_tokens: of these so many go through the model at a time; None: by the device.
        learning_rate: its peak; None: by the preset, or small for a checkpoint.
        warmup_fraction: share of the steps in which it rises; then it falls to 0.
        weight_decay: of AdamW, for matrices.
        max_grad_norm: gradients are scaled down to it.
        dropout: of hidden values while training.
        num_epochs: passes over the corpus.
        max_steps: optimizer steps instead.
        eval_steps: steps between evaluations, which are checkpoints; None: a twentieth.
        patience: evaluations without a better loss after which training ends; 0: never.
        dtype: `auto`, `float32`, or `bfloat16` with float32 weights.
        device: `auto`, `cpu` or `cuda`.
    """

    masking: str = "word"
    mask_probability: float = 0.15
    batch_tokens: int | None = None
    max_batch_tokens: int | None = None
    learning_rate: float | None = None
    warmup_fraction: float = 0.06
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    dropout: float = 0.1
    num_epochs: int = 3
    max_steps: int | None = None
    eval_steps: int | None = None
    patience: int = 5
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        require_choice("masking", self.masking, MASKINGS)
        require_choice("dtype", self.dtype, DTYPES)
        require_choice("device", self.device, DEVICES)
        require_at_least("num_epochs", self.num_epochs, 1)
        for name in ("batch_tokens", "max_batch_tokens", "max_steps", "eval_steps"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        require_at_least("patience", self.patience, 0)
        for name in ("mask_probability", "max_grad_norm"):
            require(getattr(self, name) > 0.0, name, getattr(self, name), "must be above 0")
        for name in ("mask_probability", "warmup_fraction", "dropout"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, name, value, "must lie in [0, 1)")
        rate = self.learning_rate
        require(rate is None or rate > 0.0, "learning_rate", rate, "must be above 0")
        require(self.weight_decay >= 0.0, "weight_decay", self.weight_decay, "must not be negative")


def with_defaults(training: TrainingConfig, sequences: SequenceConfig) -> TrainingConfig:
    """The configuration with what the preset, or being a checkpoint, decides.

    Raises ConfigError where a step or a batch cannot hold a sequence.
    """
    size = PRESETS[sequences.preset]
    rate, batch_tokens = size.learning_rate, size.batch_tokens
    if sequences.model_id is not None:
        rate, batch_tokens = _CHECKPOINT_LEARNING_RATE, _CHECKPOINT_BATCH_TOKENS
    training = replace(
        training,
        learning_rate=training.learning_rate or rate,
        batch_tokens=training.batch_tokens or max(batch_tokens, sequences.max_seq_length),
    )
    for name in ("batch_tokens", "max_batch_tokens"):
        value = getattr(training, name)
        reason = f"must be at least --max_seq_length {sequences.max_seq_length}"
        require(value is None or value >= sequences.max_seq_length, name, value, reason)
    return training


def learning_rate(step: int, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Of step `step`, from 1: linear up to `peak`, then linear down to 0 behind the last one."""
    warmup = max(1, round(warmup_fraction * num_steps))
    if step <= warmup:
        return peak * step / warmup
    return peak * (num_steps + 1 - step) / (num_steps + 1 - warmup)
