"""What kernels call: the instructions of `convdsl.runtime.cuda_native`, on vectors of threads.

`INSTRUCTIONS` take the execution first and the line last; `SCALARS` are functions of numbers alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import numpy as np

from emulator import fragments
from emulator.activity import Array, negated, poison, truth
from emulator.errors import EmulationError
from emulator.execution import WARP, Execution, per_warp
from emulator.memory import (
    BLANK,
    Local,
    Pointer,
    as_float32,
    atomic_add,
    banked,
    located,
    neighbours,
    note,
    put,
    store_neighbours,
    store_pairs,
)
from emulator.narrow import packed
from emulator.races import READ, WRITE

# -- memory ----------------------------------------------------------------------------------


def floats(run: Execution, address: Pointer, line: int) -> Pointer:
    """A buffer of float32 at an address."""
    return address.typed("float32")


def ints(run: Execution, address: Pointer, line: int) -> Pointer:
    """A buffer of int64 at an address."""
    return address.typed("int64")


def halves(run: Execution, address: Pointer, line: int) -> Pointer:
    """A buffer of float16 at an address."""
    return address.typed("float16")


def bfloats(run: Execution, address: Pointer, line: int) -> Pointer:
    """A buffer of bfloat16 at an address."""
    return address.typed("bfloat16")


def shared_floats(run: Execution, count: int, name: str, line: int) -> Pointer:
    """So many float32 that the threads of a block share."""
    return run.share(name, "float32", count, line)


def shared_bits16(run: Execution, count: int, name: str, line: int) -> Pointer:
    """So many float16 or bfloat16 that the threads of a block share."""
    return run.share(name, "uint16", count, line)


def local_floats(run: Execution, count: int, name: str, line: int) -> Local:
    """So many float32 of a thread's own."""
    return Local(name, count)


# -- barriers --------------------------------------------------------------------------------


def syncthreads(run: Execution, line: int) -> None:
    """A barrier of the threads of a block that have not returned."""
    participants = run.together(run.row, "a barrier of the block", line)
    for log in run.all_logs:
        log.block_barrier(participants)


def syncwarp(run: Execution, mask: Any = 0xFFFFFFFF, *, line: int) -> None:
    """A barrier of the threads of a warp that have not returned."""
    _members(run, mask, "a barrier of the warp", line)
    participants = None if run.mask is None else run.active(run.mask)
    for log in run.all_logs:
        log.warp_barrier(participants)


# -- shuffles --------------------------------------------------------------------------------


def shfl_down_sync(run: Execution, mask: Any, value: Any, delta: Any, line: int) -> Any:
    """The value of the thread ``delta`` further in the warp, or the own where there is none."""
    source = run.lane + delta
    return _shuffle(run, mask, value, np.where(source < WARP, source, run.lane), line)


def shfl_up_sync(run: Execution, mask: Any, value: Any, delta: Any, line: int) -> Any:
    """The value of the thread ``delta`` before in the warp, or the own where there is none."""
    source = run.lane - delta
    return _shuffle(run, mask, value, np.where(source >= 0, source, run.lane), line)


def shfl_xor_sync(run: Execution, mask: Any, value: Any, lane_mask: Any, line: int) -> Any:
    """The value of the thread whose number in the warp differs in the bits of ``lane_mask``."""
    return _shuffle(run, mask, value, np.bitwise_xor(run.lane, lane_mask) % WARP, line)


def shfl_sync(run: Execution, mask: Any, value: Any, lane: Any, line: int) -> Any:
    """The value of a thread of the warp."""
    return _shuffle(run, mask, value, np.remainder(lane, WARP), line)


def _shuffle(run: Execution, mask: Any, value: Any, source: Any, line: int) -> Any:
    active = _members(run, mask, "a shuffle", line)
    rows, source = per_warp(value, run), per_warp(source, run)
    found = np.take_along_axis(rows, source, axis=1)
    there = np.take_along_axis(active, source, axis=1)
    # What a thread that takes no part would have given is undefined.
    return np.where(there, found, poison(rows)).reshape(-1)


