"""What rendered CUDA kernels are written with; runs under Numba's simulator too."""

from __future__ import annotations

from math import erf, exp, expm1, inf, log, log1p, sqrt, tanh
from typing import Any

from numba import cuda, float32, int64, uint32


@cuda.jit(device=True)
def uniform(key: Any, index: Any) -> Any:
    """A uniform number in [0, 1) from a key and a counter; see ops.expressions.uniform."""
    # In 64 bits with a mask, so that plain integers under the simulator wrap as well.
    mask = 0xFFFFFFFF
    x = (index * 0x9E3779B1) & mask
    x = x ^ (key & mask)
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & mask
        x = ((x ^ (x >> 15)) * 0x846CA68B) & mask
        x = x ^ (x >> 16)
    return float32(x >> 8) / float32(16777216.0)


@cuda.jit(device=True)
def logistic(x: Any) -> Any:
    """1 / (1 + exp(−x))."""
    return float32(1.0) / (float32(1.0) + exp(-x))


__all__ = [
    "cuda",
    "erf",
    "exp",
    "expm1",
    "float32",
    "inf",
    "int64",
    "log",
    "log1p",
    "logistic",
    "sqrt",
    "tanh",
    "uint32",
    "uniform",
]
