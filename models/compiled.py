"""How loops are compiled, and the types of their arrays.

Imported where something is computed, not before: numba is heavy. No kernel uses fast-math, so that
sums keep their order, and every one releases the interpreter lock, so that threads run side by
side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
UInt32Array = npt.NDArray[np.uint32]
UInt64Array = npt.NDArray[np.uint64]
BoolArray = npt.NDArray[np.bool_]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.float64]
# A machine integer of whatever width: Python's, and NumPy's, which are no `int` to a type checker.
Integer: TypeAlias = Any
_Function = TypeVar("_Function", bound=Callable[..., Any])


def entry(function: _Function) -> _Function:
    """Compiled, and cached on disk with all that it calls.

    The cache is made anew when the file of this function changes: what it calls must stand in the
    same file.
    """
    return cast(_Function, numba.njit(cache=True, nogil=True)(function))


def helper(function: _Function) -> _Function:
    """Compiled into its callers alone: not called from Python, so not wrapped and not cached."""
    compile_function = numba.njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
    return cast(_Function, compile_function(function))
