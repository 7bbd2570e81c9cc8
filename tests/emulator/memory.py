"""Memory as kernels see it: typed pointers into buffers, shared memory, and a thread's own.

Every access is checked against the extent of what it points to, and where other threads may be in
its way, noted for `races`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.activity import Array
from emulator.errors import EmulationError
from emulator.narrow import NARROW, bits_of, numbers_of
from emulator.races import ATOMIC, READ, WRITE

if TYPE_CHECKING:
    from emulator.execution import Execution

BLANK = {"float32": np.nan, "int64": -(2**62), "uint16": 0x7FFF}
"""What memory holds before anybody writes it; as 16 bits a NaN in float16 and in bfloat16."""


@dataclass(frozen=True)
class Pointer:
    """A buffer of elements, one for all threads or, in shared memory, one for each block.

    ``items`` are the elements of all blocks, ``extent`` those that a thread may touch; they begin
    at ``base`` in ``items``, and what the kernel calls element 0 is number ``offset`` of them;
    None stands for 0.
    ``log`` keeps accesses, where other threads may be in the way. ``kind`` is ``float16`` or
    ``bfloat16`` where items are the bits of what kernels see as float32.
    """

    name: str
    space: str
    items: Array
    extent: int
    base: Any = None
    offset: Any = None
    log: Any = None
    kind: str = ""

    def typed(self, dtype: str) -> Pointer:
        """The same memory with elements of another type."""
        kind = dtype if dtype in NARROW else ""
        items = self.items.view("uint16" if kind else dtype)
        per_item = self.items.itemsize / items.itemsize
        offset = self.offset
        if offset is not None:
            offset = np.multiply(offset, per_item).astype(np.int64)
        log = None if self.log is None else self.log.typed(items.itemsize)
        extent = int(self.extent * per_item)
        return replace(self, items=items, extent=extent, offset=offset, log=log, kind=kind)

    def read(self, at: Any) -> Any:
        """Elements as kernels see them."""
        return numbers_of(self.kind, self.items[at])[()] if self.kind else self.items[at]

    def written(self, value: Any) -> Any:
        """What stands in memory for such a value."""
        return bits_of(self.kind, value) if self.kind else value

    def __add__(self, bytes: Any) -> Pointer:
        """An address so many bytes further."""
        if np.any(np.remainder(bytes, self.items.itemsize)):
            raise EmulationError(f"an address within an element of {self.described()}")
        more = bytes // self.items.itemsize
        return replace(self, offset=more if self.offset is None else self.offset + more)

    def described(self) -> str:
        return f"{self.space} `{self.name}`"


class Local:
    """Memory of a thread's own: a row of values, each of them a vector over the threads."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.rows: list[Any] = [np.float32(np.nan)] * count

    def described(self) -> str:
        return f"local `{self.name}`"

    def load(self, run: Execution, index: Any, line: int) -> Any:
        if type(index) is int and 0 <= index < len(self.rows):
            return self.rows[index]
        self._check(run, index, line)
        chosen = index if run.mask is None else np.where(run.mask, index, 0)
        return self._matrix(run)[chosen, np.arange(run.threads)]

    def store(self, run: Execution, index: Any, value: Any, line: int) -> None:
        value = as_float32(value)
        if type(index) is int and 0 <= index < len(self.rows):
            self.rows[index] = value if run.mask is None else run.merge(self.rows[index], value)
            return
        self._check(run, index, line)
        matrix = self._matrix(run)
        threads = np.flatnonzero(run.active(run.mask))
        matrix[index[threads], threads] = np.broadcast_to(value, run.threads)[threads]
        self.rows = list(matrix)

    def _matrix(self, run: Execution) -> Array:
        return np.stack([np.broadcast_to(row, run.threads) for row in self.rows])

    def _check(self, run: Execution, index: Any, line: int) -> None:
        outside = np.logical_or(np.less(index, 0), np.greater_equal(index, len(self.rows)))
        report(run, outside, index, self, len(self.rows), line)


# -- access ----------------------------------------------------------------------------------


def load(run: Execution, pointer: Any, index: Any, line: int) -> Any:
    """``pointer[index]``."""
    if isinstance(pointer, tuple):
        return pointer[index]
    if isinstance(pointer, Local):
        return pointer.load(run, index, line)
    at = located(run, pointer, index, 1, line)
    note(run, pointer, READ, at, 1, line)
    banked(run, pointer, at, 1, line)
    value = pointer.read(at)
    return int(value) if isinstance(value, np.integer) else value


def store(run: Execution, pointer: Any, index: Any, value: Any, line: int) -> None:
    """``pointer[index] = value``."""
    if isinstance(pointer, Local):
        pointer.store(run, index, value, line)
        return
    at = located(run, pointer, index, 1, line)
    note(run, pointer, WRITE, at, 1, line)
    banked(run, pointer, at, 1, line)
    put(run, pointer.items, at, pointer.written(value))


def neighbours(count: int) -> Callable[..., tuple[Any, ...]]:
    """So many neighbouring float32 in one access."""

    def load(run: Execution, pointer: Pointer, index: Any, line: int) -> tuple[Any, ...]:
        at = located(run, pointer, index, count, line)
        note(run, pointer, READ, at, count, line)
        banked(run, pointer, at, count, line)
        return tuple(pointer.read(at + k) for k in range(count))

    return load


