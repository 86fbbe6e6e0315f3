"""Arrays of different lengths as one Arrow column."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def list_column(rows: Sequence[npt.NDArray[np.generic]], kind: pa.DataType) -> pa.ListArray:
    """A list of `kind` for each array."""
    ends = np.cumsum([0, *map(len, rows)], dtype=np.int32)
    values = np.concatenate(rows) if len(rows) else np.empty(0)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values, kind))
