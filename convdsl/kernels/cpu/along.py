"""Sparse linear maps along an axis on the CPU: crops, padding, resampling, a vector at a time.

Vectors run along what is behind the axis, such as the lanes of a block. A term of weight 0 is not
read: what is there counts for nothing, even where it is no number.
"""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.ops.families import Along
from convdsl.plan.model import RESULT, Call, Images, Recipe

CHUNK = 1 << 12
"""Elements of the result that a unit of work covers, about."""


def width(family: Along, lanes: int) -> int:
    """How many elements a vector has: what is behind the axis must be whole ones; 0 where not."""
    return next((w for w in (16, 8, 4) if w <= lanes and family.inner % w == 0), 0)


def recipe(family: Along, images: Images, lanes: int) -> Recipe | None:
    """One call; a unit of work is a chunk of positions along the axis."""
    wide = width(family, lanes)
    if not wide:
        return None
    results, terms = len(family.source), len(family.source[0])
    rows = family.outer // images.count
    apart = (
        images.blocks(0, 1) or rows * family.size * family.inner,
        images.blocks(RESULT, 1) or rows * results * family.inner,
    )
    chunk = max(1, CHUNK // family.inner)
    chunks = -(-results // chunk)
    body = [
        "for unit in range(begin, end):",
        "    a = unit // chunks",
        "    first = unit % chunks * chunk",
        "    row = a // A * X + a % A * I * B",
        "    target = a // A * Y + a % A * O * B",
        "    for o in range(first, min(first + chunk, O)):",
        f"        for b in range(0, B, {wide}):",
        "            total = zero()",
        "            for t in range(o * T, o * T + T):",
        "                if weight[t] != float32(0.0):",
        "                    at = row + source[t] * B + b",
        "                    total = fma(load(x, at), splat(weight, t), total)",
        "            store(y, target + o * B + b, total)",
    ]
    made = kernel(
        f"along_axis_{wide}",
        [("x", "float32"), ("source", "int64"), ("weight", "float32"), ("y", "float32")],
        ["A", "X", "Y", "I", "O", "B", "T", "chunk", "chunks"],
        body,
        "y[N, A, O, B] from sums of T of x[N, A, I, B], images X and Y apart; a unit per chunk.",
        ("contract",),
        wide,
    )
    sizes = (rows, *apart, family.size, results, family.inner, terms, chunk, chunks)
    work = family.outer * chunks
    cost = family.outer * results * family.inner * terms // wide
    call = Call(made, ("in0", "in1", "in2", "out"), sizes, work, cost)
    return Recipe((call,), reason=f"{wide} at a time")
