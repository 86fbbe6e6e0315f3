"""Sums over vectors in lanes: explicit vector instructions for compiled loops.

A compiler may not reorder a sum of floats, so it does not vectorise a dot product; and one that
it were allowed to reorder would come out otherwise on another processor. Here the order is laid
down: `LANES` partial sums side by side, added up pairwise at the end. Each function takes C arrays
of one dimension whose length is a multiple of LANES, and checks nothing. Imported by kernels alone:
numba is heavy. Their caches of compiled code do not notice a change of this file: change them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8

_I32, _I64, _F64 = ir.IntType(32), ir.IntType(64), ir.DoubleType()
# x + 1.5 * 2^52 holds x, rounded half to even, in its low bits: for |x| <= 2^51.
_ROUNDING = 1.5 * 2.0**52
_ROUNDING_BITS = int(np.float64(_ROUNDING).view(np.int64))
LARGEST_ROUNDED = 2.0**51


def padded_length(length: int) -> int:
    """The next multiple of LANES."""
    return -(-length // LANES) * LANES


def _constant(element: Any, value: float | int) -> Any:
    vector = ir.VectorType(element, LANES)
    return ir.Constant(vector, [ir.Constant(element, value)] * LANES)


def _splat(builder: Any, value: Any) -> Any:
    """A scalar in every lane."""
    undefined = ir.Constant(ir.VectorType(value.type, LANES), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, _constant(_I32, 0))


class _Array:
    """Reads and writes lanes of an array."""

    def __init__(self, context: Any, builder: Any, array_type: Any, value: Any) -> None:
        array = context.make_array(array_type)(context, builder, value)
        self._builder, self._data = builder, array.data
        self.length = cgutils.unpack_tuple(builder, array.shape)[0]
        self._align = array_type.dtype.bitwidth // 8
        self._vector = ir.VectorType(context.get_value_type(array_type.dtype), LANES)

    def _pointer(self, index: Any) -> Any:
        place = self._builder.gep(self._data, [index])
        return self._builder.bitcast(place, self._vector.as_pointer())

    def load(self, index: Any, element: Any = None) -> Any:
        value = self._builder.load(self._pointer(index), align=self._align)
        if element is not None and element != self._vector.element:
            value = self._builder.fpext(value, ir.VectorType(element, LANES))
        return value

    def store(self, value: Any, index: Any) -> None:
        self._builder.store(value, self._pointer(index), align=self._align)

    def address(self, index: Any) -> Any:
        place = self._builder.gep(self._data, [index])
        return self._builder.bitcast(place, ir.IntType(8).as_pointer())


def _loop(
    builder: Any, length: Any, body: Callable[[Any, list[Any]], list[Any]], begin: list[Any]
) -> list[Any]:
    """Run `body(index, values)` for every LANES elements; values begin so and are carried on."""
    entry = builder.block
    block, after = builder.append_basic_block("lanes"), builder.append_basic_block("lanes.end")
    builder.branch(block)
    builder.position_at_end(block)
    index = builder.phi(length.type)
    values = [builder.phi(value.type) for value in begin]
    carried = body(index, values)
    following = builder.add(index, length.type(LANES))
    index.add_incoming(length.type(0), entry)
    index.add_incoming(following, block)
    for phi, first, last in zip(values, begin, carried, strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(last, block)
    builder.cbranch(builder.icmp_unsigned("<", following, length), block, after)
    builder.position_at_end(after)
    return carried


def _sum_of_lanes(builder: Any, value: Any) -> Any:
    """((0+4)+(2+6))+((1+5)+(3+7)) of eight lanes."""
    width = LANES
    while width > 1:
        width //= 2
        halves = []
        for first in (0, width):
            places = [ir.Constant(_I32, first + lane) for lane in range(width)]
            mask = ir.Constant(ir.VectorType(_I32, width), places)
            halves.append(builder.shuffle_vector(value, value, mask))
        value = builder.fadd(*halves)
    return builder.extract_element(value, _I32(0))


def _dot4(element_of: Callable[[Any], Any]) -> Any:
    def dot4(typing_context: Any, x: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
        element = element_of(x.dtype)

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                _Array(context, builder, array_type, value)
                for array_type, value in zip(signature.args, args, strict=True)
            ]
            kind = context.get_value_type(element)

            def body(index: Any, sums: list[Any]) -> list[Any]:
                first = arrays[0].load(index, kind)
                products = [builder.fmul(first, row.load(index, kind)) for row in arrays[1:]]
                return [builder.fadd(s, p) for s, p in zip(sums, products, strict=True)]

            sums = _loop(builder, arrays[0].length, body, [_constant(kind, 0.0)] * 4)
            totals = [_sum_of_lanes(builder, value) for value in sums]
            return context.make_tuple(builder, signature.return_type, totals)

        return types.UniTuple(element, 4)(x, a, b, c, d), codegen

    return dot4


dot4 = intrinsic(_dot4(lambda element: element))
"""(x . a, x . b, x . c, x . d), products and sums in the arrays' own type."""

