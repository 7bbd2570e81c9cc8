"""Copies of planes with zeros around them, so that a window never meets a border."""

from __future__ import annotations

from convdsl.kernels.cpu.frame import kernel
from convdsl.kernels.cpu.sizes import Sizes
from convdsl.plan.model import Call


def pad_call(s: Sizes, planes: int, source: str, target: str) -> Call:
    """The call that fills ``target`` (planes × padded height × padded width) from ``source``."""
    sizes = (s.H, s.W, s.padded_height, s.padded_width, s.PH, s.PW)
    return Call(_KERNEL, (source, target), sizes, planes, planes * s.padded_size)


_KERNEL = kernel(
    "pad_planes",
    [("x", "float32"), ("padded", "float32")],
    ["H", "W", "PH", "PW", "top", "left"],
    [
        "for plane in range(begin, end):",
        "    first = min(left, PW)",
        "    last = max(first, min(left + W, PW))",
        "    for py in range(PH):",
        "        row = py - top",
        "        at = (plane * PH + py) * PW",
        "        if row < 0 or row >= H:",
        "            for px in range(PW):",
        "                padded[at + px] = float32(0.0)",
        "        else:",
        "            for px in range(first):",
        "                padded[at + px] = float32(0.0)",
        "            source = (plane * H + row) * W - left",
        "            for px in range(first, last):",
        "                padded[at + px] = x[source + px]",
        "            for px in range(last, PW):",
        "                padded[at + px] = float32(0.0)",
    ],
    "padded[planes, PH, PW] from x[planes, H, W], zeros around it; a unit per plane.",
)
