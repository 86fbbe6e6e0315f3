"""Torch's attention over texts of different lengths that lie end to end, where a device has it."""

from __future__ import annotations

from typing import Any

import torch


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest_query: int,
    longest_key: int,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """Attention of each text over its own keys, in one call of the kernel.

    query: (heads, t, d). key, value: (heads, u, d). bounds: (n + 1,) int32, where the texts begin,
    and the end of the last. scale: of the scores; None: 1 / √d. Returns (heads, t, d).
    """
    rows = [tensor.transpose(0, 1) for tensor in (query, key, value)]
    window = (-1, 0) if causal else (-1, -1)
    output: torch.Tensor = _kernel(
        *rows, query_bounds, key_bounds, longest_query, longest_key,
        scale=scale, window_size=window,
    )  # fmt: skip
    return output.transpose(0, 1)


def _kernel(*arguments: Any, **options: Any) -> Any:
    """Torch's kernel, which older versions lack: ImportError there."""
    from torch.nn.attention import varlen

    return varlen.varlen_attn(*arguments, **options)


def has_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's variable-length attention runs on this device in this format.

    It is tried: which devices a build of torch has kernels for is written nowhere.
    """
    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return False
    try:
        row = torch.zeros(2, 3, 32, device=device, dtype=dtype)
        bounds = torch.tensor([0, 1, 3], device=device, dtype=torch.int32)
        varlen_attention(row, row, row, bounds, bounds, 2, 2)
        torch.cuda.synchronize(device)
    except (ImportError, RuntimeError, TypeError):
        return False
    return True
