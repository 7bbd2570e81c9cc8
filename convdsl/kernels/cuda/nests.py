"""Any family by its loop nest on the GPU: one thread per element of the result."""

from __future__ import annotations

import math
import re

from convdsl.kernels.cuda.frame import blocks, decode, indent, kernel
from convdsl.kernels.nests import element
from convdsl.ops.families import Family
from convdsl.plan.model import Call, Recipe


def recipe(family: Family) -> Recipe:
    """One launch of the kernel that walks the family's nest."""
    nest = family.nest()
    statements = [*decode(nest.axes, "position"), *element(nest, "position")]
    words = set(re.findall(r"\w+", "\n".join(statements)))
    sizes = [("points", nest.points), *((n, v) for n, v in nest.sizes if n in words)]
    body = [
        "position = int64(cuda.grid(1))",
        "if position < points:",
        *indent(1, statements),
    ]
    made = kernel(
        nest.name,
        (*nest.inputs, ("y", nest.result)),
        [name for name, _ in sizes],
        body,
        f"{nest.name.replace('_', ' ')}: a thread per element of the result.",
    )
    operands = (*(f"in{k}" for k in range(len(nest.inputs))), "out")
    reduced = math.prod(nest.extent[a.size] for a in nest.reduced)
    values = tuple(value for _, value in sizes)
    call = Call(made, operands, values, blocks(nest.points), nest.points * reduced)
    return Recipe((call,), reason="loop nest, a thread per element")
