"""Any family by its loop nest on the GPU: one thread per element of the result.

Operands may be parts of larger feature maps: their elements lie further by what is between images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

from convdsl.kernels.cuda.frame import blocks, decode, indent, kernel
from convdsl.kernels.nests import element
from convdsl.ops.expressions import Expr, shifted, text
from convdsl.ops.families import Convolution, Family, Nest, Reduction
from convdsl.ops.families.base import integer, symbol
from convdsl.plan.model import CONTIGUOUS, RESULT, Call, Images, Recipe


def recipe(family: Family, images: Images = CONTIGUOUS) -> Recipe:
    """One launch of the kernel that walks the family's nest."""
    nest, place = placed(family, images)
    statements = [*decode(nest.axes, "position"), *element(nest, place("position"))]
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


def placed(family: Family, images: Images) -> tuple[Nest, Callable[[str], str]]:
    """The family's nest on such parts, and where a position of the result is in memory."""
    nest = family.nest()
    sizes = dict(nest.sizes)
    image = _image(family, nest, images.count, sizes) if any(images.gaps) else integer(0)

    def beyond(name: str, gap: int) -> Expr:
        sizes[f"gap_{name}"] = gap
        return image * symbol(f"gap_{name}")

    by = {
        name: beyond(name, images.gap(k))
        for k, (name, _) in enumerate(nest.inputs)
        if images.gap(k)
    }
    result = f" + {text(beyond('y', images.gap(RESULT)))}" if images.gap(RESULT) else ""
    made = replace(
        nest,
        element=shifted(nest.element, by),
        finish=shifted(nest.finish, by),
        sizes=tuple(sizes.items()),
    )
    return made, lambda position: position + result


def _image(family: Family, nest: Nest, count: int, sizes: dict[str, int]) -> Expr:
    """The image that an element of the nest is in: its first loop runs over images, at least."""
    of_sums = isinstance(family, Convolution) and family.direction == "weight"
    of_sums = of_sums or (isinstance(family, Reduction) and not family.kept[0])
    axis = nest.reduced[0] if of_sums else nest.axes[0]
    each = nest.extent[axis.size] // count
    if each == 1:
        return symbol(axis.index)
    sizes["each"] = each
    return symbol(axis.index) // symbol("each")
