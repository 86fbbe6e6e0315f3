"""How any model is trained; light, so that usage errors answer at once."""

from __future__ import annotations

from dataclasses import dataclass

from lexbeam.models.config import require, require_at_least, require_choice

DTYPES = ("auto", "float32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
# Tokens at a time, by device.
MAX_BATCH_TOKENS = {"cpu": 2_048, "cuda": 16_384}


@dataclass(frozen=True)
class TrainingConfig:
    """How a model learns, whatever it learns.

    Attributes:
        max_batch_tokens: tokens that go through the model at a time; None: by the device.
        learning_rate: its peak; None: by the task.
        warmup_fraction: share of the steps in which it rises; then it falls to 0.
        weight_decay: of AdamW, for matrices.
        max_grad_norm: gradients are scaled down to it.
        dropout: of hidden values while training.
        num_epochs: passes over the corpus.
        max_steps: optimizer steps instead.
        eval_steps: steps between evaluations, which are checkpoints; None: by the task.
        patience: evaluations without a better loss after which training ends; 0: never.
        dtype: `auto`, `float32`, or `bfloat16` with float32 weights.
        device: `auto`, `cpu` or `cuda`.
    """

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
        require_choice("dtype", self.dtype, DTYPES)
        require_choice("device", self.device, DEVICES)
        require_at_least("num_epochs", self.num_epochs, 1)
        for name in ("max_batch_tokens", "max_steps", "eval_steps"):
            if getattr(self, name) is not None:
                require_at_least(name, getattr(self, name), 1)
        require_at_least("patience", self.patience, 0)
        norm, rate = self.max_grad_norm, self.learning_rate
        require(norm > 0.0, "max_grad_norm", norm, "must be above 0")
        for name in ("warmup_fraction", "dropout"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, name, value, "must lie in [0, 1)")
        require(rate is None or rate > 0.0, "learning_rate", rate, "must be above 0")
        require(self.weight_decay >= 0.0, "weight_decay", self.weight_decay, "must not be negative")


def learning_rate(step: int, num_steps: int, peak: float, warmup_fraction: float) -> float:
    """Of step `step`, from 1: linear up to `peak`, then linear down to 0 behind the last one."""
    warmup = max(1, round(warmup_fraction * num_steps))
    if step <= warmup:
        return peak * step / warmup
    return peak * (num_steps + 1 - step) / (num_steps + 1 - warmup)
