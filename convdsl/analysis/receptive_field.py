"""Computes what each element of a value sees of the network's inputs: size, stride and start.

The algebra is that of Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019, over graphs: where paths join, the field is the union over the paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor, gcd, lcm

from convdsl.graph import Graph, Node, Value, Variable
from convdsl.graph.types import Shape
from convdsl.ops import Window
from convdsl.ops.base import Extent

LONGEST_PERIOD = 1024
"""Fields whose pattern repeats later than this are given up and covered by the whole input."""


@dataclass(frozen=True)
class Reach:
    """The field along one axis of an input: element o sees [starts[o], ends[o]).

    The pattern repeats: after as many elements as there are starts, the field has moved by
    ``advance`` elements of the input. Without upsampling that is after every element. An advance of
    0 says that all elements see the same.
    """

    starts: tuple[int, ...]
    ends: tuple[int, ...]
    advance: int

    @property
    def period(self) -> int:
        return len(self.starts)

    @property
    def size(self) -> int:
        """The most that an element sees."""
        return max(end - start for start, end in zip(self.starts, self.ends, strict=True))

    @property
    def stride(self) -> Extent:
        """By how much the fields of neighbours are apart; a fraction where that varies."""
        average = Fraction(self.advance, self.period)
        return int(average) if average.denominator == 1 else average

    def start(self, element: int) -> int:
        """Where the field of an element starts."""
        periods, place = divmod(element, self.period)
        return self.starts[place] + periods * self.advance

    def end(self, element: int) -> int:
        """Where the field of an element ends, exclusive."""
        periods, place = divmod(element, self.period)
        return self.ends[place] + periods * self.advance

    def period_after(self, stride: Extent) -> int:
        """The period of elements that lie that far apart on these."""
        step = Fraction(stride)
        return step.denominator * self.period // gcd(step.numerator, self.period)

    def through(self, size: Extent, stride: Extent, offset: Extent) -> Reach:
        """The field of a window over elements with this field."""
        period = self.period_after(stride)
        first = [ceil(o * stride - offset) for o in range(period)]
        last = [floor(o * stride - offset + size) - 1 for o in range(period)]
        starts = tuple(self.start(i) for i in first)
        # A window that lies between two elements, as with gaps in an upsampling, takes the later.
        ends = tuple(self.end(max(i, k)) for i, k in zip(last, first, strict=True))
        return Reach(starts, ends, int(self.advance * period * Fraction(stride) / self.period))

    def over(self, count: int, extent: int) -> Reach:
        """The field of ``count`` elements together, within an input of that extent."""
        start = min(max(self.start(0), 0), extent)
        end = max(min(self.end(count - 1), extent), start)
        return Reach((start,), (end,), 0)

    def union(self, other: Reach) -> Reach:
        """The smallest field that covers both, which move together."""
        period = lcm(self.period, other.period)
        starts = tuple(min(self.start(o), other.start(o)) for o in range(period))
        ends = tuple(max(self.end(o), other.end(o)) for o in range(period))
        return Reach(starts, ends, self.advance * period // self.period)

    def repeated(self) -> Reach:
        """The field where the first element takes the place of all."""
        return Reach(self.starts[:1], self.ends[:1], 0)


@dataclass(frozen=True)
class Field:
    """What one element of a value sees of one input.

    ``exact`` is False where paths that do not move together join; then it covers what they see.
    """

    axes: tuple[Reach, ...]
    extents: Shape = field(repr=False)
    """The input's sizes along these axes."""
    exact: bool = True

    @property
    def size(self) -> Shape:
        """The most that an element sees, per axis."""
        return tuple(reach.size for reach in self.axes)

    @property
    def stride(self) -> tuple[Extent, ...]:
        """By how many elements of the input the fields of neighbours are apart, per axis."""
        return tuple(reach.stride for reach in self.axes)

    @property
    def start(self) -> Shape:
        """Where the field of the first element starts, per axis; negative in the padding."""
        return tuple(reach.start(0) for reach in self.axes)

    @property
    def whole(self) -> bool:
        """Whether every element sees the whole input."""
        return all(
            reach.advance == 0 and reach.start(0) <= 0 and reach.end(0) >= extent
            for reach, extent in zip(self.axes, self.extents, strict=True)
        )


Fields = Mapping[Variable, Field]
"""What a value sees, by network input; inputs that it does not depend on are left out."""


def receptive_fields(graph: Graph) -> dict[Value, Fields]:
    """What every value sees of the network's inputs; takes time linear in the nodes."""
    found: dict[Value, Fields] = {variable: {} for variable in graph.variables}
    for variable in graph.inputs:
        own = tuple(Reach((0,), (1,), 1) for _ in variable.type.spatial)
        found[variable] = {variable: Field(own, variable.type.spatial)}
    for node in graph.nodes:
        seen = _seen_by(node, found)
        for value in node.outputs:
            found[value] = seen
    return found


def _seen_by(node: Node, found: Mapping[Value, Fields]) -> Fields:
    window = node.op.sees(*(value.type for value in node.data))
    output = node.outputs[0].type.spatial
    seen: dict[Variable, Field] = {}
    for value in node.data:
        for variable, before in found[value].items():
            after = _through(before, window, value.type.spatial, output)
            known = seen.get(variable)
            seen[variable] = after if known is None else _joined(known, after, output)
    return seen


def _through(before: Field, window: Window | None, spatial: Shape, output: Shape) -> Field:
    """The field after an op, from that of its data input."""
    if window is None:
        return _elementwise(before, spatial, output)
    if window.whole or not spatial:
        return _together(before, spatial)
    if len(window.size) != len(before.axes):
        return _together(before, spatial, exact=False)
    periods = (r.period_after(s) for r, s in zip(before.axes, window.stride, strict=True))
    if max(periods) > LONGEST_PERIOD:
        return _together(before, spatial, exact=False)
    steps = zip(before.axes, window.size, window.stride, window.offset, strict=True)
    axes = tuple(reach.through(k, s, p) for reach, k, s, p in steps)
    return Field(axes, before.extents, before.exact)


def _elementwise(before: Field, spatial: Shape, output: Shape) -> Field:
    if spatial == output:
        return before
    if len(spatial) != len(output) or len(spatial) != len(before.axes):
        # Positions become features, or the other way round: they are taken together.
        return _together(before, spatial)
    if any(size not in (1, wanted) for size, wanted in zip(spatial, output, strict=True)):
        return _together(before, spatial, exact=False)
    axes = tuple(
        reach if size == wanted else reach.repeated()
        for reach, size, wanted in zip(before.axes, spatial, output, strict=True)
    )
    return Field(axes, before.extents, before.exact)


def _together(before: Field, spatial: Shape, exact: bool = True) -> Field:
    """What all elements see."""
    same_rank = len(spatial) == len(before.axes)
    counts: Iterable[int] = spatial if same_rank else (1,) * len(before.axes)
    sizes = zip(before.axes, counts, before.extents, strict=True)
    axes = tuple(reach.over(count, extent) for reach, count, extent in sizes)
    return Field(axes, before.extents, before.exact and exact)


def _joined(one: Field, other: Field, output: Shape) -> Field:
    """The union of two paths."""
    if one.stride == other.stride:
        axes = tuple(a.union(b) for a, b in zip(one.axes, other.axes, strict=True))
        return Field(axes, one.extents, one.exact and other.exact)
    a, b = _together(one, output), _together(other, output)
    axes = tuple(p.union(q) for p, q in zip(a.axes, b.axes, strict=True))
    exact = (one.whole and one.exact) or (other.whole and other.exact)
    return Field(axes, one.extents, exact)
