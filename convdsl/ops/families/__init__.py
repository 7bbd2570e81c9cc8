"""Kernel families: what a step computes, free of any target, with its meaning as a loop nest.

About ten families carry every op. A target may bring a fast generator for a family; the loop nest
(`Family.nest`) is the meaning of them all, and what any target can fall back on.
"""

from __future__ import annotations

from convdsl.ops.families.base import (
    BATCH,
    FLAT,
    Axis,
    Epilogue,
    Family,
    Nest,
    Reducer,
    Table,
    align,
    coordinate,
    flat,
    operand,
)
from convdsl.ops.families.maps import Map, Reduction
from convdsl.ops.families.moves import Along, Fill, Join, Permute, Reblock
from convdsl.ops.families.products import Product
from convdsl.ops.families.windows import (
    AdaptiveMaximum,
    Convolution,
    Geometry,
    Pooling,
    PoolingGradient,
    WinnerGradient,
)

__all__ = [
    "BATCH",
    "FLAT",
    "AdaptiveMaximum",
    "Along",
    "Axis",
    "Convolution",
    "Epilogue",
    "Family",
    "Fill",
    "Geometry",
    "Join",
    "Map",
    "Nest",
    "Permute",
    "Pooling",
    "PoolingGradient",
    "Product",
    "Reblock",
    "Reducer",
    "Reduction",
    "Table",
    "WinnerGradient",
    "align",
    "coordinate",
    "flat",
    "operand",
]
