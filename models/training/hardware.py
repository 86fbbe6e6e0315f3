"""What a training runs on."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch

from lexbeam.models.config import require
from lexbeam.models.encoder_backend import cpu_has_bfloat16
from lexbeam.models.training.config import MAX_BATCH_TOKENS, TrainingConfig
from lexbeam.models.varlen import has_varlen_kernel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Hardware:
    """Where a model is trained.

    Attributes:
        device: that the model is on.
        dtype: of activations; float32 or bfloat16. Weights are float32.
        max_batch_tokens: tokens that go through the model at a time.
        has_kernel: whether packed attention takes the variable-length kernel.
    """

    device: torch.device
    dtype: torch.dtype
    max_batch_tokens: int
    has_kernel: bool = False

    @classmethod
    def of(cls, config: TrainingConfig, local_rank: int = 0) -> Hardware:
        """Of a resolved configuration, for this process among those of its host."""
        on_cuda = config.device == "cuda"
        device = torch.device("cuda", local_rank) if on_cuda else torch.device("cpu")
        assert config.max_batch_tokens is not None
        dtype = _DTYPES[config.dtype]
        return cls(device, dtype, config.max_batch_tokens, has_varlen_kernel(device, dtype))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Computes in `dtype` what may be."""
        is_mixed = self.dtype is not torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=is_mixed)


def resolved(config: TrainingConfig) -> TrainingConfig:
    """The configuration with `auto` resolved for this machine.

    bfloat16 is taken where a GPU or the CPU multiplies it in hardware. Raises ConfigError for a
    device that is not there.
    """
    has_cuda = torch.cuda.is_available()
    reason = "torch finds no CUDA device on this machine"
    require(config.device != "cuda" or has_cuda, "device", "cuda", reason)
    device = "cuda" if config.device != "cpu" and has_cuda else "cpu"
    config = replace(config, max_batch_tokens=config.max_batch_tokens or MAX_BATCH_TOKENS[device])
    if config.dtype != "auto":
        return replace(config, device=device)
    has_bfloat16 = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bfloat16()
    return replace(config, device=device, dtype="bfloat16" if has_bfloat16 else "float32")