def _members(run: Execution, mask: Any, what: str, line: int) -> Array:
    """The active threads by warp, which must be those that the mask names and that still run."""
    active = per_warp(run.active(run.mask), run)
    named = (per_warp(mask, run) >> per_warp(run.lane, run)) & 1 == 1
    uninvited = active & ~named
    if uninvited.any():
        thread = run.who(int(np.flatnonzero(uninvited)[0]))
        raise EmulationError(f"{run.at(line)}: {thread} is at {what} whose mask leaves it out")
    live = per_warp(run.active(run.live), run)
    absent = active.any(axis=1, keepdims=True) & named & live & ~active
    if absent.any():
        thread = run.who(int(np.flatnonzero(absent)[0]))
        raise EmulationError(
            f"{run.at(line)}: the mask of {what} names {thread}, which is not there"
        )
    return active


# -- matrices --------------------------------------------------------------------------------


def _mma(name: str, format: fragments.Format) -> Callable[..., Any]:
    def mma(run: Execution, *registers: Any, line: int) -> tuple[Array, ...]:
        run.together(WARP, name, line, exited=False)
        a, b, c = registers[:4], registers[4:6], registers[6:]
        packed = [_register(run, r, name, line) for r in (*a, *b)]
        sums = [np.ascontiguousarray(per_warp(as_float32(r), run)) for r in c]
        found = fragments.product(format, packed[:4], packed[4:], sums)
        return tuple(d.reshape(-1) for d in found)

    return mma


def _register(run: Execution, value: Any, name: str, line: int) -> Array:
    if isinstance(value, (float, np.floating)) or np.asarray(value).dtype.kind == "f":
        raise EmulationError(f"{run.at(line)}: {name} takes registers of bits, not float32")
    return np.ascontiguousarray(per_warp(value, run)).astype(np.uint32)


