"""A convolution in either direction as forward convolutions, for targets that have only those."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from convdsl.ops.families import Convolution, Geometry


def turned(family: Convolution) -> Convolution:
    """The family with input and result in each other's place where it goes from dy to dx."""
    if family.direction == "forward":
        return family
    g = family.geometry
    return replace(
        family,
        direction="forward",
        channels=family.filters,
        filters=family.channels,
        geometry=replace(g, input=g.output, output=g.input),
        x_lanes=family.y_lanes,
        y_lanes=family.x_lanes,
    )


@dataclass(frozen=True)
class Part:
    """A convolution at stride 1 or more that computes every ``step``-th result from ``first`` on.

    It uses the elements ``taken``, ``taken`` + ``step``, … of the window, of which there are
    ``geometry.window``, mirrored.
    """

    geometry: Geometry
    step: tuple[int, ...]
    first: tuple[int, ...]
    taken: tuple[int, ...]


def has_parts(family: Convolution) -> bool:
    """Whether `parts_of` knows some: no gradient by the input of strides and dilations at once."""
    g = family.geometry
    return family.direction != "input" or max(g.stride) == 1 or max(g.dilation) == 1


def parts_of(family: Convolution) -> list[Part]:
    """The forward convolutions that together compute the family, which `has_parts`.

    A gradient by the input at stride S falls into S parts along every axis: dx at positions of
    equal remainder sees dy through every S-th element of the window. With q = i + P = S·t + r,
    dx[i] = Σ_m dy[t − m]·w[r + S·m].
    """
    g = family.geometry
    rank = len(g.window)
    if family.direction == "forward":
        return [Part(g, (1,) * rank, (0,) * rank, (0,) * rank)]
    parts = []
    for remainders in itertools.product(*(range(s) for s in g.stride)):
        axes = []
        for i, s, k, p, d, r in zip(
            g.input, g.stride, g.window, g.before, g.dilation, remainders, strict=True
        ):
            start, stop = -(-(p - r) // s), (p + i - 1 - r) // s + 1
            taps = -(-(k - r) // s) if r < k else 0
            before = max(taps - 1, 0) * d - start
            axes.append((stop - start, taps, before, s * start + r - p))
        results, taps, before, first = (tuple(row) for row in zip(*axes, strict=True))
        if min(results) > 0:
            one = (1,) * rank
            geometry = Geometry(g.output, results, taps, one, before, g.dilation)
            parts.append(Part(geometry, g.stride, first, remainders))
    return parts


def as_forward(family: Convolution) -> Convolution:
    """The one forward convolution that computes the family, which has stride 1.

    For the gradient by the input it is the one of dy, with mirrored windows.
    """
    (part,) = parts_of(family)
    return replace(turned(family), geometry=part.geometry)
