"""Masked-LM training: steps, evaluations, checkpoints, and going on from one exactly.

Everything random follows from the seed and the step, so that a training that was killed goes on
from its last checkpoint as if nothing had happened, bit for bit on the same CPU, and several
processes do what one does, to rounding.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lexbeam.models.pretraining.batches import BatchPlan, SequenceStore
from lexbeam.models.pretraining.checkpoints import Checkpoints, TrainingState
from lexbeam.models.pretraining.config import TrainingConfig, learning_rate
from lexbeam.models.pretraining.evaluation import (
    HeldOutScore,
    MaskedBatch,
    cut_masked,
    evaluate,
    held_out_batches,
    losses,
)
from lexbeam.models.pretraining.masking import generator, mask_tokens
from lexbeam.models.pretraining.processes import ALONE, Processes
from lexbeam.models.pretraining.subwords import SpecialTokens
from lexbeam.models.transformer.model import MaskedLanguageModel
from lexbeam.models.varlen import has_varlen_kernel

_MASKS, _DROPOUT = 3, 4  # streams of random numbers
_BETAS, _EPSILON = (0.9, 0.98), 1e-6  # Liu et al. 2019
_NUM_EVALUATIONS = 20
# Held-out tokens of the evaluations on the way; the last one takes all.
_TOKENS_ON_THE_WAY = 65_536


class DivergedError(RuntimeError):
    """The loss is no number any more; the message names step and learning rate."""


@dataclass(frozen=True)
class Task:
    """What is learned from, and how.

    Attributes:
        train, held_out: sequences.
        special: the special tokens.
        config: how, with defaults and `auto` resolved.
        seed: of everything random.
        device: that the model is on.
        dtype: of activations; float32 or bfloat16.
    """

    train: SequenceStore
    held_out: SequenceStore
    special: SpecialTokens
    config: TrainingConfig
    seed: int
    device: torch.device
    dtype: torch.dtype = torch.float32

    @property
    def whole_words(self) -> bool:
        """Whether all pieces of a word are masked together."""
        return self.config.masking == "word"

    @property
    def step_tokens(self) -> int:
        """Tokens of a step, about."""
        assert self.config.batch_tokens is not None
        return self.config.batch_tokens

    @property
    def batch_tokens(self) -> int:
        """Tokens that go through the model at a time, at most."""
        return self.config.max_batch_tokens or self.step_tokens

    def learning_rate(self, step: int, num_steps: int) -> float:
        """Of a step, from 1."""
        assert self.config.learning_rate is not None
        peak, warmup = self.config.learning_rate, self.config.warmup_fraction
        return learning_rate(step, num_steps, peak, warmup)


class Trainer:
    """Trains a model in place.

    Args:
        model: on the task's device.
        task: what is learned.
        checkpoints: where to go on from, and to.
        processes: that train together.
        report: gets the tokens of each step, and what there is to say of the training.

    Attributes:
        num_steps: steps of the whole training.
        tokens_per_step: about.
    """

    def __init__(
        self,
        model: MaskedLanguageModel,
        task: Task,
        checkpoints: Checkpoints,
        processes: Processes = ALONE,
        report: Callable[[int, str], None] = lambda tokens, note: None,
    ) -> None:
        self._model = model
        self._task = task
        self._checkpoints = checkpoints
        self._processes = processes
        self._report = report
        config = task.config
        self._plan = BatchPlan(task.train.lengths, task.step_tokens, task.seed)
        self.num_steps = config.max_steps or config.num_epochs * self._plan.steps_per_epoch
        self.tokens_per_step = task.train.num_tokens // self._plan.steps_per_epoch
        self._eval_steps = config.eval_steps or math.ceil(self.num_steps / _NUM_EVALUATIONS)
        self._optimizer = make_optimizer(model, config)
        self._has_kernel = has_varlen_kernel(task.device, task.dtype)
        self._batches: list[MaskedBatch] = []

    def train(self) -> TrainingState:
        """Train to the end, or until it has got no better for long; the model is the best one.

        Raises DivergedError, CheckpointError.
        """
        state = self._resumed()
        self._processes.same_weights(self._model)
        if self._processes.is_first:
            self._batches = self.held_out(most_tokens=_TOKENS_ON_THE_WAY)
        began, tokens, loss_sum = time.monotonic(), 0, 0.0
        while state.step < self.num_steps and not self._is_over(state):
            step = state.step + 1
            loss, num_tokens = self.step(step)
            tokens, loss_sum = tokens + num_tokens, loss_sum + loss
            state = replace(state, step=step, tokens=state.tokens + num_tokens)
            self._report(num_tokens, _note(step, self.num_steps, loss, state.log))
            if step % self._eval_steps == 0 or step == self.num_steps:
                seconds = time.monotonic() - began
                since = step - (state.log[-1]["step"] if state.log else 0)
                record = {"train_loss": loss_sum / since, "tokens_per_second": tokens / seconds}
                state = self._evaluated(state, record)
                began, tokens, loss_sum = time.monotonic(), 0, 0.0
        if self._is_over(state):
            self._checkpoints.load(state.best_step, self._model, None)
        self._model.eval()
        return state

    def held_out(
        self, *, whole_words: bool | None = None, most_tokens: int | None = None
    ) -> list[MaskedBatch]:
        """The held-out sequences, masked; as the training masks where that is not given."""
        task = self._task
        return held_out_batches(
            task.held_out,
            task.special,
            task.config.mask_probability,
            task.seed,
            task.batch_tokens,
            whole_words=task.whole_words if whole_words is None else whole_words,
            most_tokens=most_tokens,
        )

    def evaluate(self, batches: Sequence[MaskedBatch]) -> HeldOutScore:
        """Score the model as it is on masked batches."""
        with self._autocast():
            return evaluate(self._model, batches, self._task.device, has_kernel=self._has_kernel)

    def _resumed(self) -> TrainingState:
        state = self._checkpoints.read_state() if self._processes.is_first else None
        state = self._processes.share(state)  # type: ignore[assignment]
        if state is None:
            return TrainingState()
        self._checkpoints.load(state.step, self._model, self._optimizer)
        return state

    def _is_over(self, state: TrainingState) -> bool:
        patience = self._task.config.patience
        return patience > 0 and state.num_worse >= patience

    def step(self, step: int) -> tuple[float, int]:
        """One optimizer step; its mean loss and its tokens."""
        self._model.train()
        rate = self._task.learning_rate(step, self.num_steps)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        batches = self._micro_batches(step)
        num_masked = max(1, sum(len(batch.tokens.places) for batch in batches))
        loss = torch.zeros((), device=self._task.device)
        for index in range(self._processes.rank, len(batches), self._processes.size):
            # Of the batch's place alone, whichever process works on it.
            torch.manual_seed(_seed(self._task.seed, _DROPOUT, step, index))
            with self._autocast():
                batch_loss, _ = losses(
                    self._model, batches[index], self._task.device, has_kernel=self._has_kernel
                )
            (batch_loss / num_masked).backward()  # type: ignore[no-untyped-call]
            loss += batch_loss.detach() / num_masked
        self._update(step, rate, loss)
        return float(loss), sum(sum(batch.lengths) for batch in batches)

    def _update(self, step: int, rate: float, loss: torch.Tensor) -> None:
        parameters = [each for each in self._model.parameters() if each.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # a process without a batch in this step
                parameter.grad = torch.zeros_like(parameter)
        gradients = [each.grad for each in parameters if each.grad is not None]
        self._processes.add_up([loss, *gradients])
        norm = nn.utils.clip_grad_norm_(parameters, self._task.config.max_grad_norm)
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            kept = self._checkpoints.steps()
            stays = f"the checkpoint of step {kept[-1]:,} stays" if kept else "no checkpoint yet"
            raise DivergedError(
                f"step {step:,}, learning rate {rate:.3g}: the loss is {float(loss):g}, the "
                f"gradient's norm {float(norm):g}; {stays}. Try a lower --learning_rate"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _micro_batches(self, step: int) -> list[MaskedBatch]:
        """The step's sequences in batches that fit the memory, masked."""
        task, config = self._task, self._task.config
        numbers = self._plan.sequences(step)
        ids, starts = task.train.read(numbers)
        # Of the whole step, so that masks do not depend on how it is cut.
        masked = mask_tokens(
            ids, starts, task.special, config.mask_probability,
            generator(task.seed, _MASKS, step), whole_words=task.whole_words,
        )  # fmt: skip
        return cut_masked(masked, task.train.lengths[numbers], task.batch_tokens)

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        is_mixed = self._task.dtype is not torch.float32
        return torch.autocast(self._task.device.type, self._task.dtype, enabled=is_mixed)

    def _evaluated(self, state: TrainingState, record: dict[str, Any]) -> TrainingState:
        """Evaluate, and write a checkpoint; all processes learn what the first has found."""
        if self._processes.is_first:
            score = self.evaluate(self._batches)
            rate = self._task.learning_rate(state.step, self.num_steps)
            record = {"step": state.step, "tokens": state.tokens, "learning_rate": rate} | record
            record |= {f"eval_{name}": value for name, value in asdict(score).items()}
            state = replace(state, log=(*state.log, record))
            if score.loss < state.best_loss:
                state = replace(state, best_loss=score.loss, best_step=state.step, num_worse=0)
            else:
                state = replace(state, num_worse=state.num_worse + 1)
            self._checkpoints.write(self._model, self._optimizer, state)
        return self._processes.share(state)  # type: ignore[return-value]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and LayerNorms do not decay."""
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, eps=_EPSILON, fused=True)


def _seed(seed: int, *counters: int) -> int:
    return int(np.random.SeedSequence([seed, *counters]).generate_state(1, np.uint64)[0] >> 1)


def _note(step: int, num_steps: int, loss: float, log: Sequence[Any]) -> str:
    text = f"step {step:,} of {num_steps:,}  loss {loss:.3f}"
    if log:
        last = log[-1]
        text += f"  held out {last['eval_loss']:.3f}, {last['eval_accuracy']:.1%} right"
    return text