dot4_double = intrinsic(_dot4(lambda element: types.float64))
"""The same in float64, whatever the arrays' type."""


@intrinsic  # type: ignore[untyped-decorator]
def add_rows4(
    typing_context: Any,
    y: Any,
    ra: Any,
    rb: Any,
    rc: Any,
    rd: Any,
    a: Any,
    b: Any,
    c: Any,
    d: Any,
) -> Any:
    """y[i] = (((y[i] + ra a[i]) + rb b[i]) + rc c[i]) + rd d[i], all in the arrays' type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, *rows = (
            _Array(context, builder, signature.args[place], args[place])
            for place in (0, 5, 6, 7, 8)
        )
        factors = [_splat(builder, value) for value in args[1:5]]

        def body(index: Any, _: list[Any]) -> list[Any]:
            value = target.load(index)
            for factor, row in zip(factors, rows, strict=True):
                value = builder.fadd(value, builder.fmul(factor, row.load(index)))
            target.store(value, index)
            return []

        _loop(builder, target.length, body, [])
        return context.get_dummy_value()

    factor = y.dtype
    return types.void(y, factor, factor, factor, factor, a, b, c, d), codegen


@intrinsic  # type: ignore[untyped-decorator]
def add_rounded(typing_context: Any, total: Any, factor: Any, a: Any, b: Any) -> Any:
    """total[i] += round(factor (a[i] b[i])), half to even; products in float64, total int64.

    The products must not exceed LARGEST_ROUNDED.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        target, first, second = (
            _Array(context, builder, signature.args[place], args[place]) for place in (0, 2, 3)
        )
        factors = _splat(builder, args[1])
        rounding, bits = _constant(_F64, _ROUNDING), _constant(_I64, _ROUNDING_BITS)

        def body(index: Any, _: list[Any]) -> list[Any]:
            product = builder.fmul(first.load(index, _F64), second.load(index, _F64))
            rounded = builder.fadd(builder.fmul(factors, product), rounding)
            whole = builder.sub(builder.bitcast(rounded, bits.type), bits)
            target.store(builder.add(target.load(index), whole), index)
            return []

        _loop(builder, target.length, body, [])
        return context.get_dummy_value()

    return types.void(total, types.float64, a, b), codegen


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typing_context: Any, row: Any) -> Any:
    """Ask the memory for an array that will be needed soon; changes nothing."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = _Array(context, builder, signature.args[0], args[0])
        address = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [address, _I32, _I32, _I32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [address], kind)

        def body(index: Any, _: list[Any]) -> list[Any]:
            # To read, into the nearest cache, data.
            builder.call(function, [array.address(index), _I32(0), _I32(3), _I32(1)])
            return []

        _loop(builder, array.length, body, [])
        return context.get_dummy_value()

    return types.void(row), codegen
