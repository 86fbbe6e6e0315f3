"""What a training runs on."""

from __future__ import annotations

from dataclasses import replace

from lexbeam.models.config import require
from lexbeam.models.encoder_backend import cpu_has_bfloat16
from lexbeam.models.pretraining.config import MAX_BATCH_TOKENS, TrainingConfig


def resolved(config: TrainingConfig) -> TrainingConfig:
    """The configuration with `auto` resolved for this machine.

    bfloat16 is taken where a GPU or the CPU multiplies it in hardware. Raises ConfigError for a
    device that is not there.
    """
    import torch

    has_cuda = torch.cuda.is_available()
    reason = "torch finds no CUDA device on this machine"
    require(config.device != "cuda" or has_cuda, "device", "cuda", reason)
    device = "cuda" if config.device != "cpu" and has_cuda else "cpu"
    config = replace(config, max_batch_tokens=config.max_batch_tokens or MAX_BATCH_TOKENS[device])
    if config.dtype != "auto":
        return replace(config, device=device)
    has_bfloat16 = torch.cuda.is_bf16_supported() if device == "cuda" else cpu_has_bfloat16()
    return replace(config, device=device, dtype="bfloat16" if has_bfloat16 else "float32")
