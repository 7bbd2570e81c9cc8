"""Where the elements of matrices lie in the registers of a warp, and the product of such matrices.

The layouts are those of the PTX ISA, "Warp Level Matrix Instructions": with ``g = lane // 4`` and
``t = lane % 4``, registers hold rows ``g`` and ``g + 8`` of A (16×k) and of C (16×8), and column
``g`` of B (k×8). A register of A and B has a neighbourhood of k: one tf32, or two 16-bit elements
of which the first is in the lower half.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from emulator.activity import Array

GROUP = np.arange(32) // 4
MEMBER = np.arange(32) % 4


class Format(NamedTuple):
    """How many elements of k a register has, and their values as float32, first one first."""

    elements: int
    decoded: Callable[[Array], Array]


def _tf32(registers: Array) -> Array:
    # The instruction does not look at the other bits.
    return (registers & np.uint32(0xFFFFE000)).view(np.float32)[..., None]


def _halves(registers: Array) -> Array:
    return registers.view(np.float16).reshape(*registers.shape, 2).astype(np.float32)


def _bfloats(registers: Array) -> Array:
    upper = np.stack([registers << np.uint32(16), registers & np.uint32(0xFFFF0000)], axis=-1)
    return upper.view(np.float32)


TF32 = Format(1, _tf32)
FLOAT16 = Format(2, _halves)
BFLOAT16 = Format(2, _bfloats)


def product(
    format: Format, a: Sequence[Array], b: Sequence[Array], c: Sequence[Array]
) -> list[Array]:
    """The registers of D = A·B + C, each an array with a row per warp."""
    left, right = _left(format, a), _right(format, b)
    # Products of such elements are exact; how their sum is rounded, hardware does not say.
    total = np.matmul(left.astype(np.float64), right.astype(np.float64))
    rows, columns = _accumulator()
    return [(total[:, rows[r], columns[r]] + c[r]).astype(np.float32) for r in range(4)]


def _left(format: Format, registers: Sequence[Array]) -> Array:
    """A as matrices of 16 rows, one per warp."""
    half = 4 * format.elements
    matrices = np.empty((len(registers[0]), 16, 2 * half), np.float32)
    for r, register in enumerate(registers):
        values = format.decoded(register)
        for e in range(format.elements):
            row = GROUP + 8 * (r % 2)
            matrices[:, row, MEMBER * format.elements + e + half * (r // 2)] = values[..., e]
    return matrices


def _right(format: Format, registers: Sequence[Array]) -> Array:
    """B as matrices of 8 columns, one per warp."""
    half = 4 * format.elements
    matrices = np.empty((len(registers[0]), 2 * half, 8), np.float32)
    for r, register in enumerate(registers):
        values = format.decoded(register)
        for e in range(format.elements):
            matrices[:, MEMBER * format.elements + e + half * r, GROUP] = values[..., e]
    return matrices


def _accumulator() -> tuple[list[Array], list[Array]]:
    """Row and column of C in each of its four registers."""
    rows = [GROUP + 8 * (r // 2) for r in range(4)]
    columns = [MEMBER * 2 + r % 2 for r in range(4)]
    return rows, columns
