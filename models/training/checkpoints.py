"""What a training goes on from: trained weights, the optimizer's state and where it stood.

Weights that are frozen stay as the training began.

A checkpoint is a folder that is written aside and renamed: it is whole, or not there. safetensors
and JSON only, nothing that is executed when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

_STEP = re.compile(r"step-(\d+)")
_MODEL, _OPTIMIZER, _STATE = "model.safetensors", "optimizer.safetensors", "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; the message says what stays."""


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Attributes:
        step: optimizer steps done.
        tokens: that went through the model.
        best_step: of the checkpoint with the least held-out loss.
        best_loss: that loss; infinite before the first evaluation.
        num_worse: evaluations since then.
        log: a record for each evaluation so far.
    """

    step: int = 0
    tokens: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    num_worse: int = 0
    log: tuple[Mapping[str, Any], ...] = field(default=())


class Checkpoints:
    """The checkpoints of a training, in a local folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, ascending."""
        if not self._folder.is_dir():
            return []
        names = (_STEP.fullmatch(path.name) for path in self._folder.iterdir())
        return sorted(int(match[1]) for match in names if match)

    def write(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
    ) -> None:
        """Write a checkpoint, and remove all but it and the best one.

        Raises CheckpointError where it cannot be written; the earlier ones stay.
        """
        target = self._path(state.step)
        aside = self._folder / f".{target.name}.tmp"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            save_file(_weights(model), aside / _MODEL)
            save_file(_optimizer_tensors(model, optimizer), aside / _OPTIMIZER)
            text = json.dumps(asdict(state), indent=1)
            (aside / _STATE).write_text(text + "\n", encoding="utf-8")
            for path in aside.iterdir():
                _sync(path)
            aside.rename(target)
            _sync(self._folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise CheckpointError(self._complaint(state.step, error)) from error
        for step in self.steps():
            if step not in (state.step, state.best_step):
                shutil.rmtree(self._path(step), ignore_errors=True)

    def read_state(self) -> TrainingState | None:
        """Where the latest checkpoint stood; None where there is none."""
        steps = self.steps()
        if not steps:
            return None
        values = json.loads((self._path(steps[-1]) / _STATE).read_text(encoding="utf-8"))
        return TrainingState(**{**values, "log": tuple(values["log"])})

    def load(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Give a model, and the optimizer of its parameters, what they had at a step."""
        folder = self._path(step)
        weights = load_file(folder / _MODEL)
        with torch.no_grad():
            for name, parameter in _trained(model):
                parameter.copy_(weights[name])
        if optimizer is None:
            return
        moments = load_file(folder / _OPTIMIZER)
        for name, parameter in _trained(model):
            parts = {kind: moments[f"{kind}.{name}"] for kind in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                **{kind: part.to(parameter.device) for kind, part in parts.items()},
            }

    def _path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def _complaint(self, step: int, error: Exception) -> str:
        found = self.steps()
        stays = f"that of step {found[-1]:,} stays" if found else "there is no earlier one"
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        reason = "the disk is full" if full or "os error 28" in str(error).lower() else str(error)
        return (
            f"the checkpoint of step {step:,} in {self._folder} was not written: {reason}; {stays}"
        )


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in _trained(model)}


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, each) for name, each in model.named_parameters() if each.requires_grad]


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    return {
        f"{kind}.{name}": optimizer.state[parameter][kind].contiguous()
        for name, parameter in _trained(model)
        for kind in ("exp_avg", "exp_avg_sq")
    }


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
