"""Ops that move elements: concatenation, slices, crops, padding, resampling, shuffles, views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.attributes import (
    Choice,
    Count,
    Interval,
    Margin,
    Numbers,
    Pads,
    PerAxis,
    Real,
    Sides,
    Sizes,
    Word,
    attribute,
)
from convdsl.ops.attributes import Window as WindowKind
from convdsl.ops.base import Caption, Extent, Mistake, Op, Problem, Sample, Window, op, single
from convdsl.ops.families import Family, Join, Permute, operand
from convdsl.ops.linear import AlongAxis, Terms, along, take
from convdsl.ops.primitive import Reshape as View
from convdsl.ops.primitive import compute

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking


@op("concat")
@dataclass(frozen=True)
class Concat(Op):
    """The channels of several values, one behind the other; their other sizes must agree."""

    category: ClassVar[str] = "merge"
    arity: ClassVar[int | None] = None
    samples: ClassVar[Sequence[Sample]] = (
        Sample("concat(in, in)", "3@4x5"),
        Sample("concat(in, in, in)", "7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("concat(in, (in -> max 2))", "3@4x4", "E205"),
        Mistake("concat", "3@4x4", "E206"),
    )

    def result(self, *x: TensorType) -> TensorType:
        if len(x) < 2:
            raise Problem("E206", "`concat` takes at least two values")
        for other in x[1:]:
            if other.spatial != x[0].spatial or other.rank != x[0].rank:
                raise Problem(
                    "E205", f"`concat` cannot join {x[0]} and {other}: only channels may differ"
                )
        return TensorType((sum(t.channels for t in x), *x[0].spatial))

    def flops(self, *x: TensorType) -> int:
        return 0

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return Join(inputs[0][0], tuple(x[1] for x in inputs), math.prod(inputs[0][2:]))

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        lanes = blocking.lanes(node.output.type.channels)
        *first, last = (v.type.channels for v in node.inputs)
        whole = not any(c % lanes for c in first) and blocking.lanes(last) == lanes
        if not whole or not any(blocking.has(v) for v in node.inputs):
            return None
        return self, [blocking.blocked(v) for v in node.inputs]

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.concatenate(inputs, axis=1)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        ends = list(accumulate(v.type.channels for v in node.inputs))
        return [
            along(b, single(dy), 0, take(range(end - v.type.channels, end))) if needed else None
            for v, end, needed in zip(node.inputs, ends, needs, strict=True)
        ]


class _Linear(Op):
    """An op that is a map along each axis of its input."""

    category: ClassVar[str] = "shape"

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        """The terms for every axis of the type, None where nothing happens along it."""
        raise NotImplementedError

    def result(self, *x: TensorType) -> TensorType:
        sizes = (
            size if t is None else len(t)
            for size, t in zip(x[0].shape, self.terms(x[0]), strict=True)
        )
        return TensorType(tuple(sizes))

    def flops(self, *x: TensorType) -> int:
        total, type = 0, x[0]
        for axis, t in enumerate(self.terms(x[0])):
            if t is not None:
                step = AlongAxis(type, axis, t)
                total += step.flops(type)
                type = step.result(type)
        return total

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        value = node.inputs[0]
        for axis, terms in enumerate(self.terms(value.type)):
            if terms is not None:
                value = along(b, value, axis, terms)
        return (value,)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        value = single(dy)
        sizes = node.inputs[0].type.shape
        for axis, terms in enumerate(self.terms(node.inputs[0].type)):
            if terms is not None:
                value = along(b, value, axis, _turned(terms, sizes[axis]))
        return [value]


def _turned(terms: Terms, size: int) -> Terms:
    """The transposed map."""
    rows: list[list[tuple[int, float]]] = [[] for _ in range(size)]
    for result, pairs in enumerate(terms):
        for source, weight in pairs:
            rows[source].append((result, weight))
    return tuple(tuple(r) for r in rows)


@op("slice")
@dataclass(frozen=True)
class Slice(_Linear):
    """The channels from the first up to, not including, the last: `slice 0..16`."""

    samples: ClassVar[Sequence[Sample]] = (
        Sample("slice 1..3", "4@3x3"),
        Sample("slice 0..5", "7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("slice 2..9", "4@3x3", "E201"),
        Mistake("slice 2..2", "4@3x3", "E201"),
        Mistake("slice", "4@3x3", "E104"),
    )

    channels: tuple[int, int] = attribute(Interval(), "a range of channels", notation="value")

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        return [take(range(*self.channels)), *[None] * x.rank]

    def result(self, *x: TensorType) -> TensorType:
        if self.channels[1] > x[0].channels:
            raise Problem(
                "E201",
                f"`slice` asks for channels up to {self.channels[1]}, {x[0]} has {x[0].channels}",
                attribute="channels",
            )
        return super().result(*x)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0][:, slice(*self.channels)]


@op("shuffle")
@dataclass(frozen=True)
class Shuffle(_Linear):
    """Channel shuffle: channels seen as groups × rest, transposed. (Zhang et al. 2018)"""

    samples: ClassVar[Sequence[Sample]] = (Sample("shuffle 2", "6@3x2"), Sample("shuffle 3", "6"))
    mistakes: ClassVar[Sequence[Mistake]] = (Mistake("shuffle 4", "6@3x2", "E204"),)

    groups: int = attribute(Count(), "the number of groups", notation="value")

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        each = x.channels // self.groups
        order = [g * each + k for k in range(each) for g in range(self.groups)]
        return [take(order), *[None] * x.rank]

    def result(self, *x: TensorType) -> TensorType:
        if x[0].channels % self.groups:
            raise Problem(
                "E204",
                f"{x[0].channels} channels do not divide into {self.groups} groups",
                attribute="groups",
            )
        return x[0]

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        (x,) = inputs
        split = x.reshape(x.shape[0], self.groups, -1, *x.shape[2:])
        return split.swapaxes(1, 2).reshape(x.shape)


@op("pad")
@dataclass(frozen=True)
class Pad(_Linear):
    """Elements around the input: a constant, its mirror image (`reflect`) or edge (`replicate`).

    `reflect` does not repeat the edge itself, so it must be smaller than the input. With `channels`
    whole channels are added, too: the parameter-free shortcut of a residual block that widens.
    (He et al. 2016, option A)
    """

    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("pad 1", "2@3x4"),
        Sample("pad [(0, 2), (1, 0)] value=0.5", "2@3x4"),
        Sample("pad 2 mode=reflect", "2@5"),
        Sample("pad 1x2 mode=replicate", "2@3x3"),
        Sample("pad channels=(0, 2)", "2@3x3"),
        Sample("pad 1 channels=1 value=2", "2@4"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("pad 3 mode=reflect", "2@3x3", "E201"),
        Mistake("pad 1 mode=wrap", "2@3x3", "E201"),
        Mistake("pad channels=-1", "2@3x3", "E201"),
        Mistake("pad 1 2", "2@3x3", "E106"),
    )

    margin: Pads = attribute(Margin(), "elements around the input", notation="value", default=0)
    mode: str = attribute(
        Choice(options=("constant", "reflect", "replicate")),
        "what the elements are",
        default=Word("constant"),
    )
    value: float = attribute(Real(), "the constant", default=0.0)
    channels: tuple[int, int] = attribute(Sides(), "channels before and after", default=0)

    def caption(self, *x: TensorType) -> Caption:
        added = sum(self.channels)
        return Caption(f"pad {added} channels") if added else Caption(self.notation())

    def _margins(self) -> Pads:
        """What is added before and after every axis, the channels first."""
        return (self.channels, *self.margin)

    def sees(self, *x: TensorType) -> Window:
        each = (1,) * len(self.margin)
        return Window(each, each, tuple(before for before, _ in self.margin))

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        return [self._axis(n, *m) for n, m in zip(x.shape, self._margins(), strict=True)]

    def _axis(self, size: int, before: int, after: int) -> Terms:
        places = range(-before, size + after)
        if self.mode == "constant":
            return take([p if 0 <= p < size else -1 for p in places])
        if self.mode == "replicate":
            return take([min(max(p, 0), size - 1) for p in places])
        return take([abs(p) if p < size else 2 * (size - 1) - p for p in places])

    def result(self, *x: TensorType) -> TensorType:
        if self.mode == "reflect":
            for size, (before, after) in zip(x[0].shape, self._margins(), strict=True):
                if max(before, after) >= size:
                    raise Problem(
                        "E201",
                        f"a mirrored margin of {max(before, after)} needs an input above it, "
                        f"not {size}",
                        attribute="margin",
                    )
        return super().result(*x)

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        (value,) = super().expand(b, node)
        if self.mode != "constant" or self.value == 0:
            return (value,)
        # Shifted before and after, so that what is padded with zeros becomes the constant.
        x = node.inputs[0]
        shifted = compute(b, operand(0) - self.value, [x], x.type)
        inner = replace(self, value=0.0)
        padded = b.add(inner, shifted)
        return (compute(b, operand(0) + self.value, [padded], padded.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        widths = ((0, 0), *self._margins())
        if self.mode == "constant":
            return np.pad(inputs[0], widths, constant_values=self.value)
        return np.pad(inputs[0], widths, mode="reflect" if self.mode == "reflect" else "edge")


@op("crop")
@dataclass(frozen=True)
class Crop(_Linear):
    """The input without a margin (`crop 4`), or its middle of a given size (`crop to=56x56`).

    Where the margin is odd, the larger part is cut off the end. (Ronneberger et al. 2015)
    """

    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("crop 1", "2@4x5"),
        Sample("crop [(0, 1), (2, 0)]", "2@3x4"),
        Sample("crop to=2x3", "2@5x4"),
        Sample("crop to=3", "2@8"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("crop 2", "2@4x5", "E202"),
        Mistake("crop to=5x5", "2@4x5", "E202"),
        Mistake("crop 1", "8", "E203"),
    )

    margin: Pads = attribute(Margin(), "elements cut off every side", notation="value", default=0)
    to: Shape = attribute(PerAxis(least=0), "the resulting sizes", default=0)

    def caption(self, *x: TensorType) -> Caption:
        return Caption(self.kind)

    def _axes(self, x: TensorType) -> list[range]:
        """The positions that are kept along every spatial axis."""
        found = []
        for size, (before, after), to in zip(x.spatial, self.margin, self.to, strict=True):
            start, stop = before, size - after
            if to:
                start += (stop - start - to) // 2
                stop = start + to
            found.append(range(start, stop))
        return found

    def sees(self, *x: TensorType) -> Window:
        each = (1,) * len(self.margin)
        return Window(each, each, tuple(-kept.start for kept in self._axes(x[0])))

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        return [None, *(take(kept) for kept in self._axes(x))]

    def result(self, *x: TensorType) -> TensorType:
        for size, kept in zip(x[0].spatial, self._axes(x[0]), strict=True):
            if not 0 <= kept.start < kept.stop <= size:
                raise Problem(
                    "E202",
                    f"`crop` would keep {len(kept) or 'none'} of {size} elements",
                    attribute="to" if any(self.to) else "margin",
                )
        return super().result(*x)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        (x,) = inputs
        kept = (slice(k.start, k.stop) for k in self._axes(TensorType(x.shape[1:])))
        return x[(slice(None), slice(None), *kept)]


def _resampled(terms: Sequence[Terms | None], spatial: Shape) -> Window:
    """What elements see that are spread evenly over the input: an interval that covers each."""
    windows: list[tuple[Extent, Extent, Extent]] = []
    for rows, size in zip(terms, spatial, strict=True):
        if rows is None:
            windows.append((1, 1, 0))
            continue
        step = Fraction(size, len(rows))
        read = [[source for source, weight in row if weight] for row in rows]
        starts = [min(sources) - o * step for o, sources in enumerate(read)]
        ends = [max(sources) + 1 - o * step for o, sources in enumerate(read)]
        windows.append((max(ends) - min(starts), step, -min(starts)))
    sizes, strides, offsets = zip(*windows, strict=True)
    return Window(sizes, strides, offsets)


@op("resize")
@dataclass(frozen=True)
class Resize(_Linear):
    """Resampling to a whole multiple (`resize 2`) or to sizes (`resize 2 to=28x28`).

    `nearest` takes element floor(o·I/O); `bilinear` interpolates linearly along every axis between
    the centres of elements, the edge continued (half-pixel centres, as PyTorch without
    align_corners).
    """

    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("resize 2", "2@3x4"),
        Sample("resize 3 mode=bilinear", "2@4"),
        Sample("resize to=5x7 mode=bilinear", "2@3x4"),
        Sample("resize to=2x3", "2@3x4"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("resize 0", "2@3x4", "E201"),
        Mistake("resize 2 mode=cubic", "2@3x4", "E201"),
        Mistake("resize 2", "8", "E203"),
    )

    factor: Shape = attribute(PerAxis(), "the multiple", notation="value", default=1)
    to: Shape = attribute(PerAxis(least=0), "the resulting sizes", default=0)
    mode: str = attribute(
        Choice(options=("nearest", "bilinear")), "how elements are found", default=Word("nearest")
    )

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        sizes = [to or n * f for n, f, to in zip(x.spatial, self.factor, self.to, strict=True)]
        return [None, *(self._axis(n, m) for n, m in zip(x.spatial, sizes, strict=True))]

    def sees(self, *x: TensorType) -> Window:
        return _resampled(self.terms(x[0])[1:], x[0].spatial)

    def _axis(self, size: int, target: int) -> Terms:
        if self.mode == "nearest":
            return take([o * size // target for o in range(target)])
        found = []
        for o in range(target):
            centre = max((o + 0.5) * size / target - 0.5, 0.0)
            low = min(int(centre), size - 1)
            high = min(low + 1, size - 1)
            part = centre - low
            found.append(((low, 1.0 - part), (high, part)) if high > low else ((low, 1.0),))
        return tuple(found)

    def result(self, *x: TensorType) -> TensorType:
        return super().result(*x)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        for axis, terms in enumerate(self.terms(TensorType(x.shape[1:]))):
            if terms is not None:
                rows = [sum(w * np.take(x, [s], axis + 1) for s, w in pairs) for pairs in terms]
                x = np.concatenate(rows, axis + 1).astype(inputs[0].dtype)
        return x


@op("adaptive_avg")
@dataclass(frozen=True)
class AdaptiveAvg(_Linear):
    """Average pooling to a given size: output o covers floor(o·I/O) up to ceil((o+1)·I/O)."""

    category: ClassVar[str] = "pooling"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("adaptive_avg 2x3", "2@5x7"),
        Sample("adaptive_avg 1", "3@6"),
        Sample("adaptive_avg 7", "2@7x7"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("adaptive_avg", "2@5x7", "E104"),
        Mistake("adaptive_avg 0", "2@5x7", "E201"),
    )

    window: Shape = attribute(WindowKind(), "the resulting sizes", notation="window")

    def terms(self, x: TensorType) -> Sequence[Terms | None]:
        return [None, *(_cover(n, m) for n, m in zip(x.spatial, self.window, strict=True))]

    def sees(self, *x: TensorType) -> Window:
        if math.prod(self.window) == 1:
            return Window(whole=True)
        return _resampled(self.terms(x[0])[1:], x[0].spatial)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        for axis, target in enumerate(self.window, 2):
            size = x.shape[axis]
            pieces = [
                np.take(x, range(o * size // target, -(-(o + 1) * size // target)), axis)
                for o in range(target)
            ]
            x = np.concatenate([p.mean(axis, keepdims=True) for p in pieces], axis)
        return x


def _cover(size: int, target: int) -> Terms:
    found = []
    for o in range(target):
        start, stop = o * size // target, -(-(o + 1) * size // target)
        found.append(tuple((k, 1 / (stop - start)) for k in range(start, stop)))
    return tuple(found)


@op("reshape")
@dataclass(frozen=True)
class Reshape(Op):
    """The same elements, in the same order, as another shape: `reshape 16@5x5`."""

    category: ClassVar[str] = "shape"
    alias: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("reshape 4@2x3", "24"),
        Sample("reshape 12", "3@2x2"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("reshape 4@2x2", "24", "E208"),
        Mistake("reshape", "24", "E104"),
    )

    channels: int = attribute(Count(), "the number of channels", notation="filters")
    window: Shape = attribute(Sizes(), "the spatial sizes", notation="window", default=None)

    def result(self, *x: TensorType) -> TensorType:
        made = TensorType((self.channels, *self.window))
        if made.size != x[0].size:
            raise Problem("E208", f"{x[0]} has {x[0].size} elements, {made} has {made.size}")
        return made

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return inputs[0].reshape(inputs[0].shape[0], self.channels, *self.window)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        return [b.add(View(node.inputs[0].type), single(dy))]


@op("transpose")
@dataclass(frozen=True)
class Transpose(Op):
    """The axes in another order, counted from the channels: `transpose [1, 0, 2]`."""

    category: ClassVar[str] = "shape"
    samples: ClassVar[Sequence[Sample]] = (
        Sample("transpose [1, 0]", "3@4"),
        Sample("transpose [2, 0, 1]", "3@4x5"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("transpose [0, 0, 1]", "3@4x5", "E201"),
        Mistake("transpose [1, 0]", "3@4x5", "E201"),
    )

    order: tuple[int, ...] = attribute(Numbers(), "the order of the axes", notation="value")

    def result(self, *x: TensorType) -> TensorType:
        if sorted(self.order) != list(range(len(x[0].shape))):
            raise Problem(
                "E201",
                f"`order` of `transpose` must name each axis of {x[0]} (0 to {x[0].rank}) once",
                attribute="order",
            )
        return TensorType(tuple(x[0].shape[axis] for axis in self.order))

    def flops(self, *x: TensorType) -> int:
        return 0

    def _full(self) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in self.order))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return Permute(tuple(inputs[0]), self._full())

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.ascontiguousarray(inputs[0].transpose(self._full()))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        back = tuple(self.order.index(axis) for axis in range(len(self.order)))
        return [b.add(Transpose(order=back), single(dy))]
