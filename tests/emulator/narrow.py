"""float32 that are kept in 16 bits, as float16 or bfloat16."""

from __future__ import annotations

from typing import Any

import numpy as np

from emulator.activity import Array

NARROW = ("float16", "bfloat16")


def bits_of(kind: str, x: Any) -> Array:
    """The 16 bits of float32, rounded to nearest, ties to even."""
    x = np.asarray(x, np.float32)
    if kind == "float16":
        return x.astype(np.float16).view(np.uint16)
    bits = x.view(np.uint32).astype(np.int64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def numbers_of(kind: str, bits: Array) -> Array:
    """The float32 of 16 bits, which are exact."""
    bits = np.asarray(bits, np.uint16)
    if kind == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def packed(kind: str, low: Any, high: Any) -> Any:
    """Two float32 in a register, the first in its lower half."""
    halves = [bits_of(kind, x).astype(np.uint32) for x in (low, high)]
    return (halves[0] | halves[1] << np.uint32(16))[()]
