"""What rendered CUDA kernels are written with: typed pointers, shared memory, instructions.

Everything that numba-cuda does not offer is an intrinsic here and nowhere else. Buffers arrive as
addresses, for an array argument costs five parameters and more; indices are never negative.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from math import erf, exp, expm1, inf, log, log1p, sqrt, tanh
from typing import Any

from llvmlite import ir
from numba import cuda, float32, int64, types, uint32

# The public decorator has no `prefer_literal`, by which a count reaches an intrinsic as a number.
from numba.cuda import cudadecl, cudaimpl
from numba.cuda.extending import _intrinsic, core_models, intrinsic, register_model
from numba.cuda.typing.templates import AbstractTemplate

GLOBAL, SHARED = 1, 3
"""Address spaces of NVVM."""
FLOATS = types.CPointer(types.float32)
INTS = types.CPointer(types.int64)
HALVES = types.CPointer(types.uint16)
"""Elements of 16 bits, float16 or bfloat16: what they are, the instruction that reads them says."""


class Narrow(types.Type):  # type: ignore[misc]
    """A pointer to float32 that are kept in 16 bits: rounded when stored, exact when loaded.

    ``kind`` is ``bf16`` or ``f16``, as PTX calls them.
    """

    dtype = types.uint16

    def __init__(self, kind: str) -> None:
        self.kind = kind
        super().__init__(f"{kind}*")


register_model(Narrow)(core_models.PointerModel)
BFLOAT16, FLOAT16 = Narrow("bf16"), Narrow("f16")
LLVM = {
    FLOATS: ir.FloatType(),
    INTS: ir.IntType(64),
    HALVES: ir.IntType(16),
    BFLOAT16: ir.IntType(16),
    FLOAT16: ir.IntType(16),
}
ALIGNMENT = 16
"""Bytes: shared memory serves the widest access."""


# -- memory ----------------------------------------------------------------------------------


def _buffer(pointer: types.Type) -> Any:
    @intrinsic
    def buffer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            # By way of global memory, so that NVVM need not wonder which memory it is.
            at = builder.inttoptr(arguments[0], ir.PointerType(LLVM[pointer], GLOBAL))
            return builder.addrspacecast(at, context.get_value_type(pointer))

        return pointer(types.int64), generate

    return buffer


floats = _buffer(FLOATS)
"""A buffer of float32 at an address."""
ints = _buffer(INTS)
"""A buffer of int64 at an address."""
bfloats = _buffer(BFLOAT16)
"""A buffer of bfloat16 at an address, which kernels see as float32."""
halves = _buffer(FLOAT16)
"""A buffer of float16 at an address, which kernels see as float32."""


def _shared(pointer: types.Type) -> Any:
    @_intrinsic(prefer_literal=True, target="cuda")
    def shared(typing_context: Any, count: Any) -> Any:
        if not isinstance(count, types.IntegerLiteral):
            return None
        kind = ir.ArrayType(LLVM[pointer], count.literal_value)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            name = builder.module.get_unique_name("shared")
            memory = ir.GlobalVariable(builder.module, kind, name, SHARED)
            memory.linkage = "internal"
            memory.align = ALIGNMENT
            memory.initializer = ir.Constant(kind, ir.Undefined)
            first = builder.bitcast(memory, ir.PointerType(LLVM[pointer], SHARED))
            return builder.addrspacecast(first, context.get_value_type(pointer))

        return pointer(count), generate

    return shared


shared_floats = _shared(FLOATS)
"""So many float32 that the threads of a block share; the count is a constant."""
shared_halves = _shared(HALVES)
"""So many float16 that the threads of a block share; written by `store_pair`."""
shared_bfloats = _shared(HALVES)
"""So many bfloat16 that the threads of a block share; written by `store_pair`."""


def _local(pointer: types.Type) -> Any:
    @_intrinsic(prefer_literal=True, target="cuda")
    def local(typing_context: Any, count: Any) -> Any:
        if not isinstance(count, types.IntegerLiteral):
            return None
        kind = ir.ArrayType(LLVM[pointer], count.literal_value)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            with builder.goto_entry_block():
                memory = builder.alloca(kind)
            return builder.bitcast(memory, context.get_value_type(pointer))

        return pointer(count), generate

    return local


local_floats = _local(FLOATS)
"""So many float32 of a thread's own: registers, where every index is known when compiled."""

