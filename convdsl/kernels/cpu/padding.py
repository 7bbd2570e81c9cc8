"""Copies of feature maps with zeros around them, so that a window never meets a border."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.sizes import Sizes
from convdsl.plan.model import Call, Kernel


def pad_call(
    s: Sizes, batch: int, blocks: int, apart: int, lanes: int, source: str, target: str
) -> Call:
    """The call that fills ``target`` from ``source``: images of blocks of ``lanes`` channels each.

    The target has as many rows and columns as windows reach. Images of the source lie so many
    blocks ``apart``.
    """
    sizes = (blocks, apart, s.D, s.H, s.W * lanes, s.PD, s.PH, s.PW * lanes)
    padded = (s.padded_depth, s.padded_height, s.padded_width * lanes)
    work = batch * blocks * s.padded_depth
    return Call(_KERNEL, (source, target), (*sizes, *padded), work, work * padded[1] * padded[2])


def _kernel() -> Kernel:
    body = [
        "for unit in range(begin, end):",
        "    plane = unit // TD",
        "    plane = plane // B * XB + plane % B",
        "    z = unit % TD - front",
        "    first = max(0, min(left, TW))",
        "    last = max(first, min(left + W, TW))",
        "    for ty in range(TH):",
        "        row = ty - top",
        "        at = (unit * TH + ty) * TW",
        "        if z < 0 or z >= D or row < 0 or row >= H:",
        "            for tx in range(TW):",
        "                padded[at + tx] = float32(0.0)",
        "        else:",
        "            for tx in range(first):",
        "                padded[at + tx] = float32(0.0)",
        "            source = ((plane * D + z) * H + row) * W - left",
        "            for tx in range(first, last):",
        "                padded[at + tx] = x[source + tx]",
        "            for tx in range(last, TW):",
        "                padded[at + tx] = float32(0.0)",
    ]
    return kernel(
        "pad",
        [("x", "float32"), ("padded", "float32")],
        ["B", "XB", "D", "H", "W", "front", "top", "left", "TD", "TH", "TW"],
        body,
        "padded[N, B, TD, TH, TW] from x[N, XB, D, H, W], zeros around it; "
        "a unit per block and depth.",
    )


_KERNEL = _kernel()
