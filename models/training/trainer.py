"""Training of any model: steps, evaluations, checkpoints, and going on from one exactly.

Everything random follows from the seed and the step, so that a training that was killed goes on
from its last checkpoint as if nothing had happened, bit for bit on the same CPU, and several
processes do what one does, to rounding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import nn

from lexbeam.models.training.checkpoints import Checkpoints, TrainingState
from lexbeam.models.training.config import TrainingConfig, learning_rate
from lexbeam.models.training.processes import ALONE, Processes

_BETAS, _EPSILON = (0.9, 0.98), 1e-6  # Liu et al. 2019


class DivergedError(RuntimeError):
    """The loss is no number any more; the message names step and learning rate."""


class Objective(Protocol):
    """What a model learns: the loss of a step, and how well it does on what it has not seen.

    Attributes:
        steps_per_epoch: steps that take every example once.
        tokens_per_step: about.
        num_evaluations: of a training, where `eval_steps` does not say.
        headline: name of the score that is shown beside the loss.
    """

    num_evaluations: int
    steps_per_epoch: int
    tokens_per_step: int
    headline: str

    @property
    def model(self) -> nn.Module:
        """What is trained, in place."""
        ...

    def backward(self, step: int) -> tuple[torch.Tensor, int]:
        """Add this process' share of a step's gradient to the parameters.

        Returns its share of the mean loss, and the tokens of the whole step. What is random
        follows from seed and step. `model` is in training mode.
        """

    def evaluate(self) -> Mapping[str, float]:
        """Scores on what is held out, `loss` among them; leaves `model` in evaluation mode."""


class Trainer:
    """Trains a model in place.

    Args:
        objective: what is learned.
        config: how, with defaults and `auto` resolved.
        checkpoints: where to go on from, and to.
        processes: that train together.
        report: gets the tokens of each step, and what there is to say of the training.

    Attributes:
        num_steps: steps of the whole training.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainingConfig,
        checkpoints: Checkpoints,
        processes: Processes = ALONE,
        report: Callable[[int, str], None] = lambda tokens, note: None,
    ) -> None:
        self._objective = objective
        self._model = objective.model
        self._config = config
        self._checkpoints = checkpoints
        self._processes = processes
        self._report = report
        self.num_steps = config.max_steps or config.num_epochs * objective.steps_per_epoch
        evaluations = objective.num_evaluations
        self._eval_steps = config.eval_steps or math.ceil(self.num_steps / evaluations)
        self._optimizer = make_optimizer(self._model, config)

    def train(self) -> TrainingState:
        """Train to the end, or until it has got no better for long; the model is the best one.

        With patience 0 it is the last one. Raises DivergedError, CheckpointError.
        """
        state = self._resumed()
        self._processes.same_weights(self._model)
        began, tokens, loss_sum = time.monotonic(), 0, 0.0
        while state.step < self.num_steps and not self._is_over(state):
            step = state.step + 1
            loss, num_tokens = self.step(step)
            tokens, loss_sum = tokens + num_tokens, loss_sum + loss
            state = replace(state, step=step, tokens=state.tokens + num_tokens)
            self._report(num_tokens, self._note(step, loss, state.log))
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

    def _resumed(self) -> TrainingState:
        state = self._checkpoints.read_state() if self._processes.is_first else None
        state = self._processes.share(state)  # type: ignore[assignment]
        if state is None:
            return TrainingState()
        self._checkpoints.load(state.step, self._model, self._optimizer)
        return state

    def _is_over(self, state: TrainingState) -> bool:
        patience = self._config.patience
        return patience > 0 and state.num_worse >= patience

    def step(self, step: int) -> tuple[float, int]:
        """One optimizer step; its mean loss and its tokens."""
        self._model.train()
        rate = self._rate(step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        loss, num_tokens = self._objective.backward(step)
        self._update(step, rate, loss)
        return float(loss), num_tokens

    def _rate(self, step: int) -> float:
        assert self._config.learning_rate is not None
        peak, warmup = self._config.learning_rate, self._config.warmup_fraction
        return learning_rate(step, self.num_steps, peak, warmup)

    def _update(self, step: int, rate: float, loss: torch.Tensor) -> None:
        parameters = [each for each in self._model.parameters() if each.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # a process without a batch in this step
                parameter.grad = torch.zeros_like(parameter)
        gradients = [each.grad for each in parameters if each.grad is not None]
        self._processes.add_up([loss, *gradients])
        norm = nn.utils.clip_grad_norm_(parameters, self._config.max_grad_norm)
        if not (math.isfinite(float(loss)) and math.isfinite(float(norm))):
            kept = self._checkpoints.steps()
            stays = f"the checkpoint of step {kept[-1]:,} stays" if kept else "no checkpoint yet"
            raise DivergedError(
                f"step {step:,}, learning rate {rate:.3g}: the loss is {float(loss):g}, the "
                f"gradient's norm {float(norm):g}; {stays}. Try a lower --learning_rate"
            )
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def _evaluated(self, state: TrainingState, record: dict[str, Any]) -> TrainingState:
        """Evaluate, and write a checkpoint; all processes learn what the first has found."""
        if self._processes.is_first:
            scores = self._objective.evaluate()
            place = {"step": state.step, "tokens": state.tokens}
            record = {**place, "learning_rate": self._rate(state.step), **record}
            record |= {f"eval_{name}": value for name, value in scores.items()}
            state = replace(state, log=(*state.log, record))
            if scores["loss"] < state.best_loss:
                best, step = scores["loss"], state.step
                state = replace(state, best_loss=best, best_step=step, num_worse=0)
            else:
                state = replace(state, num_worse=state.num_worse + 1)
            self._checkpoints.write(self._model, self._optimizer, state)
        return self._processes.share(state)  # type: ignore[return-value]

    def _note(self, step: int, loss: float, log: Sequence[Any]) -> str:
        text = f"step {step:,} of {self.num_steps:,}  loss {loss:.3f}"
        if log:
            score = log[-1][f"eval_{self._objective.headline}"]
            text += f"  held out {log[-1]['eval_loss']:.3f}, {score:.1%} right"
        return text


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019); biases and LayerNorms do not decay."""
    trained = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=_BETAS, eps=_EPSILON, fused=True)
