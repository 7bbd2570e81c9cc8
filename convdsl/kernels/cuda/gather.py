"""Copies an array whose elements lie apart into one where they lie side by side."""

from __future__ import annotations

import math

from convdsl.kernels.cuda.frame import blocks, decode, indent, kernel
from convdsl.ops.families import Axis
from convdsl.plan.model import Call


def gather(shape: tuple[int, ...], strides: tuple[int, ...], dtype: str) -> Call:
    """One launch for an array of that shape and strides, in elements.

    Its operands are ``in0``, the element that lies first in memory, and ``out``.
    """
    axes = [Axis(f"j{a}", f"n{a}") for a in range(len(shape))]
    terms = [f"{axis.index} * stride{a}" for a, axis in enumerate(axes)]
    body = [
        "at = int64(cuda.grid(1))",
        "if at < size:",
        *indent(1, decode(axes, "at")),
        f"    y[at] = x[{' + '.join(['first', *terms])}]",
    ]
    names = [axis.size for axis in axes[1:]] + [f"stride{a}" for a in range(len(axes))]
    made = kernel(
        f"gather_{len(axes)}d",
        [("x", dtype), ("y", dtype)],
        ["size", "first", *names],
        body,
        "gather: a thread per element of the result.",
    )
    size = math.prod(shape)
    first = -lowest(shape, strides)
    return Call(made, ("in0", "out"), (size, first, *shape[1:], *strides), blocks(size), size)


def lowest(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Where the element that lies first in memory is, seen from the one that is named first."""
    return sum(min(0, stride) * (extent - 1) for extent, stride in zip(shape, strides, strict=True))
