"""Any family by its loop nest on the GPU: one thread per element of the result."""

from __future__ import annotations

import math
import re

from convdsl.kernels.nests import INDENT, decode, element
from convdsl.ops.families import Family
from convdsl.plan.model import Call, Kernel, Recipe


def recipe(family: Family) -> Recipe:
    """One launch of the kernel that walks the family's nest."""
    nest = family.nest()
    statements = [*decode(nest.axes, "position"), *element(nest, "position")]
    words = set(re.findall(r"\w+", "\n".join(statements)))
    sizes = [("points", nest.points), *((n, v) for n, v in nest.sizes if n in words)]
    pointers = (*nest.inputs, ("y", nest.result))
    arguments = ", ".join([name for name, _ in pointers] + [name for name, _ in sizes])
    lines = [
        f"def {nest.name}({arguments}):",
        f'{INDENT}"""{nest.name.replace("_", " ")}: a thread per element of the result."""',
        f"{INDENT}position = cuda.grid(1)",
        f"{INDENT}if position < points:",
        *(INDENT * 2 + line for line in statements),
    ]
    kernel = Kernel(nest.name, pointers, tuple(name for name, _ in sizes), "\n".join(lines) + "\n")
    operands = (*(f"in{k}" for k in range(len(nest.inputs))), "out")
    reduced = math.prod(nest.extent[a.size] for a in nest.reduced)
    values = tuple(value for _, value in sizes)
    call = Call(kernel, operands, values, nest.points, nest.points * reduced)
    return Recipe((call,), reason="loop nest, a thread per element")
