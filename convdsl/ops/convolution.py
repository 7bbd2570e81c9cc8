"""Convolutions and their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.attributes import (
    Connections,
    Count,
    Flag,
    Margin,
    Padding,
    Pads,
    PerAxis,
    Word,
    attribute,
)
from convdsl.ops.attributes import Window as WindowKind
from convdsl.ops.base import (
    Caption,
    Mistake,
    Op,
    Problem,
    Sample,
    Weight,
    Window,
    op,
    single,
    steps,
    times,
)
from convdsl.ops.blocks import windows_in_blocks
from convdsl.ops.dense import Dense
from convdsl.ops.families import Convolution, Family, Geometry, operand
from convdsl.ops.initialisers import Initialised
from convdsl.ops.linear import along, take
from convdsl.ops.primitive import Reshape, compute
from convdsl.ops.windows import effective, output_sizes

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking


Table = tuple[tuple[bool, ...], ...]


@op("conv")
@dataclass(frozen=True)
class Conv(Initialised):
    """Convolution as ConvNets use the word: cross-correlation, summed over the input channels.

    y[n, f, o] = b[f] + Σ_c Σ_k x[n, c, o·stride + k·dilation − pad] · w[f, c, k], with zeros
    outside the input. With `groups`, filters and channels are split into that many groups, each
    seeing its own channels; `groups` equal to the channels is a depthwise convolution. With
    `connect`, each filter sees the channels that a table marks (LeCun et al. 1998, table I). With
    `flip=on` the window is mirrored, which is the convolution of mathematics.

    How the weights start is `init`'s to say: `fan_in`, `zeros`, `constant`, `uniform`, `normal`,
    `glorot`, `he`, `lecun` or `orthogonal`, with `spread` as its amount.

    Weights: `weight` (filters × channels/groups × window; with `connect`, connections × window,
    filter by filter), `bias` (filters).
    Output size: floor((I + P − K) / S) + 1 with P the total padding, K the effective window.
    """

    category: ClassVar[str] = "convolution"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("conv 4@3x3", "3@8x8"),
        Sample("conv 4@3x3 pad=half", "3@7x9"),
        Sample("conv 6@3x2 /2x1 pad=same", "4@9x8"),
        Sample("conv 4@3 dilation=2 bias=off", "2@12"),
        Sample("conv 6@3x3 groups=3 pad=[(0, 1), (2, 1)]", "3@6x6"),
        Sample("conv 2@2 /2", "2@4x5x6"),
        Sample('conv 3@2x2 connect="XX. .XX"', "2@4x4"),
        Sample("conv 2@3x2 flip=on pad=1", "2@4x5"),
        Sample("conv 4@3x3 init=he", "3@5x5"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("conv 4@9x9", "3@8x8", "E202"),
        Mistake("conv 4@3x3x3", "3@8x8", "E201"),
        Mistake("conv 4@3x3 groups=2", "3@8x8", "E204"),
        Mistake("conv 4@3x3 padding=1", "3@8x8", "E103"),
        Mistake("conv 4", "3@8x8", "E104"),
        Mistake('conv 2@3x3 connect="XX"', "3@8x8", "E201"),
        Mistake("conv 4@3x3", "12", "E203"),
    )

    takes_epilogue: ClassVar[bool] = True

    filters: int = attribute(Count(), "the number of filters", notation="filters")
    window: Shape = attribute(WindowKind(), "the window of its filters", notation="window")
    stride: Shape = attribute(PerAxis(), "the step of the window", notation="stride", default=1)
    dilation: Shape = attribute(PerAxis(), "the distance between window elements", default=1)
    pad: Pads = attribute(Padding(), "zeros around the input", default=Word("valid"))
    groups: int = attribute(Count(), "groups of channels that do not see each other", default=1)
    bias: bool = attribute(Flag(), "whether a bias is added", default=True)
    connect: Table | None = attribute(
        Connections(), "which channels each filter sees", default=None
    )
    flip: bool = attribute(Flag(), "whether the window is mirrored", default=False)

    @property
    def composite(self) -> bool:
        return self.connect is not None or self.flip

    @property
    def differentiable(self) -> bool:
        # Otherwise its expansion is, down to the weights as they are stored.
        return not self.composite

    def _connections(self) -> list[tuple[int, int]]:
        """The (filter, channel) pairs of the table, filter by filter."""
        assert self.connect is not None
        return [(f, c) for f in range(self.filters) for c, row in enumerate(self.connect) if row[f]]

    def _pairs(self, x: TensorType) -> int:
        """How many (filter, channel) pairs are connected."""
        if self.connect is not None:
            return sum(sum(row) for row in self.connect)
        return self.filters * (x.channels // self.groups)

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        window = math.prod(self.window)
        shape: Shape = (self.filters, x[0].channels // self.groups)
        if self.connect is not None:
            shape = (self._pairs(x[0]),)
        fan_in = self._pairs(x[0]) // self.filters * window
        fan_out = self._pairs(x[0]) // x[0].channels * window
        full = (*shape, *self.window)
        return self.initialised(full, self.filters, fan_in, fan_out, self.bias)

    def result(self, *x: TensorType) -> TensorType:
        _check_groups(x[0].channels, self.filters, self.groups)
        if self.connect is not None and self.groups > 1:
            raise Problem("E201", "`connect` of `conv` bars `groups`", attribute="connect")
        spatial = output_sizes(
            self.kind, x[0].spatial, self.window, self.stride, self.pad, self.dilation
        )
        return TensorType((self.filters, *spatial))

    def macs(self, *x: TensorType) -> int:
        return self._pairs(x[0]) * math.prod((*self.window, *self.result(*x).spatial))

    def flops(self, *x: TensorType) -> int:
        return 2 * self.macs(*x) + (self.result(*x).size if self.bias else 0)

    def caption(self, *x: TensorType) -> Caption:
        depthwise = 1 < self.groups == x[0].channels
        name = "depthwise conv" if depthwise else "conv"
        grouped = self.groups > 1 and not depthwise
        notes = (f"{self.groups} groups",) * grouped + _dilated(self.dilation)
        return Caption(name, self.window, self.filters, steps(self.stride), notes)

    def sees(self, *x: TensorType) -> Window:
        covered = effective(self.window, self.dilation)
        return Window(covered, self.stride, tuple(before for before, _ in self.pad))

    def geometry(self, input: Shape, output: Shape) -> Geometry:
        """The window over spatial sizes."""
        before = tuple(b for b, _ in self.pad)
        return Geometry(input, output, self.window, self.stride, before, self.dilation)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        return Convolution(
            "forward",
            x[0],
            x[1],
            self.filters,
            self.groups,
            self.geometry(x[2:], y[2:]),
            self.bias,
        )

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        return windows_in_blocks(blocking, node, *_worth_blocks(blocking, node.inputs[0]))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, w = inputs[:2]
        if self.connect is not None:
            dense = np.zeros((self.filters, x.shape[1], *self.window), w.dtype)
            for row, (f, c) in zip(w, self._connections(), strict=True):
                dense[f, c] = row
            w = dense
        if self.flip:
            w = np.flip(w, tuple(range(2, w.ndim)))
        x = np.pad(x, ((0, 0), (0, 0), *self.pad))
        y = sum(
            np.einsum("ngc...,gfc->ngf...", _grouped(x[view], self.groups), tap)
            for view, tap in _taps(self, x.shape[2:], w)
        )
        assert isinstance(y, np.ndarray)
        y = y.reshape(y.shape[0], self.filters, *y.shape[3:])
        if self.bias:
            y = y + inputs[2].reshape(-1, *(1,) * len(self.window))
        return np.ascontiguousarray(y)

    def specialise(
        self, b: Builder, node: Node, training: bool, processes: int
    ) -> tuple[Value, ...] | None:
        # A window that is the whole input has one place: one product, its gradients, too.
        x, w, *bias = node.inputs
        inputs = math.prod(self.window) * x.type.channels
        one_place = self.window == x.type.spatial and not any(map(any, self.pad))
        if self.composite or self.groups > 1 or not one_place or inputs == x.type.channels:
            return None
        flat = b.add(Reshape(TensorType((self.filters, inputs), batched=False)), w)
        dense = Dense(
            units=self.filters,
            bias=self.bias,
            init=self.init,
            spread=self.spread,
            bias_fill=self.bias_fill,
        )
        y = b.add(dense, x, flat, *bias, name=node.name)
        return (b.add(Reshape(node.output.type), y),)

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...] | None:
        if not self.composite:
            return None
        x, w, *bias = node.inputs
        if self.connect is not None:
            place = {pair: k for k, pair in enumerate(self._connections())}
            pairs = itertools.product(range(self.filters), range(x.type.channels))
            w = along(b, w, 0, take([place.get(pair, -1) for pair in pairs]))
            shape = (self.filters, x.type.channels, *self.window)
            w = b.add(Reshape(TensorType(shape, batched=False)), w)
        if self.flip:
            for axis, size in enumerate(self.window, 2):
                w = along(b, w, axis, take(range(size - 1, -1, -1)))
        plain = replace(self, connect=None, flip=False)
        return (b.add(plain, x, w, *bias, name=node.name),)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        x, w = node.inputs[:2]
        upstream = single(dy)
        dx = b.add(ConvInputGradient(self, x.type), upstream, w) if needs[0] else None
        dw = b.add(ConvWeightGradient(self, w.type), x, upstream) if needs[1] else None
        if not self.bias:
            return dx, dw
        db = None
        if needs[2]:
            db = compute(b, operand(0), [upstream], upstream.type, node.inputs[2].type)
        return dx, dw, db


def _dilated(dilation: Shape) -> tuple[str, ...]:
    """The note of a caption about a dilation, where there is one."""
    shown = times(steps(dilation))
    return (f"dilation {shown}",) if shown else ()


def _check_groups(channels: int, filters: int, groups: int) -> None:
    for count, what in ((channels, "input channels"), (filters, "filters")):
        if count % groups:
            near = [
                g
                for g in range(1, min(channels, filters, 4096) + 1)
                if channels % g == filters % g == 0
            ]
            options = ", ".join(str(g) for g in near[:8])
            raise Problem(
                "E204",
                f"{count} {what} do not divide into {groups} groups",
                f"groups that divide both {channels} channels and {filters} filters: {options}",
                attribute="groups",
            )


def _worth_blocks(blocking: Blocking, x: Value) -> tuple[Value, ...]:
    """The input, unless it is plain and has few channels, as images: they would fill no block."""
    return (x,) if blocking.has(x) or x.type.channels > 4 else ()


def _grouped(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(x.shape[0], groups, -1, *x.shape[2:])


def _taps(op: Conv, padded: Shape, w: np.ndarray) -> list[tuple[tuple[slice, ...], np.ndarray]]:
    """For every window element: the view of the padded input it meets, and its weights."""
    count = [
        (p - d * (k - 1) - 1) // s + 1
        for p, k, s, d in zip(padded, op.window, op.stride, op.dilation, strict=True)
    ]
    grouped = w.reshape(op.groups, -1, *w.shape[1:])
    found = []
    for k in itertools.product(*(range(size) for size in op.window)):
        view = tuple(
            slice(i * d, i * d + (n - 1) * s + 1, s)
            for i, d, n, s in zip(k, op.dilation, count, op.stride, strict=True)
        )
        tap: tuple[Any, ...] = (..., *k)
        found.append(((slice(None), slice(None), *view), grouped[tap]))
    return found


@dataclass(frozen=True)
class ConvInputGradient(Op):
    """The gradient of a convolution by its input, from dy and the weights."""

    kind: ClassVar[str] = "conv.input_gradient"
    category: ClassVar[str] = "convolution"
    arity: ClassVar[int | None] = 2
    takes_epilogue: ClassVar[bool] = True
    conv: Conv
    x: TensorType

    def result(self, *inputs: TensorType) -> TensorType:
        return self.x

    def flops(self, *inputs: TensorType) -> int:
        return 2 * self.conv.macs(self.x)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        dy, dx = inputs[0], outputs[0]
        geometry = self.conv.geometry(dx[2:], dy[2:])
        return Convolution("input", dx[0], dx[1], dy[1], self.conv.groups, geometry)

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        return windows_in_blocks(blocking, node, node.inputs[0])

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        dy, w = inputs
        conv = self.conv
        padded = [i + sum(p) for i, p in zip(self.x.spatial, conv.pad, strict=True)]
        dx = np.zeros((dy.shape[0], self.x.channels, *padded), dy.dtype)
        for view, tap in _taps(conv, tuple(padded), w):
            part = np.einsum("ngf...,gfc->ngc...", _grouped(dy, conv.groups), tap)
            dx[view] += part.reshape(part.shape[0], -1, *part.shape[3:])
        inner = tuple(
            slice(before, before + i)
            for i, (before, _) in zip(self.x.spatial, conv.pad, strict=True)
        )
        return np.ascontiguousarray(dx[(slice(None), slice(None), *inner)])

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        x, w = node.inputs
        upstream = single(dy)
        back = b.add(replace(self.conv, bias=False), upstream, w) if needs[0] else None
        dw = b.add(ConvWeightGradient(self.conv, w.type), upstream, x) if needs[1] else None
        return back, dw

    def notation(self) -> str:
        return f"conv.input_gradient of {self.conv.notation()}"


@dataclass(frozen=True)
class ConvWeightGradient(Op):
    """The gradient of a convolution by its weights, from the input and dy."""

    kind: ClassVar[str] = "conv.weight_gradient"
    category: ClassVar[str] = "convolution"
    arity: ClassVar[int | None] = 2
    conv: Conv
    w: TensorType

    def result(self, *inputs: TensorType) -> TensorType:
        return self.w

    def flops(self, *inputs: TensorType) -> int:
        return 2 * self.conv.macs(inputs[0])

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, dy = inputs
        geometry = self.conv.geometry(x[2:], dy[2:])
        return Convolution("weight", x[0], x[1], dy[1], self.conv.groups, geometry)

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        x, dy = node.inputs
        return windows_in_blocks(blocking, node, *_worth_blocks(blocking, x), dy, result=False)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        x, dy = inputs
        conv = self.conv
        x = np.pad(x, ((0, 0), (0, 0), *conv.pad))
        dw = np.zeros(self.w.shape, x.dtype)
        target = dw.reshape(conv.groups, -1, *dw.shape[1:])
        dy = _grouped(dy, conv.groups)
        flat_dy = np.moveaxis(dy, 0, 2).reshape(*dy.shape[1:3], -1)
        for k, (view, _) in zip(
            itertools.product(*(range(size) for size in conv.window)),
            _taps(conv, x.shape[2:], dw),
            strict=True,
        ):
            seen = _grouped(x[view], conv.groups)
            flat_x = np.moveaxis(seen, 0, 2).reshape(*seen.shape[1:3], -1)
            tap: tuple[Any, ...] = (..., *k)
            target[tap] = np.einsum("gfs,gcs->gfc", flat_dy, flat_x)
        return dw

    def notation(self) -> str:
        return f"conv.weight_gradient of {self.conv.notation()}"


@op("deconv")
@dataclass(frozen=True)
class Deconv(Initialised):
    """Transposed convolution: the map whose gradient is a convolution; it enlarges by its stride.

    Every input element adds its window, times the weights, to the result; the result is then cut by
    `pad`. Output size: (I − 1)·S + K − P + extra, P the total padding and K the effective window.

    Weights: `weight` (channels × filters/groups × window), `bias` (filters).
    (Zeiler et al. 2010; Dumoulin and Visin 2016)
    """

    category: ClassVar[str] = "convolution"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("deconv 3@2x2 /2", "4@3x5"),
        Sample("deconv 4@3x3 /2 pad=1 extra=1", "2@4x3"),
        Sample("deconv 4@3 groups=2 bias=off", "4@5"),
        Sample("deconv 2@2 /2", "3@2x3x2"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("deconv 4@3x3 groups=2", "3@8x8", "E204"),
        Mistake("deconv 4@3x3 pad=9", "3@4x4", "E202"),
        Mistake("deconv 4@3x3 extra=1", "3@4x4", "E201"),
        Mistake("deconv 4@3x3", "12", "E203"),
    )

    filters: int = attribute(Count(), "the number of filters", notation="filters")
    window: Shape = attribute(WindowKind(), "the window of its filters", notation="window")
    stride: Shape = attribute(PerAxis(), "the factor of enlargement", notation="stride", default=1)
    dilation: Shape = attribute(PerAxis(), "the distance between window elements", default=1)
    pad: Pads = attribute(Margin(), "what is cut from the result's sides", default=0)
    extra: Shape = attribute(PerAxis(least=0), "what is added to the result's end", default=0)
    groups: int = attribute(Count(), "groups of channels that do not see each other", default=1)
    bias: bool = attribute(Flag(), "whether a bias is added", default=True)

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        each, window = self.filters // self.groups, math.prod(self.window)
        fans = each * window, x[0].channels // self.groups * window
        shape = (x[0].channels, each, *self.window)
        return self.initialised(shape, self.filters, *fans, self.bias)

    def result(self, *x: TensorType) -> TensorType:
        _check_groups(x[0].channels, self.filters, self.groups)
        covered = effective(self.window, self.dilation)
        sizes = []
        for i, s, k, (before, after), extra in zip(
            x[0].spatial, self.stride, covered, self.pad, self.extra, strict=True
        ):
            if extra >= s and extra:
                raise Problem(
                    "E201", f"`extra` of `deconv` must be below the stride ({s})", attribute="extra"
                )
            size = (i - 1) * s + k - before - after + extra
            if size < 1:
                raise Problem(
                    "E202",
                    f"`pad` of `deconv` leaves nothing of its result: "
                    f"({i} - 1)*{s} + {k} - {before + after} + {extra} = {size}",
                    attribute="pad",
                )
            sizes.append(size)
        return TensorType((self.filters, *sizes))

    def macs(self, *x: TensorType) -> int:
        return x[0].size * self.filters // self.groups * math.prod(self.window)

    def flops(self, *x: TensorType) -> int:
        return 2 * self.macs(*x) + (self.result(*x).size if self.bias else 0)

    def caption(self, *x: TensorType) -> Caption:
        notes = (f"{self.groups} groups",) * (self.groups > 1) + _dilated(self.dilation)
        return Caption("up-conv", self.window, self.filters, steps(self.stride), notes)

    def sees(self, *x: TensorType) -> Window:
        # Input i reaches the elements from i·S − P to i·S − P + K − 1.
        covered = effective(self.window, self.dilation)
        axes = list(zip(covered, self.stride, self.pad, strict=True))
        return Window(
            tuple(Fraction(k + s - 1, s) for k, s, _ in axes),
            tuple(Fraction(1, s) for _, s, _ in axes),
            tuple(Fraction(k - 1 - before, s) for k, s, (before, _) in axes),
        )

    def _convolution(self, x: TensorType) -> Conv:
        """The convolution from the result back to the input."""
        return Conv(
            filters=x.channels,
            window=self.window,
            stride=self.stride,
            dilation=self.dilation,
            pad=self.pad,
            groups=self.groups,
            bias=False,
            connect=None,
            flip=False,
            init="fan_in",
            spread=0.0,
            bias_fill=0.0,
        )

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, w, *bias = node.inputs
        inner = ConvInputGradient(self._convolution(x.type), node.output.type)
        if not bias:
            return (b.add(inner, x, w, name=node.name),)
        value = b.add(inner, x, w)
        total = operand(0) + operand(1)
        return (compute(b, total, [value, *bias], value.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        x, w = inputs[:2]
        type = TensorType(x.shape[1:])
        y = ConvInputGradient(self._convolution(type), self.result(type)).evaluate(x, w)
        if self.bias:
            y = y + inputs[2].reshape(-1, *(1,) * len(self.window))
        return y

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        x, w = node.inputs[:2]
        upstream = single(dy)
        conv = self._convolution(x.type)
        dx = b.add(conv, upstream, w) if needs[0] else None
        dw = b.add(ConvWeightGradient(conv, w.type), upstream, x) if needs[1] else None
        if not self.bias:
            return dx, dw
        db = None
        if needs[2]:
            db = compute(b, operand(0), [upstream], upstream.type, node.inputs[2].type)
        return dx, dw, db
