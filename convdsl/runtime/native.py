"""What rendered CPU kernels are written with: typed pointers, vectors and scalar functions.

Everything here is compiled by Numba; a copy of this module travels with exported packages, so it
imports nothing but Numba.
"""

from __future__ import annotations

import operator
from math import erf, exp, expm1, inf, log, log1p, sqrt, tanh
from typing import Any

from llvmlite import ir
from numba import float32, int64, njit, prange, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

FLOATS = types.CPointer(types.float32)
INTS = types.CPointer(types.int64)
SIGNATURE = types.void(INTS, types.int64, types.int64)
"""Every kernel: the addresses of its buffers then its sizes; begin and end of its work."""


def _cast(pointer: types.Type) -> Any:
    @intrinsic
    def cast(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(pointer))

        return pointer(types.int64), generate

    return cast


floats = _cast(FLOATS)
"""A buffer of float32 at an address."""
ints = _cast(INTS)
"""A buffer of int64 at an address."""


@intrinsic
def _element(typing_context: Any, pointer: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.gep(arguments[0], [arguments[1]], inbounds=True))

    return pointer.dtype(pointer, types.intp), generate


@intrinsic
def _set_element(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = builder.gep(arguments[0], [arguments[1]], inbounds=True)
        element = context.cast(builder, arguments[2], signature.args[2], signature.args[0].dtype)
        builder.store(element, target)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, value), generate


@overload(operator.getitem)
def _getitem(pointer: Any, index: Any) -> Any:
    if isinstance(pointer, types.CPointer) and isinstance(index, types.Integer):
        return lambda pointer, index: _element(pointer, index)
    return None


@overload(operator.setitem)
def _setitem(pointer: Any, index: Any, value: Any) -> Any:
    if isinstance(pointer, types.CPointer) and isinstance(index, types.Integer):
        return lambda pointer, index, value: _set_element(pointer, index, value)
    return None


# -- vectors ---------------------------------------------------------------------------------


class VectorType(types.Type):  # type: ignore[misc]
    """A register of float32 lanes."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"float32x{lanes}")


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: Any) -> None:
        super().__init__(manager, vector, ir.VectorType(ir.FloatType(), vector.lanes))


def _at(context: Any, builder: Any, pointer: Any, index: Any) -> Any:
    return builder.gep(pointer, [index], inbounds=True)


def vectors(lanes: int) -> tuple[Any, ...]:
    """The functions on vectors of so many lanes: load, splat, zero, fma, lane, load_first."""
    vector = VectorType(lanes)
    register = ir.VectorType(ir.FloatType(), lanes)

    @intrinsic
    def load(typing_context: Any, pointer: Any, index: Any) -> Any:
        """The lanes at consecutive positions."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments)
            value = builder.load(builder.bitcast(place, register.as_pointer()))
            value.align = 4
            return value

        return vector(pointer, types.intp), generate

    @intrinsic
    def splat(typing_context: Any, pointer: Any, index: Any) -> Any:
        """One element in every lane."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            element = builder.load(_at(context, builder, *arguments))
            undefined = ir.Constant(register, ir.Undefined)
            first = builder.insert_element(undefined, element, ir.Constant(ir.IntType(32), 0))
            mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
            return builder.shuffle_vector(first, undefined, mask)

        return vector(pointer, types.intp), generate

    @intrinsic
    def zero(typing_context: Any) -> Any:
        """Zeros."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return ir.Constant(register, [0.0] * lanes)

        return vector(), generate

    @intrinsic
    def fma(typing_context: Any, x: Any, y: Any, z: Any) -> Any:
        """x·y + z, rounded once."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.FunctionType(register, [register] * 3)
            name = f"llvm.fma.v{lanes}f32"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            return builder.call(function, arguments)

        return vector(x, y, z), generate

    @intrinsic
    def lane(typing_context: Any, x: Any, index: Any) -> Any:
        """One lane."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.extract_element(*arguments)

        return types.float32(x, types.intp), generate

    def mask(builder: Any, count: Any) -> Any:
        """True in the first ``count`` lanes."""
        integers = ir.VectorType(ir.IntType(64), lanes)
        numbers = ir.Constant(integers, list(range(lanes)))
        undefined = ir.Constant(integers, ir.Undefined)
        first = builder.insert_element(undefined, count, ir.Constant(ir.IntType(32), 0))
        shuffle = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        counts = builder.shuffle_vector(first, undefined, shuffle)
        return builder.icmp_signed("<", numbers, counts)

    bits = ir.VectorType(ir.IntType(1), lanes)

    @intrinsic
    def load_first(typing_context: Any, pointer: Any, index: Any, count: Any) -> Any:
        """The first ``count`` lanes at consecutive positions, zeros in the others."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments[:2])
            address = builder.bitcast(place, register.as_pointer())
            kind = ir.FunctionType(
                register, [register.as_pointer(), ir.IntType(32), bits, register]
            )
            name = f"llvm.masked.load.v{lanes}f32.p0"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            align = ir.Constant(ir.IntType(32), 4)
            zeros = ir.Constant(register, [0.0] * lanes)
            return builder.call(function, [address, align, mask(builder, arguments[2]), zeros])

        return vector(pointer, types.intp, types.intp), generate

    return load, splat, zero, fma, lane, load_first


# -- scalar functions ------------------------------------------------------------------------


@njit(inline="always")
def uniform(key: Any, index: Any) -> Any:
    """A uniform number in [0, 1) from a key and a counter; see ops.expressions.uniform."""
    x = uint32(index) * uint32(0x9E3779B1)
    x = uint32(x ^ uint32(key))
    for _ in range(2):
        x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
        x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
        x = uint32(x ^ (x >> uint32(16)))
    return float32(x >> uint32(8)) / float32(16777216.0)


# -- launching -------------------------------------------------------------------------------


@intrinsic
def _call(typing_context: Any, function: Any, arguments: Any, begin: Any, end: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        table = context.get_value_type(INTS)
        kind = ir.FunctionType(ir.VoidType(), [table, integer, integer])
        kernel = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(kernel, [builder.inttoptr(values[1], table), values[2], values[3]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


LAUNCH_SIGNATURE = "void(int64[::1], int64[:, ::1], int64[:, ::1], int64, int64)"


def launch(functions, table, work, first, last):  # type: ignore[no-untyped-def]
    """Run the steps [first, last): one native call for a whole program.

    ``functions`` has the address of every step's kernel, a row of ``table`` its arguments, a row of
    ``work`` its number of units and into how many parts they are split.
    """
    for step in range(first, last):
        kernel = functions[step]
        arguments = table[step].ctypes.data
        units = work[step, 0]
        parts = work[step, 1]
        if parts <= 1:
            _call(kernel, arguments, 0, units)
        else:
            for part in prange(parts):
                _call(kernel, arguments, part * units // parts, (part + 1) * units // parts)


__all__ = [
    "FLOATS",
    "INTS",
    "LAUNCH_SIGNATURE",
    "SIGNATURE",
    "erf",
    "exp",
    "expm1",
    "float32",
    "floats",
    "inf",
    "int64",
    "ints",
    "launch",
    "log",
    "log1p",
    "sqrt",
    "tanh",
    "uniform",
    "vectors",
]