_WORD = ir.IntType(32)
_HALF = ir.IntType(16)


def _element(builder: Any, pointer: Any, index: Any) -> Any:
    return builder.gep(pointer, [index], inbounds=True)


def _tuple(context: Any, builder: Any, values: Sequence[Any], kind: Any) -> Any:
    return context.make_tuple(builder, types.UniTuple(kind, len(values)), values)


def _widened(builder: Any, kind: str, bits: Any) -> Any:
    """The float32 of 16 bits."""
    if kind == "f16":
        return _assembly(builder, ir.FloatType(), [bits], "cvt.f32.f16 $0, $1;", "=f,h", pure=True)
    word = builder.shl(builder.zext(bits, _WORD), _WORD(16))
    return builder.bitcast(word, ir.FloatType())


def _packed(builder: Any, kind: str, low: Any, high: Any) -> Any:
    """Two float32 as 16 bits each in a register."""
    # The instruction wants the upper half first.
    text = f"cvt.rn.{kind}x2.f32 $0, $2, $1;"
    return _assembly(builder, _WORD, [low, high], text, "=r,f,f", pure=True)


@cudadecl.registry.register_global(operator.getitem)
class _NarrowLoad(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        pointer, index = args
        if isinstance(pointer, Narrow) and isinstance(index, types.Integer):
            return types.float32(pointer, types.int64)
        return None


@cudadecl.registry.register_global(operator.setitem)
class _NarrowStore(AbstractTemplate):  # type: ignore[misc]
    def generic(self, args: Any, kws: Any) -> Any:
        pointer, index, _ = args
        if isinstance(pointer, Narrow) and isinstance(index, types.Integer):
            return types.none(pointer, types.int64, types.float32)
        return None


@cudaimpl.registry.lower(operator.getitem, Narrow, types.Integer)
def _narrow_load(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    bits = builder.load(_element(builder, *arguments))
    return _widened(builder, signature.args[0].kind, bits)


@cudaimpl.registry.lower(operator.setitem, Narrow, types.Integer, types.Float)
def _narrow_store(context: Any, builder: Any, signature: Any, arguments: Any) -> None:
    pointer, index, value = arguments
    text = f"cvt.rn.{signature.args[0].kind}.f32 $0, $1;"
    bits = _assembly(builder, _HALF, [value], text, "=h,f", pure=True)
    builder.store(bits, _element(builder, pointer, index))


def _load(count: int) -> Any:
    @intrinsic
    def load(typing_context: Any, pointer: Any, index: Any) -> Any:
        narrow = isinstance(pointer, Narrow)
        quad = ir.VectorType(_HALF if narrow else ir.FloatType(), count)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at = builder.bitcast(_element(builder, *arguments), quad.as_pointer())
            found = builder.load(at, align=count * (2 if narrow else 4))
            values = [builder.extract_element(found, _WORD(k)) for k in range(count)]
            if narrow:
                values = [_widened(builder, pointer.kind, value) for value in values]
            return _tuple(context, builder, values, types.float32)

        return types.UniTuple(types.float32, count)(pointer, types.int64), generate

    return load


load2 = _load(2)
"""Two neighbouring float32 in one access; the index is even."""
load4 = _load(4)
"""Four neighbouring float32 in one access; the index is a multiple of 4."""


def _stored(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
    pointer, index, *values = arguments
    kind, count = signature.args[0], len(values)
    narrow = isinstance(kind, Narrow)
    if narrow:
        pairs = zip(values[::2], values[1::2], strict=True)
        values = [_packed(builder, kind.kind, *pair) for pair in pairs]
    whole = ir.VectorType(values[0].type, len(values))
    vector = ir.Constant(whole, ir.Undefined)
    for k, value in enumerate(values):
        vector = builder.insert_element(vector, value, _WORD(k))
    at = builder.bitcast(_element(builder, pointer, index), whole.as_pointer())
    builder.store(vector, at, align=count * (2 if narrow else 4))
    return context.get_dummy_value()


@intrinsic
def store2(typing_context: Any, pointer: Any, index: Any, a: Any, b: Any) -> Any:
    """Store two neighbouring float32 in one access; the index is even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _stored(context, builder, signature, arguments)

    return types.void(pointer, types.int64, *[types.float32] * 2), generate


@intrinsic
def store4(typing_context: Any, pointer: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Store four neighbouring float32 in one access; the index is a multiple of 4."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _stored(context, builder, signature, arguments)

    return types.void(pointer, types.int64, *[types.float32] * 4), generate


@intrinsic
def store_pairs(
    typing_context: Any, pointer: Any, index: Any, a: Any, b: Any, c: Any, d: Any
) -> Any:
    """Store four registers of two 16-bit elements in one access; the index is a multiple of 8."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.VectorType(_WORD, 4)
        vector = ir.Constant(whole, ir.Undefined)
        for k, value in enumerate(arguments[2:]):
            vector = builder.insert_element(vector, value, _WORD(k))
        at = builder.bitcast(_element(builder, *arguments[:2]), whole.as_pointer())
        builder.store(vector, at, align=ALIGNMENT)
        return context.get_dummy_value()

    return types.void(HALVES, types.int64, *[types.uint32] * 4), generate


@intrinsic
def store_pair(typing_context: Any, pointer: Any, index: Any, pair: Any) -> Any:
    """Store a register of two 16-bit elements; the index is even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = builder.bitcast(_element(builder, *arguments[:2]), _WORD.as_pointer())
        builder.store(arguments[2], at, align=4)
        return context.get_dummy_value()

    return types.void(HALVES, types.int64, types.uint32), generate


@intrinsic
def atomic_add(typing_context: Any, pointer: Any, index: Any, value: Any) -> Any:
    """Add to a float32 that other threads add to as well."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at = _element(builder, *arguments[:2])
        builder.atomic_rmw("fadd", at, arguments[2], "monotonic")
        return context.get_dummy_value()

    return types.void(FLOATS, types.int64, types.float32), generate


# -- instructions ----------------------------------------------------------------------------

EFFECTS = ("nounwind", "convergent")
"""Of instructions that all threads of a warp execute together."""


def _assembly(
    builder: Any,
    result: Any,
    arguments: Sequence[Any],
    text: str,
    constraints: str,
    pure: bool = False,
) -> Any:
    """Inline PTX, which is neither moved nor left out, unless it is ``pure`` arithmetic."""
    kind = ir.FunctionType(result, [a.type for a in arguments])
    code = ir.InlineAsm(kind, text, constraints, side_effect=not pure)
    return builder.call(code, arguments, attrs=(*EFFECTS, "readnone") if pure else EFFECTS)


def _shared_address(builder: Any, pointer: Any, index: Any) -> Any:
    at = _element(builder, pointer, index)
    return builder.ptrtoint(
        builder.addrspacecast(at, ir.PointerType(at.type.pointee, SHARED)), _WORD
    )


def _global_address(builder: Any, pointer: Any, index: Any) -> Any:
    at = _element(builder, pointer, index)
    narrowed = builder.addrspacecast(at, ir.PointerType(at.type.pointee, GLOBAL))
    return builder.ptrtoint(narrowed, ir.IntType(64))


def _copy(bytes: int, cached: str) -> Any:
    text = f"cp.async.{cached}.shared.global [$0], [$1], {bytes}, $2;"

    @intrinsic
    def copy(
        typing_context: Any, target: Any, at: Any, source: Any, place: Any, inside: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given = (
                _shared_address(builder, *arguments[:2]),
                _global_address(builder, *arguments[2:4]),
                builder.select(arguments[4], _WORD(bytes), _WORD(0)),
            )
            _assembly(builder, ir.VoidType(), given, text, "r,l,r,~{memory}")
            return context.get_dummy_value()

        signature = types.void(target, types.int64, source, types.int64, types.boolean)
        return signature, generate

    return copy


copy_async4 = _copy(4, "ca")
"""Copy 4 bytes into shared memory behind the thread's back; zeros where it is not ``inside``."""
copy_async16 = _copy(16, "cg")
"""Copy 16 bytes into shared memory behind the thread's back; zeros where it is not ``inside``."""


def _copy_lanes(lanes: int, cached: str) -> Any:
    text = f"cp.async.{cached}.shared.global [$0], [$1], {2 * lanes}, $2;"

    @intrinsic
    def copy(typing_context: Any, target: Any, at: Any, source: Any, place: Any, count: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            bytes = builder.shl(builder.trunc(arguments[4], _WORD), _WORD(1))
            given = (
                _shared_address(builder, *arguments[:2]),
                _global_address(builder, *arguments[2:4]),
                bytes,
            )
            _assembly(builder, ir.VoidType(), given, text, "r,l,r,~{memory}")
            return context.get_dummy_value()

        return types.void(target, types.int64, source, types.int64, types.int64), generate

    return copy


copy_lanes4 = _copy_lanes(4, "ca")
"""Copy the first ``count`` of 4 elements of 16 bits as `copy_async4` does; the others are zero."""
copy_lanes8 = _copy_lanes(8, "cg")
"""Copy the first ``count`` of 8 elements of 16 bits as `copy_async16` does; the others are zero."""


@intrinsic
def copy_async_commit(typing_context: Any) -> Any:
    """End a group of copies."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, ir.VoidType(), (), "cp.async.commit_group;", "~{memory}")
        return context.get_dummy_value()

    return types.void(), generate


@_intrinsic(prefer_literal=True, target="cuda")
def copy_async_wait(typing_context: Any, groups: Any) -> Any:
    """Wait until all but the latest so many groups of this thread's copies have arrived."""
    if not isinstance(groups, types.IntegerLiteral):
        return None
    text = f"cp.async.wait_group {groups.literal_value};"

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _assembly(builder, ir.VoidType(), (), text, "~{memory}")
        return context.get_dummy_value()

    return types.void(groups), generate


def _ldmatrix(matrices: int, transposed: str) -> Any:
    targets = ", ".join(f"${k}" for k in range(matrices))
    text = f"ldmatrix.sync.aligned.m8n8.x{matrices}{transposed}.shared.b16 "
    text += f"{{{targets}}}, [${matrices}];"
    constraints = "=r," * matrices + "r,~{memory}"

    @intrinsic
    def ldmatrix(typing_context: Any, pointer: Any, index: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.LiteralStructType([_WORD] * matrices)
            given = (_shared_address(builder, *arguments),)
            found = _assembly(builder, kind, given, text, constraints)
            values = [builder.extract_value(found, k) for k in range(matrices)]
            return _tuple(context, builder, values, types.uint32)

        return types.UniTuple(types.uint32, matrices)(pointer, types.int64), generate

    return ldmatrix


ldmatrix_x4 = _ldmatrix(4, "")
"""Four 8×8 matrices of 16 bits from shared memory; thread t gives the address of row t."""
ldmatrix_x4_trans = _ldmatrix(4, ".trans")
"""Four 8×8 matrices of 16 bits from shared memory, each transposed."""
ldmatrix_x2 = _ldmatrix(2, "")
"""Two 8×8 matrices of 16 bits from shared memory; threads 0 to 15 give the addresses of rows."""
ldmatrix_x2_trans = _ldmatrix(2, ".trans")
"""Two 8×8 matrices of 16 bits from shared memory, each transposed."""


def _mma(shape: str, element: str) -> Any:
    """D = A·B + C on a warp: A in four registers, B in two, C and D as four float32."""
    text = f"mma.sync.aligned.{shape}.row.col.f32.{element}.{element}.f32 "
    text += "{$0, $1, $2, $3}, {$4, $5, $6, $7}, {$8, $9}, {$10, $11, $12, $13};"
    constraints = ",".join(["=f"] * 4 + ["r"] * 6 + ["f"] * 4)

    @intrinsic
    def mma(
        typing_context: Any,
        a0: Any,
        a1: Any,
        a2: Any,
        a3: Any,
        b0: Any,
        b1: Any,
        c0: Any,
        c1: Any,
        c2: Any,
        c3: Any,
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            kind = ir.LiteralStructType([ir.FloatType()] * 4)
            found = _assembly(builder, kind, arguments, text, constraints, pure=True)
            values = [builder.extract_value(found, k) for k in range(4)]
            return _tuple(context, builder, values, types.float32)

        signature = types.UniTuple(types.float32, 4)(*[types.uint32] * 6, *[types.float32] * 4)
        return signature, generate

    return mma


mma_tf32_m16n8k8 = _mma("m16n8k8", "tf32")
mma_f16_m16n8k16 = _mma("m16n8k16", "f16")
mma_bf16_m16n8k16 = _mma("m16n8k16", "bf16")


@intrinsic
def to_tf32(typing_context: Any, x: Any) -> Any:
    """A float32 rounded to tf32 (8 bits of exponent, 10 of fraction), as a register."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        text = "cvt.rna.tf32.f32 $0, $1;"
        return _assembly(builder, _WORD, arguments, text, "=r,f", pure=True)

    return types.uint32(types.float32), generate


def _pack(kind: str) -> Any:
    @intrinsic
    def pack(typing_context: Any, low: Any, high: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return _packed(builder, kind, *arguments)

        return types.uint32(types.float32, types.float32), generate

    return pack


pack_half2 = _pack("f16")
"""Two float32 as two float16 in a register, the first in its lower half."""
pack_bfloat2 = _pack("bf16")
"""Two float32 as two bfloat16 in a register, the first in its lower half."""


# -- numbers ---------------------------------------------------------------------------------


@intrinsic
def quotient(typing_context: Any, a: Any, b: Any) -> Any:
    """a // b for 0 ≤ a < 2³¹ and 0 < b < 2³¹, in 32 bits, which is several times as fast."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        narrow = (builder.trunc(value, _WORD) for value in arguments)
        return builder.zext(builder.udiv(*narrow), ir.IntType(64))

    return types.int64(types.int64, types.int64), generate


def _uniform(key: Any, index: Any) -> Any:
    mask = 0xFFFFFFFF
    x = (index * 0x9E3779B1) & mask
    x = x ^ (key & mask)
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
        x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
        x = x ^ (x >> 16)
    return float32(x >> 8) / float32(16777216.0)


@intrinsic
def uniform(typing_context: Any, key: Any, index: Any) -> Any:
    """A uniform number in [0, 1) from a key and a counter; see ops.expressions.uniform."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # Not a function of `cuda.jit`, whose typing asks for the device at hand.
        return context.compile_internal(builder, _uniform, signature, arguments)

    return types.float32(types.int64, types.int64), generate


uniform.py_func = _uniform
"""The same in Python, for what runs kernels elsewhere."""


__all__ = [
    "atomic_add",
    "bfloats",
    "copy_async4",
    "copy_async16",
    "copy_async_commit",
    "copy_async_wait",
    "copy_lanes4",
    "copy_lanes8",
    "cuda",
    "erf",
    "exp",
    "expm1",
    "float32",
    "floats",
    "halves",
    "inf",
    "int64",
    "ints",
    "ldmatrix_x2",
    "ldmatrix_x2_trans",
    "ldmatrix_x4",
    "ldmatrix_x4_trans",
    "load2",
    "load4",
    "local_floats",
    "log",
    "log1p",
    "mma_bf16_m16n8k16",
    "mma_f16_m16n8k16",
    "mma_tf32_m16n8k8",
    "pack_bfloat2",
    "pack_half2",
    "quotient",
    "shared_bfloats",
    "shared_floats",
    "shared_halves",
    "sqrt",
    "store2",
    "store4",
    "store_pair",
    "store_pairs",
    "tanh",
    "to_tf32",
    "uint32",
    "uniform",
]