def store_neighbours(run: Execution, pointer: Pointer, index: Any, *values: Any, line: int) -> None:
    """Store neighbouring float32 in one access."""
    at = located(run, pointer, index, len(values), line)
    note(run, pointer, WRITE, at, len(values), line)
    banked(run, pointer, at, len(values), line)
    for k, value in enumerate(values):
        put(run, pointer.items, at + k, pointer.written(value))


def store_pairs(run: Execution, pointer: Pointer, index: Any, *pairs: Any, line: int) -> None:
    """Store registers of two 16-bit elements each in one access."""
    at = located(run, pointer, index, 2 * len(pairs), line)
    note(run, pointer, WRITE, at, 2 * len(pairs), line)
    banked(run, pointer, at, 2 * len(pairs), line)
    for k, pair in enumerate(pairs):
        put(run, pointer.items, at + 2 * k, np.bitwise_and(pair, 0xFFFF))
        put(run, pointer.items, at + 2 * k + 1, np.right_shift(pair, 16))


def atomic_add(run: Execution, pointer: Pointer, index: Any, value: Any, line: int) -> None:
    """Add to a float32 that other threads add to as well."""
    at = located(run, pointer, index, 1, line)
    note(run, pointer, ATOMIC, at, 1, line)
    banked(run, pointer, at, 1, line)
    at, value = (np.broadcast_to(v, run.threads)[run.active(run.mask)] for v in (at, value))
    np.add.at(pointer.items, at, as_float32(value))


def put(run: Execution, items: Array, at: Any, value: Any) -> None:
    """Write elements in the active threads."""
    if run.mask is None and isinstance(at, Array):
        items[at] = value
        return
    active = run.active(run.mask)
    at, value = (np.broadcast_to(v, run.threads)[active] for v in (at, value))
    items[at] = value


def as_float32(value: Any) -> Any:
    if isinstance(value, Array):
        return value if value.dtype == np.float32 else value.astype(np.float32)
    return np.float32(value)


# -- checks ----------------------------------------------------------------------------------


def located(run: Execution, pointer: Pointer, index: Any, width: int, line: int) -> Any:
    """Where in ``items`` an access of so many elements begins; checked for bounds and alignment.

    For threads that are not active it is somewhere harmless.
    """
    if not isinstance(pointer, Pointer):
        raise EmulationError(f"{run.at(line)}: {pointer!r} is no pointer")
    if isinstance(index, (float, np.floating)) or getattr(index, "dtype", None) == np.float32:
        raise EmulationError(f"{run.at(line)}: a float as an index of {pointer.described()}")
    if pointer.offset is not None:
        index = index + pointer.offset
    last = pointer.extent - width
    if isinstance(index, Array):
        if run.mask is not None:
            index = np.where(run.mask, index, 0)
        if index.dtype != np.int64:
            index = index.astype(np.int64)
        # As unsigned numbers, negative ones are too large.
        fits = last >= 0 and bool(index.view(np.uint64).max() <= last)
    else:
        fits = 0 <= index <= last
    if not fits:
        outside = np.logical_or(np.less(index, 0), np.greater(index, last))
        report(run, outside, index, pointer, pointer.extent, line)
        index = np.where(outside, 0, index) if isinstance(index, Array) else 0
    if width > 1:
        misaligned = np.bitwise_and(index, width - 1) != 0
        if np.any(misaligned):
            unaligned(run, misaligned, index, pointer, width, line)
    return index if pointer.base is None else index + pointer.base


def note(run: Execution, pointer: Pointer, kind: str, at: Any, width: int, line: int) -> None:
    """Keep an access for the comparison with those of other threads."""
    if pointer.log is not None:
        pointer.log.add(kind, at, width, run.mask, line)


def banked(run: Execution, pointer: Pointer, at: Any, width: int, line: int) -> None:
    """Count an access to the banks of shared memory, where somebody wants to know."""
    if run.banks is not None and pointer.space == "shared":
        run.banks.add(run, pointer, at, width, line)


def report(run: Execution, outside: Any, index: Any, memory: Any, extent: int, line: int) -> None:
    """Raise for the first active thread whose index is out of bounds, if there is any."""
    _first(
        run,
        outside,
        index,
        lambda value, thread: (
            f"index {value} is out of bounds of {memory.described()}, "
            f"which has {extent} elements, in {thread}"
        ),
        line,
    )


def unaligned(
    run: Execution, wrong: Any, index: Any, pointer: Pointer, width: int, line: int
) -> None:
    """Raise for the first active thread whose vector access is misaligned, if there is any."""
    _first(
        run,
        wrong,
        index,
        lambda value, thread: (
            f"index {value} of {pointer.described()} is not a multiple of {width}, as an access of "
            f"{width * pointer.items.itemsize} bytes needs, in {thread}"
        ),
        line,
    )


def _first(
    run: Execution, wrong: Any, index: Any, message: Callable[[int, str], str], line: int
) -> None:
    threads = np.flatnonzero(np.logical_and(wrong, run.active(run.mask)))
    if len(threads):
        value = int(np.broadcast_to(index, run.threads)[threads[0]])
        raise EmulationError(f"{run.at(line)}: {message(value, run.who(threads[0]))}")