def _ldmatrix(count: int, transposed: bool) -> Callable[..., Any]:
    name = f"ldmatrix_x{count}" + ("_trans" if transposed else "")

    def ldmatrix(run: Execution, pointer: Pointer, index: Any, line: int) -> tuple[Array, ...]:
        run.together(WARP, name, line, exited=False)
        _require_shared(run, pointer, name, line)
        halves = pointer.items.itemsize // 2
        # The first threads of a warp give the addresses of rows of 16 bytes.
        outer = run.mask
        run.mask = run.active(outer) & (run.lane < 8 * count)
        at = located(run, pointer, index, 8 // halves, line)
        banked(run, pointer, at, 8 // halves, line)
        run.mask = outer
        rows = per_warp(at, run) * halves
        bits = pointer.items.view(np.uint16)
        return tuple(
            matrix(run, pointer, bits, rows[:, 8 * k : 8 * k + 8], line) for k in range(count)
        )

    def matrix(run: Execution, pointer: Pointer, bits: Array, rows: Array, line: int) -> Array:
        # Two neighbours of a row, or of a column of the matrix.
        if transposed:
            pair = [rows[:, 2 * fragments.MEMBER + k] + fragments.GROUP for k in range(2)]
        else:
            pair = [rows[:, fragments.GROUP] + 2 * fragments.MEMBER + k for k in range(2)]
        low, high = (at.reshape(-1) for at in pair)
        for at in (low, high):
            note(run, pointer, READ, at // (pointer.items.itemsize // 2), 1, line)
        return bits[low].astype(np.uint32) | bits[high].astype(np.uint32) << np.uint32(16)

    return ldmatrix


def _require_shared(run: Execution, pointer: Any, name: str, line: int) -> None:
    if not isinstance(pointer, Pointer) or pointer.space != "shared":
        raise EmulationError(f"{run.at(line)}: {name} works on shared memory alone")


# -- asynchronous copies ---------------------------------------------------------------------


class Copies:
    """What is under way into shared memory, and how many groups every thread has committed."""

    def __init__(self, threads: int) -> None:
        self.groups = np.zeros(threads, np.int64)
        self.pending: list[Copy] = []


class Copy:
    """An access's worth of data for every thread of ``left``; ``group`` is -1 until committed."""

    def __init__(self, target: Pointer, at: Array, data: Array, left: Array) -> None:
        self.target = target
        self.at = at
        self.data = data
        self.left = left
        self.group = np.full(len(left), -1)


def _copy_async(name: str, bytes: int, counted: bool = False) -> Callable[..., Any]:
    """Copies of so many bytes, where a condition holds; or of a count of its elements."""

    def copy_async(
        run: Execution,
        target: Pointer,
        at: Any,
        source: Pointer,
        place: Any,
        inside: Any = True,
        *,
        line: int,
    ) -> None:
        _require_shared(run, target, name, line)
        width = bytes // target.items.itemsize
        count = np.where(np.equal(inside, True), width, 0)
        if counted:
            count, inside = inside, np.greater(inside, 0)
        to = np.broadcast_to(located(run, target, at, width, line), run.threads)
        note(run, target, WRITE, to, width, line)
        banked(run, target, to, width, line)
        data = np.zeros((width, run.threads), target.items.dtype)
        branch = run.branch(inside)
        if run.then(branch):
            of = located(run, source, place, width, line)
            note(run, source, READ, of, width, line)
            for k in range(width):
                there = np.where(np.less(k, count), source.items[of + k], 0)
                put(run, data[k], np.arange(run.threads), there)
        run.join(branch)
        # Until it is waited for, nobody can tell what is there.
        for k in range(width):
            put(run, target.items, to + k, BLANK[target.items.dtype.name])
        copies = _copies(run)
        copies.pending.append(Copy(target, to, data, run.active(run.mask).copy()))

    return copy_async


def copy_async_commit(run: Execution, line: int) -> None:
    """End a group of copies."""
    copies = _copies(run)
    active = run.active(run.mask)
    for copy in copies.pending:
        chosen = active & copy.left & (copy.group < 0)
        copy.group[chosen] = copies.groups[chosen]
    copies.groups[active] += 1


def copy_async_wait(run: Execution, groups: int, line: int) -> None:
    """Wait until all but the latest so many groups of the thread's copies have arrived."""
    copies = _copies(run)
    arrived = copies.groups - groups
    active = run.active(run.mask)
    outer = run.mask
    for copy in copies.pending:
        run.mask = active & copy.left & (copy.group >= 0) & (copy.group < arrived)
        copy.left &= ~run.mask
        note(run, copy.target, WRITE, copy.at, len(copy.data), line)
        for k, values in enumerate(copy.data):
            put(run, copy.target.items, copy.at + k, values)
    run.mask = outer
    copies.pending = [copy for copy in copies.pending if copy.left.any()]


def _copies(run: Execution) -> Copies:
    if run.copies is None:
        run.copies = Copies(run.threads)
    return run.copies


# -- numbers ---------------------------------------------------------------------------------


def to_tf32(x: Any) -> Any:
    """A float32 rounded to tf32, ties away from zero, as a register."""
    bits = np.asarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
    return np.where(np.isfinite(x), rounded, bits)[()]


def quotient(run: Execution, a: Any, b: Any, line: int) -> Any:
    """a // b for 0 ≤ a < 2³¹ and 0 < b < 2³¹."""
    limit = 2**31
    wrong = reduce(
        np.logical_or,
        (np.less(a, 0), np.greater_equal(a, limit), np.less(b, 1), np.greater_equal(b, limit)),
    )
    threads = np.flatnonzero(np.logical_and(wrong, run.active(run.mask)))
    if len(threads):
        left, right = (np.broadcast_to(v, run.threads)[threads[0]] for v in (a, b))
        raise EmulationError(
            f"{run.at(line)}: quotient of {left} and {right}, which does not fit into 32 bits, "
            f"in {run.who(threads[0])}"
        )
    return a // np.where(np.equal(b, 0), 1, b) if isinstance(b, Array) else a // b


def _converted(dtype: type[np.generic], x: Any) -> Any:
    return x.astype(dtype) if isinstance(x, Array) else dtype(x)


def _whole(x: Any) -> Any:
    # Sums and products of integers have 64 bits, of whatever size they are.
    return x.astype(np.int64) if isinstance(x, Array) else int(x)


def _word(x: Any) -> Any:
    return x.astype(np.uint32) if isinstance(x, Array) else np.uint32(int(x) & 0xFFFFFFFF)


def _erf(x: Any) -> Any:
    if not isinstance(x, Array):
        return np.float32(math.erf(x))
    return np.fromiter(map(math.erf, x.tolist()), np.float32, len(x))


def _extreme(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *values: reduce(function, values)


# -- conditions ------------------------------------------------------------------------------


def both(left: Any, right: Any) -> Any:
    """``left and right``, on conditions."""
    if isinstance(left, Array) or isinstance(right, Array):
        return np.logical_and(left, right)
    return left and right


def either(left: Any, right: Any) -> Any:
    """``left or right``, on conditions."""
    if isinstance(left, Array) or isinstance(right, Array):
        return np.logical_or(left, right)
    return left or right


def select(test: Any, then: Any, otherwise: Any) -> Any:
    """``then if test else otherwise``."""
    if isinstance(test, Array):
        return np.where(truth(test), then, otherwise)
    return then if test else otherwise


def both_in_turn(run: Execution, left: Any, right: Callable[[], Any]) -> Any:
    """``left and right()``: the second only in the threads for which the first holds."""
    return choose(run, left, right, lambda: False)


def either_in_turn(run: Execution, left: Any, right: Callable[[], Any]) -> Any:
    """``left or right()``: the second only in the threads for which the first does not hold."""
    return choose(run, left, lambda: True, right)


def choose(run: Execution, test: Any, then: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
    """``then() if test else otherwise()``, each only in the threads that want it."""
    if not isinstance(test, Array):
        return then() if test else otherwise()
    branch = run.branch(test)
    results = [
        value() for enter, value in ((run.then, then), (run.otherwise, otherwise)) if enter(branch)
    ]
    run.join(branch)
    if len(results) == 2:
        return np.where(truth(test), *results)
    return results[0] if results else otherwise()


INSTRUCTIONS: dict[str, Callable[..., Any]] = {
    "floats": floats,
    "ints": ints,
    "halves": halves,
    "bfloats": bfloats,
    "shared_floats": shared_floats,
    "shared_halves": shared_bits16,
    "shared_bfloats": shared_bits16,
    "local_floats": local_floats,
    "load2": neighbours(2),
    "load4": neighbours(4),
    "store2": store_neighbours,
    "store4": store_neighbours,
    "store_pair": store_pairs,
    "store_pairs": store_pairs,
    "atomic_add": atomic_add,
    "cuda.syncthreads": syncthreads,
    "cuda.syncwarp": syncwarp,
    "cuda.shfl_sync": shfl_sync,
    "cuda.shfl_up_sync": shfl_up_sync,
    "cuda.shfl_down_sync": shfl_down_sync,
    "cuda.shfl_xor_sync": shfl_xor_sync,
    "mma_tf32_m16n8k8": _mma("mma_tf32_m16n8k8", fragments.TF32),
    "mma_f16_m16n8k16": _mma("mma_f16_m16n8k16", fragments.FLOAT16),
    "mma_bf16_m16n8k16": _mma("mma_bf16_m16n8k16", fragments.BFLOAT16),
    "ldmatrix_x2": _ldmatrix(2, False),
    "ldmatrix_x2_trans": _ldmatrix(2, True),
    "ldmatrix_x4": _ldmatrix(4, False),
    "ldmatrix_x4_trans": _ldmatrix(4, True),
    "copy_async4": _copy_async("copy_async4", 4),
    "copy_async16": _copy_async("copy_async16", 16),
    "copy_lanes4": _copy_async("copy_lanes4", 8, counted=True),
    "copy_lanes8": _copy_async("copy_lanes8", 16, counted=True),
    "copy_async_commit": copy_async_commit,
    "copy_async_wait": copy_async_wait,
    "quotient": quotient,
}
"""By the name in kernels."""
NAMED = ("shared_floats", "shared_halves", "shared_bfloats", "local_floats")
"""Those that are told what their result is called."""
STORES = ("store2", "store4", "store_pair", "store_pairs", "atomic_add")
"""Those that write through their first argument."""
SCALARS: dict[str, Any] = {
    "abs": np.abs,
    "min": _extreme(np.minimum),
    "max": _extreme(np.maximum),
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "tanh": np.tanh,
    "erf": _erf,
    "inf": math.inf,
    "float32": lambda x: _converted(np.float32, x),
    "int": _whole,
    "int32": lambda x: (_whole(x) + 2**31) % 2**32 - 2**31,
    "int64": _whole,
    "uint32": _word,
    "bool": lambda x: negated(negated(x)),
    "to_tf32": to_tf32,
    "pack_half2": partial(packed, "float16"),
    "pack_bfloat2": partial(packed, "bfloat16"),
}
"""By the name in kernels."""
