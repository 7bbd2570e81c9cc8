"""The arithmetic of windows that slide over axes: output sizes and the errors about them."""

from __future__ import annotations

from collections.abc import Sequence

from convdsl.graph import extents
from convdsl.graph.types import Shape
from convdsl.ops.attributes import Pads
from convdsl.ops.base import Problem


def effective(window: Shape, dilation: Shape) -> Shape:
    """The extent a dilated window covers: dilation·(window − 1) + 1."""
    return tuple(d * (k - 1) + 1 for k, d in zip(window, dilation, strict=True))


def output_sizes(
    kind: str,
    spatial: Shape,
    window: Shape,
    stride: Shape,
    pad: Pads,
    dilation: Shape | None = None,
    ceil: bool = False,
) -> Shape:
    """floor((I + P − K) / S) + 1 along every axis, P the total padding, K the effective window.

    With ``ceil`` the division rounds up, and a last window that would start in the padding after
    the input is dropped. Raises Problem E202 where a result would be below 1.
    """
    covered = effective(window, dilation or (1,) * len(window))
    sizes = []
    for axis, (i, k, s, (before, after)) in enumerate(
        zip(spatial, covered, stride, pad, strict=True)
    ):
        room = i + before + after - k
        size = (-(-room // s) if ceil else room // s) + 1
        if ceil and (size - 1) * s >= i + before:
            size -= 1
        if room < 0 or size < 1:
            raise _too_small(kind, axis, spatial, covered, pad, i, k, s, before + after)
        sizes.append(size)
    return tuple(sizes)


def _too_small(
    kind: str,
    axis: int,
    spatial: Shape,
    covered: Shape,
    pad: Pads,
    i: int,
    k: int,
    s: int,
    p: int,
) -> Problem:
    sides: Sequence[str] = {1: ("length",), 2: ("height", "width")}.get(
        len(spatial), ("depth", "height", "width")
    )
    name = sides[axis] if axis < len(sides) else f"axis {axis}"
    formula = f"floor(({i} + {p} - {k}) / {s}) + 1 = {(i + p - k) // s + 1}"
    needed = tuple(
        max(0, -((i - k + before + after) // 2) + max(before, after))
        if i + before + after < k
        else max(before, after)
        for i, k, (before, after) in zip(spatial, covered, pad, strict=True)
    )
    fix = str(needed[0]) if len(set(needed)) == 1 else extents(needed)
    return Problem(
        "E202",
        f"the {extents(covered)} window of `{kind}` does not fit its {extents(spatial)} input",
        f"the output's {name} would be {formula}; `pad={fix}` makes the window fit",
        attribute="window",
    )
