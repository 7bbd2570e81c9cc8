"""Feature maps into blocks of channels and back on the CPU."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.ops.families import Reblock
from convdsl.plan.model import Call, Recipe


def recipe(family: Reblock) -> Recipe:
    """One call; a unit of work is a block of an image, or a channel on the way back."""
    blocks = -(-family.channels // family.lanes)
    sizes = (family.channels, blocks, family.pixels)
    work = family.batch * (family.channels if family.back else blocks)
    body = _BACK if family.back else _INTO
    made = kernel(
        f"{'from' if family.back else 'to'}_blocks_of_{family.lanes}",
        [("x", "float32"), ("y", "float32")],
        ["C", "B", "P"],
        [line.format(L=family.lanes) for line in body],
        f"y[N, C, P] from x[N, B, P, {family.lanes}]; a unit per channel."
        if family.back
        else f"y[N, B, P, {family.lanes}] from x[N, C, P]; a unit per block.",
    )
    cost = family.batch * blocks * family.lanes * family.pixels
    return Recipe((Call(made, ("in0", "out"), sizes, work, cost),), reason="change of layout")


_INTO = (
    "for unit in range(begin, end):",
    "    n = unit // B",
    "    first = unit % B * {L}",
    "    for lane in range({L}):",
    "        at = unit * P * {L} + lane",
    "        if first + lane < C:",
    "            source = (n * C + first + lane) * P",
    "            for p in range(P):",
    "                y[at + p * {L}] = x[source + p]",
    "        else:",
    "            for p in range(P):",
    "                y[at + p * {L}] = float32(0.0)",
)
_BACK = (
    "for unit in range(begin, end):",
    "    n = unit // C",
    "    c = unit % C",
    "    source = (n * B + c // {L}) * P * {L} + c % {L}",
    "    for p in range(P):",
    "        y[unit * P + p] = x[source + p * {L}]",
)
