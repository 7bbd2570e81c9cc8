"""Feature maps into blocks of channels and back on the CPU."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.ops.families import Reblock
from convdsl.plan.model import Call, Images, Recipe


def recipe(family: Reblock, images: Images) -> Recipe:
    """One call; a unit of work is a block of an image, or a channel on the way back."""
    blocks = -(-family.channels // family.lanes)
    plain, blocked = family.channels * family.pixels, blocks * family.lanes * family.pixels
    own = (blocked, plain) if family.back else (plain, blocked)
    apart = (images.blocks(k, 1) or size for k, size in enumerate(own))
    sizes = (family.channels, blocks, family.pixels, *apart)
    work = family.batch * (family.channels if family.back else blocks)
    body = _BACK if family.back else _INTO
    made = kernel(
        f"{'from' if family.back else 'to'}_blocks_of_{family.lanes}",
        [("x", "float32"), ("y", "float32")],
        ["C", "B", "P", "X", "Y"],
        [line.format(L=family.lanes) for line in body],
        f"y[N, C, P] from x[N, B, P, {family.lanes}], images X and Y apart; a unit per channel."
        if family.back
        else f"y[N, B, P, {family.lanes}] from x[N, C, P], images X and Y apart; a unit per block.",
    )
    cost = family.batch * blocks * family.lanes * family.pixels
    return Recipe((Call(made, ("in0", "out"), sizes, work, cost),), reason="change of layout")


_INTO = (
    "for unit in range(begin, end):",
    "    n = unit // B",
    "    first = unit % B * {L}",
    "    for lane in range({L}):",
    "        at = n * Y + first * P + lane",
    "        if first + lane < C:",
    "            source = n * X + (first + lane) * P",
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
    "    source = n * X + c // {L} * P * {L} + c % {L}",
    "    target = n * Y + c * P",
    "    for p in range(P):",
    "        y[target + p] = x[source + p * {L}]",
)
