"""Forward passes without padding: all tokens of a batch in one row, attention within each text.

The linear layers then work on real tokens alone. On CUDA the attention is torch's
variable-length kernel, where the device has it; elsewhere it is the ordinary kernel, called
once for each text. Families with a position bias of their own are not packed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lexbeam.models.transformer import attention
from lexbeam.models.varlen import varlen_attention

PACKED_FAMILIES = ("bert", "roberta", "xlm-roberta")
ATTENTION = "lexbeam_packed"  # the name under which transformers knows `packed_attention`

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packing:
    """Where the texts of a batch lie in its one row of tokens.

    Attributes:
        rows: (t,) index of each real token in the padded batch, flattened.
        positions: (1, t) position of each token in its text.
        places: (n, longest) index in the row of each token of the padded batch; padding
            points to its text's last token.
        bounds: (n + 1,) int32, where the texts begin, and the end of the last.
        cuts: the same as pairs (start, end).
        longest: tokens of the longest text.
        has_kernel: whether attention takes the variable-length kernel.
    """

    rows: torch.Tensor
    positions: torch.Tensor
    places: torch.Tensor
    bounds: torch.Tensor
    cuts: list[tuple[int, int]]
    longest: int
    has_kernel: bool

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """(..., t, d) to (..., n, longest, d); padding repeats the text's last token."""
        return values[..., self.places, :]


def pack(mask: Int64Array, device: torch.device, *, has_kernel: bool = False) -> Packing:
    """Describe a padded batch whose `mask` is (n, longest), 1 for a real token, these first."""
    lengths = mask.sum(axis=1)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.arange(mask.shape[1])
    places = bounds[:-1, None] + np.minimum(columns, lengths[:, None] - 1)

    def tensor(values: npt.NDArray[np.integer]) -> torch.Tensor:
        return torch.from_numpy(values).to(device, non_blocking=True)

    return Packing(
        rows=tensor(np.flatnonzero(mask)),
        positions=tensor(np.broadcast_to(columns, mask.shape)[mask.astype(bool)][None]),
        places=tensor(places),
        bounds=tensor(bounds.astype(np.int32)),
        cuts=list(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)),
        longest=int(lengths.max()),
        has_kernel=has_kernel,
    )


def packed_attention(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one layer, as transformers calls it.

    query, key, value: (1, heads, t, d). Returns (1, t, heads, d).
    """
    if packing.has_kernel:
        bounds, longest = packing.bounds, packing.longest
        output = varlen_attention(
            query[0], key[0], value[0], bounds, bounds, longest, longest, scale=scaling
        )
        return output.transpose(0, 1)[None], None
    cuts = packing.cuts
    output = attention.packed_attention(query, key, value, cuts, cuts, scale=scaling)
    return output.transpose(1, 2), None


def register() -> None:
    """Make `packed_attention` known to transformers; may be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, packed_attention)
