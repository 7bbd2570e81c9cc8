"""What rendered CPU kernels are written with: typed pointers, vectors and scalar functions.

Everything here is compiled by Numba; a copy of this module travels with exported packages, so it
imports nothing but Numba.
"""

from __future__ import annotations

import operator
from math import erf, exp, expm1, inf, log, log1p, sqrt, tanh
from typing import Any

from llvmlite import ir
from numba import float32, int64, njit, types, uint32
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

FLOATS = types.CPointer(types.float32)
INTS = types.CPointer(types.int64)
SIGNATURE = types.void(INTS, types.int64, types.int64, types.int64)
"""Every kernel: the addresses of its buffers, then its sizes; begin and end of its work; a part."""


inlined = njit(forceinline=True)
"""Decorates what kernels call in their inner loops: compiled once, and not called there at all."""


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


def _operator(function: Any, generate: Any) -> None:
    """Define an arithmetic operator on vectors, and on a vector and a number."""

    @intrinsic
    def apply(typing_context: Any, x: Any, y: Any) -> Any:
        vector = x if isinstance(x, VectorType) else y

        def generated(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            sides = (
                _widened(context, builder, value, given, vector)
                for value, given in zip(arguments, (x, y), strict=True)
            )
            return generate(builder, *sides)

        return (vector if generate.__name__ != "compared" else _mask(vector))(x, y), generated

    @overload(function, strict=False)
    def overloaded(x: Any, y: Any) -> Any:
        kinds = [isinstance(k, (VectorType, types.Float, types.Integer)) for k in (x, y)]
        if all(kinds) and (isinstance(x, VectorType) or isinstance(y, VectorType)):
            return lambda x, y: apply(x, y)
        return None


def _widened(context: Any, builder: Any, value: Any, given: Any, vector: VectorType) -> Any:
    """A number in every lane; a vector as it is."""
    if isinstance(given, VectorType):
        return value
    return _in_every_lane(builder, context.cast(builder, value, given, types.float32), vector.lanes)


def _in_every_lane(builder: Any, element: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(element.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, element, ir.Constant(ir.IntType(32), 0))
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, undefined, mask)


class MaskType(types.Type):  # type: ignore[misc]
    """A truth value per lane."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"boolx{lanes}")


@register_model(MaskType)
class _MaskModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, mask: Any) -> None:
        super().__init__(manager, mask, ir.VectorType(ir.IntType(1), mask.lanes))


def _mask(vector: VectorType) -> MaskType:
    return MaskType(vector.lanes)


def _comparison(sign: str) -> Any:
    def compared(builder: Any, x: Any, y: Any) -> Any:
        return builder.fcmp_ordered(sign, x, y)

    return compared


def _unlike() -> Any:
    def compared(builder: Any, x: Any, y: Any) -> Any:
        return builder.fcmp_unordered("!=", x, y)

    return compared


_operator(operator.ne, _unlike())
_operator(operator.add, lambda builder, x, y: builder.fadd(x, y, ("contract",)))
_operator(operator.sub, lambda builder, x, y: builder.fsub(x, y, ("contract",)))
_operator(operator.mul, lambda builder, x, y: builder.fmul(x, y, ("contract",)))
_operator(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))
_operator(operator.lt, _comparison("<"))
_operator(operator.le, _comparison("<="))
_operator(operator.gt, _comparison(">"))
_operator(operator.eq, _comparison("=="))


@overload(operator.neg, strict=False)
def _negative(x: Any) -> Any:
    return (lambda x: float32(-0.0) - x) if isinstance(x, VectorType) else None


@intrinsic
def _select(typing_context: Any, condition: Any, x: Any, y: Any) -> Any:
    vector = VectorType(condition.lanes)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sides = (
            _widened(context, builder, value, given, vector)
            for value, given in zip(arguments[1:], (x, y), strict=True)
        )
        return builder.select(arguments[0], *sides)

    return vector(condition, x, y), generate


@inlined
def select(condition: Any, x: Any, y: Any) -> Any:
    """Per lane ``x`` where the condition holds, else ``y``; vectors or numbers."""
    return _select(condition, x, y)


@intrinsic
def _both(typing_context: Any, x: Any, y: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.and_(*arguments)

    return x(x, y), generate


@overload(operator.and_, strict=False)
def _and(x: Any, y: Any) -> Any:
    return (lambda x, y: _both(x, y)) if isinstance(x, MaskType) else None


@intrinsic
def _either(typing_context: Any, x: Any, y: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.or_(*arguments)

    return x(x, y), generate


@overload(operator.or_, strict=False)
def _or(x: Any, y: Any) -> Any:
    return (lambda x, y: _either(x, y)) if isinstance(x, MaskType) else None


def _instruction(function: Any, name: str) -> None:
    """Define a function of one vector that is an instruction of the processor."""

    @intrinsic
    def apply(typing_context: Any, x: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (value,) = arguments
            kind = ir.FunctionType(value.type, [value.type])
            full = f"llvm.{name}.v{x.lanes}f32"
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), [value])

        return x(x), generate

    @overload(function, strict=False)
    def overloaded(x: Any) -> Any:
        return (lambda x: apply(x)) if isinstance(x, VectorType) else None


_instruction(sqrt, "sqrt")
_instruction(abs, "fabs")


@intrinsic
def _lane(typing_context: Any, x: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.extract_element(*arguments)

    return types.float32(x, types.intp), generate


@inlined
def lane_of(x: Any, index: Any) -> Any:
    """One lane of a vector."""
    return _lane(x, index)


@intrinsic
def _with_lane(typing_context: Any, x: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, place, element = arguments
        return builder.insert_element(vector, element, place)

    return x(x, types.intp, types.float32), generate


def _lane_by_lane(function: Any) -> None:
    """Define a function of vectors by the one of numbers."""

    @overload(function, strict=False)
    def of_one(x: Any) -> Any:
        if not isinstance(x, VectorType):
            return None
        lanes = x.lanes

        def loop(x: Any) -> Any:
            y = x
            for k in range(lanes):
                y = _with_lane(y, k, float32(function(_lane(x, k))))
            return y

        return loop


for _function in (expm1, log, log1p, erf):
    _lane_by_lane(_function)


@intrinsic
def _rounded(typing_context: Any, x: Any) -> Any:
    """To the nearest integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(arguments[0].type, [arguments[0].type])
        name = f"llvm.rint.v{x.lanes}f32"
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    return x(x), generate


@intrinsic
def _power_of_two(typing_context: Any, x: Any) -> Any:
    """2 to the power of an integer from −126 to 127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(ir.IntType(32), x.lanes)
        exponent = builder.fptosi(arguments[0], integers)
        biased = builder.add(exponent, ir.Constant(integers, [127] * x.lanes))
        bits = builder.shl(biased, ir.Constant(integers, [23] * x.lanes))
        return builder.bitcast(bits, arguments[0].type)

    return x(x), generate


@inlined
def _vector_exp(x: Any) -> Any:
    # exp(x) = 2ⁿ·exp(r) with |r| ≤ ln 2 / 2, where a polynomial is right to a unit in the last
    # place (the coefficients are those of Cephes' expf).
    low, high = float32(-104.0), float32(89.0)
    bounded = select(x < low, low, select(x > high, high, x))
    n = _rounded(bounded * float32(1.44269504088896341))
    r = bounded - n * float32(0.693359375) - n * float32(-2.12194440e-4)
    p = r * float32(1.9875691500e-4) + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    # Halves of n are exponents of float32 where n itself is not.
    half = _rounded(n * float32(0.5))
    y = (p * (r * r) + r + float32(1.0)) * _power_of_two(half) * _power_of_two(n - half)
    return select(x == x, y, x)


@inlined
def _vector_tanh(x: Any) -> Any:
    # x·P(x²)/Q(x²), fitted for the least relative error, 6e-9, up to where tanh is 1 − 3e-7.
    low, high = float32(-7.9), float32(7.9)
    a = select(x < low, low, select(x > high, high, x))
    s = a * a
    p = s * float32(1.5427827904e-8) + float32(2.2023154088e-5)
    p = p * s + float32(3.5789869726e-3)
    p = p * s + float32(1.3450616598e-1)
    q = s * float32(8.5987250031e-7) + float32(3.4236419015e-4)
    q = q * s + float32(2.6192219928e-2)
    q = q * s + float32(4.6783944964e-1)
    y = a * (p * s + float32(1.0)) / (q * s + float32(1.0))
    return select(x == x, y, x)


@overload(exp, strict=False)
def _exp(x: Any) -> Any:
    return (lambda x: _vector_exp(x)) if isinstance(x, VectorType) else None


@overload(tanh, strict=False)
def _tanh(x: Any) -> Any:
    return (lambda x: _vector_tanh(x)) if isinstance(x, VectorType) else None


@intrinsic
def _scaled(typing_context: Any, y: Any, n: Any) -> Any:
    """y·2ⁿ for an integer n that was rounded by adding 1.5·2²³: it is in the lowest bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integers = ir.VectorType(ir.IntType(32), y.lanes)
        bits, number = (builder.bitcast(a, integers) for a in arguments)
        exponent = builder.shl(number, ir.Constant(integers, [23] * y.lanes))
        return builder.bitcast(builder.add(bits, exponent), arguments[0].type)

    return y(y, n), generate


@inlined
def logistic(x: Any) -> Any:
    """1 / (1 + exp(−x)) of a vector."""
    # As _vector_exp of −x, but where that leaves the normal numbers the result is 0 or 1 anyway.
    low, high, rounder = float32(-87.0), float32(87.0), float32(12582912.0)
    a = select(x < low, low, select(x > high, high, x))
    t = a * float32(-1.44269504088896341) + rounder
    n = t - rounder
    r = float32(0.0) - (a + n * float32(0.693359375) + n * float32(-2.12194440e-4))
    p = r * float32(1.9875691500e-4) + float32(1.3981999507e-3)
    p = p * r + float32(8.3334519073e-3)
    p = p * r + float32(4.1665795894e-2)
    p = p * r + float32(1.6666665459e-1)
    p = p * r + float32(5.0000001201e-1)
    y = float32(1.0) / (float32(1.0) + _scaled(p * (r * r) + r + float32(1.0), t))
    return select(x == x, y, x)


def _number(x: Any, lane: Any) -> Any:
    """A lane of a vector, or the number itself."""
    raise NotImplementedError


@overload(_number, strict=False)
def _number_of(x: Any, lane: Any) -> Any:
    return (lambda x, lane: _lane(x, lane)) if isinstance(x, VectorType) else lambda x, lane: x


@overload(operator.pow, strict=False)
def _power(x: Any, y: Any) -> Any:
    vector = x if isinstance(x, VectorType) else y
    if not isinstance(vector, VectorType):
        return None
    lanes = vector.lanes

    def loop(x: Any, y: Any) -> Any:
        z = x + y
        for k in range(lanes):
            z = _with_lane(z, k, float32(_number(x, k) ** _number(y, k)))
        return z

    return loop


def vectors(lanes: int) -> tuple[Any, ...]:
    """The functions that make vectors of so many lanes and store them."""
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
    def store(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
        """Write the lanes at consecutive positions."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments[:2])
            builder.store(arguments[2], builder.bitcast(place, register.as_pointer()), align=4)
            return context.get_dummy_value()

        return types.void(pointer, types.intp, value), generate

    @intrinsic
    def wide(typing_context: Any, number: Any) -> Any:
        """A number in every lane; a vector as it is."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _widened(context, builder, arguments[0], number, vector)

        return vector(number), generate

    @intrinsic
    def splat(typing_context: Any, pointer: Any, index: Any) -> Any:
        """One element in every lane."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            element = builder.load(_at(context, builder, *arguments))
            return _in_every_lane(builder, element, lanes)

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

    def mask(builder: Any, count: Any, lanes: int) -> Any:
        """True in the first ``count`` lanes."""
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), lanes), list(range(lanes)))
        return builder.icmp_signed("<", numbers, _in_every_lane(builder, count, lanes))

    def first_of(builder: Any, place: Any, lanes: int, count: Any) -> Any:
        """The first ``count`` of so many lanes there, zeros in the others."""
        register = ir.VectorType(ir.FloatType(), lanes)
        bits = ir.VectorType(ir.IntType(1), lanes)
        kind = ir.FunctionType(register, [register.as_pointer(), ir.IntType(32), bits, register])
        name = f"llvm.masked.load.v{lanes}f32.p0"
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        address = builder.bitcast(place, register.as_pointer())
        align = ir.Constant(ir.IntType(32), 4)
        zeros = ir.Constant(register, [0.0] * lanes)
        return builder.call(function, [address, align, mask(builder, count, lanes), zeros])

    bits = ir.VectorType(ir.IntType(1), lanes)

    @intrinsic
    def load_first(typing_context: Any, pointer: Any, index: Any, count: Any) -> Any:
        """The first ``count`` lanes at consecutive positions, zeros in the others."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments[:2])
            return first_of(builder, place, lanes, arguments[2])

        return vector(pointer, types.intp, types.intp), generate

    @intrinsic
    def store_first(typing_context: Any, pointer: Any, index: Any, value: Any, count: Any) -> Any:
        """Write the first ``count`` lanes at consecutive positions."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments[:2])
            address = builder.bitcast(place, register.as_pointer())
            kind = ir.FunctionType(
                ir.VoidType(), [register, register.as_pointer(), ir.IntType(32), bits]
            )
            name = f"llvm.masked.store.v{lanes}f32.p0"
            function = cgutils.get_or_insert_function(builder.module, kind, name)
            align = ir.Constant(ir.IntType(32), 4)
            builder.call(
                function, [arguments[2], address, align, mask(builder, arguments[3], lanes)]
            )
            return context.get_dummy_value()

        return types.void(pointer, types.intp, value, types.intp), generate

    @intrinsic
    def gather(typing_context: Any, pointer: Any, index: Any, step: Any) -> Any:
        """The lanes at positions ``step`` apart."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, at, distance = arguments
            value = ir.Constant(register, ir.Undefined)
            for k in range(lanes):
                element = builder.load(_at(context, builder, base, at))
                value = builder.insert_element(value, element, ir.Constant(ir.IntType(32), k))
                at = builder.add(at, distance)
            return value

        return vector(pointer, types.intp, types.intp), generate

    @intrinsic
    def gather_first(typing_context: Any, pointer: Any, index: Any, step: Any, count: Any) -> Any:
        """The first ``count`` lanes at positions ``step`` apart, the last of them in the others."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, start, distance, most = arguments
            value = ir.Constant(register, ir.Undefined)
            last = builder.sub(most, ir.Constant(most.type, 1))
            for k in range(lanes):
                number = ir.Constant(most.type, k)
                number = builder.select(builder.icmp_signed("<", number, last), number, last)
                at = builder.add(start, builder.mul(number, distance))
                element = builder.load(_at(context, builder, base, at))
                value = builder.insert_element(value, element, ir.Constant(ir.IntType(32), k))
            return value

        return vector(pointer, types.intp, types.intp, types.intp), generate

    @intrinsic
    def total_of(typing_context: Any, x: Any) -> Any:
        """The sum of the lanes, in pairs: halves are added until one is left."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            (value,) = arguments
            width = lanes
            while width > 1:
                width //= 2
                low, high = (
                    ir.Constant(ir.VectorType(ir.IntType(32), width), [*range(a, a + width)])
                    for a in (0, width)
                )
                halves = (builder.shuffle_vector(value, value, part) for part in (low, high))
                value = builder.fadd(*halves)
            return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

        return types.float32(x), generate

    @intrinsic
    def store_totals(
        typing_context: Any, pointer: Any, index: Any, a: Any, b: Any, c: Any, d: Any
    ) -> Any:
        """Write the sums of the lanes of four vectors, each in pairs as `total_of` does."""

        def parts(builder: Any, x: Any, y: Any, groups: int) -> Any:
            """The halves of all groups of lanes of both vectors, added."""
            count = 2 * x.type.count if y is not x else x.type.count
            each = count // groups
            firsts = [g * each + k for g in range(groups) for k in range(each // 2)]
            numbers = ir.VectorType(ir.IntType(32), len(firsts))
            halves = (
                builder.shuffle_vector(x, y, ir.Constant(numbers, [k + start for k in firsts]))
                for start in (0, each // 2)
            )
            return builder.fadd(*halves)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, at, *(vectors) = arguments
            pairs = [parts(builder, vectors[k], vectors[k + 1], 2) for k in (0, 2)]
            value = parts(builder, pairs[0], pairs[1], 4)
            while value.type.count > 4:
                value = parts(builder, value, value, 4)
            place = builder.bitcast(_at(context, builder, base, at), value.type.as_pointer())
            builder.store(value, place, align=4)
            return context.get_dummy_value()

        return types.void(pointer, types.intp, *[vector] * 4), generate

    half = max(lanes // 2, 1)
    halves = ir.VectorType(ir.FloatType(), half)

    def again(builder: Any, value: Any) -> Any:
        """Half as many lanes in both halves."""
        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [k % half for k in range(lanes)])
        return builder.shuffle_vector(value, ir.Constant(halves, ir.Undefined), mask)

    @intrinsic
    def repeat(typing_context: Any, pointer: Any, index: Any) -> Any:
        """Half as many lanes at consecutive positions, in both halves."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _at(context, builder, *arguments)
            value = builder.load(builder.bitcast(place, halves.as_pointer()))
            value.align = 4
            return again(builder, value)

        return vector(pointer, types.intp), generate

    @intrinsic
    def repeat_first(typing_context: Any, pointer: Any, index: Any, count: Any) -> Any:
        """The first ``count`` of half as many lanes, then zeros, in both halves."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return again(
                builder,
                first_of(builder, _at(context, builder, *arguments[:2]), half, arguments[2]),
            )

        return vector(pointer, types.intp, types.intp), generate

    def side_by_side(builder: Any, former: Any, latter: Any) -> Any:
        """One number in the lanes of the first half, another in those of the second."""
        kept = ir.Constant(bits, [k < half for k in range(lanes)])
        numbers = (_in_every_lane(builder, x, lanes) for x in (former, latter))
        return builder.select(kept, *numbers)

    @intrinsic
    def pair(typing_context: Any, pointer: Any, index: Any, other: Any) -> Any:
        """One element in the lanes of the first half, another in those of the second."""

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            base, *indices = arguments
            elements = [builder.load(_at(context, builder, base, k)) for k in indices]
            return side_by_side(builder, *elements)

        return vector(pointer, types.intp, types.intp), generate

    def beside_zero(second: bool) -> Any:
        @intrinsic
        def one(typing_context: Any, pointer: Any, index: Any) -> Any:
            """One element in the lanes of a half, zeros in the other."""

            def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                element = builder.load(_at(context, builder, *arguments))
                elements = [element, ir.Constant(ir.FloatType(), 0.0)]
                return side_by_side(builder, *(reversed(elements) if second else elements))

            return vector(pointer, types.intp), generate

        return one

    return (
        *(load, load_first, gather, gather_first, splat, zero, wide, fma),
        *(store, store_first, total_of, store_totals),
        *(repeat, repeat_first, pair, beside_zero(second=False), beside_zero(second=True)),
    )


@intrinsic
def prefetch(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Have the cache line of an element brought near; it may lie outside the buffer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Not `inbounds`: the line may be anywhere.
        place = builder.gep(arguments[0], [arguments[1]])
        address, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address, number, number, number])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        reading, nearest, data = (ir.Constant(number, k) for k in (0, 3, 1))
        builder.call(function, [builder.bitcast(place, address), reading, nearest, data])
        return context.get_dummy_value()

    return types.void(pointer, types.intp), generate


# -- scalar functions ------------------------------------------------------------------------


@inlined
def uniform(key: Any, index: Any) -> Any:
    """A uniform number in [0, 1) from a key and a counter; see ops.expressions.uniform."""
    x = uint32(index) * uint32(0x9E3779B1)
    x = uint32(x ^ uint32(key))
    for _ in range(2):
        x = uint32(uint32(x ^ (x >> uint32(16))) * uint32(0x7FEB352D))
        x = uint32(uint32(x ^ (x >> uint32(15))) * uint32(0x846CA68B))
        x = uint32(x ^ (x >> uint32(16)))
    return float32(x >> uint32(8)) / float32(16777216.0)


# -- threads -----------------------------------------------------------------------------------


@intrinsic
def call(typing_context: Any, kernel: Any, table: Any, begin: Any, end: Any, part: Any) -> Any:
    """Call a kernel by its address."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer = ir.IntType(64)
        pointer = context.get_value_type(INTS)
        kind = ir.FunctionType(ir.VoidType(), [pointer, integer, integer, integer])
        function = builder.inttoptr(values[0], kind.as_pointer())
        builder.call(function, [builder.inttoptr(values[1], pointer), *values[2:]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), generate


@intrinsic
def system(typing_context: Any, function: Any, file: Any, address: Any, count: Any) -> Any:
    """Call a function of the C library by its address: (int, void *, size_t) → ssize_t."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        integer, pointer = ir.IntType(64), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(integer, [ir.IntType(32), pointer, integer])
        called = builder.inttoptr(values[0], kind.as_pointer())
        descriptor = builder.trunc(values[1], ir.IntType(32))
        return builder.call(called, [descriptor, builder.inttoptr(values[2], pointer), values[3]])

    return types.int64(*[types.int64] * 4), generate


@intrinsic
def atomic_load(typing_context: Any, pointer: Any, index: Any) -> Any:
    """Read an element that other threads write."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.load_atomic(_at(context, builder, *values), "seq_cst", 8)

    return types.int64(pointer, types.intp), generate


@intrinsic
def atomic_store(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Write an element that other threads read, after everything written before."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        builder.store_atomic(values[2], _at(context, builder, *values[:2]), "seq_cst", 8)
        return context.get_dummy_value()

    return types.void(pointer, types.intp, types.int64), generate


def _exchange(operation: str) -> Any:
    @intrinsic
    def exchange(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            place = _at(context, builder, *values[:2])
            return builder.atomic_rmw(operation, place, values[2], "seq_cst")

        return types.int64(pointer, types.intp, types.int64), generate

    return exchange


atomic_add = _exchange("add")
"""Add to an element and return what it was, as one action."""
atomic_swap = _exchange("xchg")
"""Write an element and return what it was, as one action."""


@intrinsic
def relax(typing_context: Any) -> Any:
    """Tell the processor that this thread waits for another."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        none, number = ir.VoidType(), ir.IntType(32)
        if builder.module.triple.startswith(("x86_64", "i686")):
            kind = ir.FunctionType(none, [])
            pause = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause")
            builder.call(pause, [])
        elif builder.module.triple.startswith(("aarch64", "arm64")):
            # Where `yield` does nothing; this takes about as long as the other's pause.
            kind = ir.FunctionType(none, [number])
            barrier = cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.isb")
            builder.call(barrier, [ir.Constant(number, 15)])
        return context.get_dummy_value()

    return types.void(), generate


__all__ = [
    "FLOATS",
    "INTS",
    "SIGNATURE",
    "atomic_add",
    "atomic_load",
    "atomic_store",
    "atomic_swap",
    "call",
    "erf",
    "exp",
    "expm1",
    "float32",
    "floats",
    "inf",
    "inlined",
    "int64",
    "ints",
    "lane_of",
    "log",
    "log1p",
    "logistic",
    "prefetch",
    "relax",
    "select",
    "sqrt",
    "system",
    "tanh",
    "uniform",
    "vectors",
]
