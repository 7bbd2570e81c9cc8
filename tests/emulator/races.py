"""Accesses between barriers, and whether threads get in each other's way.

Without an order between them, two threads must not touch the same element if one of them writes it,
unless both do so atomically. What orders threads is a barrier of their block, a barrier of their
warp if they are of the same one, and nothing within a launch if they are of different blocks. So
what happened between two barriers is compared by thread, between two barriers of the block by warp
where warps had barriers of their own, and in the whole launch by block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from emulator.activity import Array, Mask
from emulator.errors import EmulationError

READ, WRITE, ATOMIC = "reads", "writes", "adds to"


class Access(NamedTuple):
    """What the threads of a mask did at once: to ``width`` elements from ``at`` on, each."""

    kind: str
    at: int | Array
    width: int
    mask: Mask
    line: int


class Touched(NamedTuple):
    """Elements, and who touched them: threads, warps or blocks by their number."""

    kind: str
    elements: Array
    members: Array
    line: int


class Members(NamedTuple):
    """Who each of the threads that run side by side is, by number, and how to call them."""

    numbers: Array
    described: Callable[[int], str]


class Memory(NamedTuple):
    """What is watched: elements with an owner each, -1 for none, and how to call them."""

    owner: Array
    described: Callable[[int], str]


class Log:
    """The accesses to one memory by the threads that run side by side.

    ``kept`` are all up to the last barrier of the block, where they are to be kept.
    """

    def __init__(
        self, memory: Memory, threads: Members, warps: Members, keep: bool = False
    ) -> None:
        self.memory = memory
        self.kept: list[Access] = []
        self.barriers = 0
        self._keep = keep
        self._threads = threads
        self._warps = warps
        self._recent: list[Access] = []
        self._ordered_in_warps: list[Access] = []

    def add(self, kind: str, at: int | Array, width: int, mask: Mask, line: int) -> None:
        """Keep an access."""
        self._recent.append(Access(kind, at, width, mask, line))

    def warp_barrier(self, participants: Mask) -> None:
        """Threads of the same warp go on only after all of them came here."""
        before, self._recent = _split(self._recent, participants)
        self._compare(before, self._threads)
        self._ordered_in_warps += before

    def block_barrier(self, participants: Mask) -> None:
        """Threads of the same block go on only after all of them came here."""
        self.barriers += 1
        before, self._recent = _split(self._recent, participants)
        self._compare(before, self._threads)
        if self._ordered_in_warps:
            earlier, self._ordered_in_warps = _split(self._ordered_in_warps, participants)
            before = earlier + before
            self._compare(before, self._warps)
        if self._keep:
            self.kept += before

    def _compare(self, accesses: list[Access], members: Members) -> None:
        if any(access.kind != READ for access in accesses):
            touched = [expanded(access, members.numbers) for access in accesses]
            compare(touched, self.memory, members.described)


def _split(accesses: list[Access], participants: Mask) -> tuple[list[Access], list[Access]]:
    """What participants did, and what the others did."""
    if participants is None:
        return accesses, []
    return (
        [a._replace(mask=_both(a.mask, participants)) for a in accesses],
        [a._replace(mask=_both(a.mask, ~participants)) for a in accesses],
    )


def _both(mask: Mask, other: Array) -> Array:
    return other if mask is None else mask & other


def expanded(access: Access, numbers: Array) -> Touched:
    """An access element by element."""
    members = numbers if access.mask is None else numbers[access.mask]
    if isinstance(access.at, Array):
        elements = access.at if access.mask is None else access.at[access.mask]
    else:
        elements = np.full(len(members), access.at)
    if access.width > 1:
        elements = (elements[:, None] + np.arange(access.width)).reshape(-1)
        members = np.repeat(members, access.width)
    return Touched(access.kind, elements, members, access.line)


def compare(touched: Sequence[Touched], memory: Memory, described: Callable[[int], str]) -> None:
    """Raise where one member writes an element that another one touches."""
    reads, writes, atomics = (
        [t for t in touched if t.kind == kind] for kind in (READ, WRITE, ATOMIC)
    )
    _hold(touched, writes, memory, described)
    if atomics and reads:
        # Several members may have read, or added: each side is held against one of the other's.
        _hold(reads, atomics, memory, described)
        _hold(atomics, reads, memory, described)


def _hold(
    accesses: Sequence[Touched],
    against: Sequence[Touched],
    memory: Memory,
    described: Callable[[int], str],
) -> None:
    """Raise where an element is touched by another member than the last one of ``against``."""
    owner = memory.owner
    for other in against:
        owner[other.elements] = other.members
    clash = next(filter(None, (_clash(access, owner) for access in accesses)), None)
    for other in against:
        owner[other.elements] = -1
    if clash is None:
        return
    access, element, member, first = clash
    by = next(o for o in against if ((o.elements == element) & (o.members == first)).any())
    raise EmulationError(
        f"race on {memory.described(element)}: {described(first)} {by.kind} it in line {by.line}, "
        f"{described(member)} {access.kind} it in line {access.line}, and nothing orders them"
    )


def _clash(access: Touched, owner: Array) -> tuple[Touched, int, int, int] | None:
    """The first element that another member owns, both members and the access."""
    owners = owner[access.elements]
    wrong = (owners >= 0) & (owners != access.members)
    if not wrong.any():
        return None
    k = int(np.flatnonzero(wrong)[0])
    return access, int(access.elements[k]), int(access.members[k]), int(owners[k])
