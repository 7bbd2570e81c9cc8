"""Pooling: the maximum or the mean of every window, and their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from convdsl.graph import Builder, Initialiser, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.attributes import Flag, Padding, Pads, PerAxis, Stride, Word, attribute
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
)
from convdsl.ops.blocks import windows_in_blocks
from convdsl.ops.families import (
    AdaptiveMaximum,
    Family,
    Geometry,
    Pooling,
    PoolingGradient,
    WinnerGradient,
    operand,
)
from convdsl.ops.primitive import compute
from convdsl.ops.windows import effective, output_sizes

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking


def _check(kind: str, x: TensorType, window: Shape, dilation: Shape, pad: Pads) -> None:
    for k, (before, after) in zip(effective(window, dilation), pad, strict=True):
        if max(before, after) >= k:
            raise Problem(
                "E201",
                f"`pad` of `{kind}` must be below the window ({k}), not {max(before, after)}",
                "a window that holds nothing but padding has no value",
                attribute="pad",
            )


def _check_holes(op: Max, x: TensorType, output: Shape) -> None:
    """Refuses a dilated window all of whose elements fall into the padding."""
    axes = zip(x.spatial, output, op.window, op.stride, op.dilation, op.pad, strict=True)
    for i, n, k, s, d, (before, _) in axes:
        for start in range(-before, n * s - before, s) if d > 1 else ():
            if not any(0 <= start + j * d < i for j in range(k)):
                raise Problem(
                    "E201",
                    f"`pad` of `{op.kind}` leaves the window at {start} nothing but padding",
                    "a window that holds nothing but padding has no value",
                    attribute="pad",
                )


def _caption(name: str, op: Max | Avg | Subsample, x: TensorType) -> Caption:
    if op.sees(x).whole:
        return Caption(f"global {name}")
    return Caption(name, op.window, stride=steps(op.stride))


def _geometry(op: Max | Avg, input: Shape, output: Shape) -> Geometry:
    before = tuple(b for b, _ in op.pad)
    dilation = op.dilation if isinstance(op, Max) else (1,) * len(op.window)
    return Geometry(input, output, op.window, op.stride, before, dilation)


def _windows(op: Max | Avg, x: np.ndarray, fill: float) -> np.ndarray:
    """Every window as the last axis: planes' shape N×C×output×(window elements)."""
    import numpy as np

    rank = len(op.window)
    dilation = op.dilation if isinstance(op, Max) else (1,) * rank
    output = output_sizes(op.kind, x.shape[2:], op.window, op.stride, op.pad, dilation, op.ceil)
    covered = effective(op.window, dilation)
    reach = [(o - 1) * s + k for o, s, k in zip(output, op.stride, covered, strict=True)]
    pads = [
        (before, max(after, r - before - i))
        for (before, after), r, i in zip(op.pad, reach, x.shape[2:], strict=True)
    ]
    x = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=fill)
    views = np.lib.stride_tricks.sliding_window_view(x, covered, axis=tuple(range(2, 2 + rank)))
    steps = tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(output, op.stride, strict=True))
    taps = tuple(slice(None, None, d) for d in dilation)
    views = views[(slice(None), slice(None), *steps, *taps)]
    return views.reshape(*views.shape[: 2 + rank], -1)


@op("max")
@dataclass(frozen=True)
class Max(Op):
    """Max pooling: the largest element of every window, channel by channel.

    The stride defaults to the window. Padding is −∞, so it never wins; a NaN in a window makes the
    result NaN. With `ceil=on` the output size rounds up, and a last window that would start in the
    padding after the input is dropped. `max global` takes the whole map. Where several elements
    are the largest, the gradient goes to the first of them in row-major order.
    """

    category: ClassVar[str] = "pooling"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("max 2x2", "3@8x8"),
        Sample("max 3x3 /2 pad=1", "2@9x7"),
        Sample("max 3 /2 ceil=on", "2@8"),
        Sample("max 2x3 /1 dilation=2", "2@7x8"),
        Sample("max 2", "2@4x5x6"),
        Sample("max global", "3@5x4"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("max 9x9", "3@8x8", "E202"),
        Mistake("max 2x2 pad=2", "3@8x8", "E201"),
        Mistake("max 2 /3 pad=1 dilation=3", "3@2", "E201"),
        Mistake("max", "3@8x8", "E104"),
        Mistake("max 2x2 mode=1", "3@8x8", "E103"),
    )

    window: Shape = attribute(WindowKind(word="global"), "a window", notation="window")
    stride: Shape = attribute(
        Stride(), "the step of the window", notation="stride", default=Word("window")
    )
    dilation: Shape = attribute(PerAxis(), "the distance between window elements", default=1)
    pad: Pads = attribute(Padding(), "−∞ around the input", default=Word("valid"))
    ceil: bool = attribute(Flag(), "whether the output size rounds up", default=False)

    def result(self, *x: TensorType) -> TensorType:
        _check(self.kind, x[0], self.window, self.dilation, self.pad)
        spatial = output_sizes(
            self.kind, x[0].spatial, self.window, self.stride, self.pad, self.dilation, self.ceil
        )
        _check_holes(self, x[0], spatial)
        return TensorType((x[0].channels, *spatial))

    def flops(self, *x: TensorType) -> int:
        return self.result(*x).size * math.prod(self.window)

    def caption(self, *x: TensorType) -> Caption:
        return _caption("max pool", self, x[0])

    def sees(self, *x: TensorType) -> Window:
        covered = effective(self.window, self.dilation)
        if covered == x[0].spatial:
            return Window(whole=True)
        return Window(covered, self.stride, tuple(before for before, _ in self.pad))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        return Pooling("maximum", x[0], x[1], _geometry(self, x[2:], y[2:]))

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        x = node.inputs[0]
        return windows_in_blocks(blocking, node, x) if blocking.has(x) else None

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.asarray(_windows(self, inputs[0], -math.inf).max(axis=-1))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        winner = b.add(MaxWinner(self), node.inputs[0])
        return [b.add(PoolGradient(self, node.inputs[0].type), winner, single(dy))]


@dataclass(frozen=True)
class MaxWinner(Op):
    """Which element of its window the maximum is: row-major, the first of equals.

    Counted in float32, exact up to 2²⁴, so that winners lie and move as values do.
    """

    kind: ClassVar[str] = "max.winner"
    category: ClassVar[str] = "pooling"
    max: Max

    def result(self, *x: TensorType) -> TensorType:
        return self.max.result(*x)

    def flops(self, *x: TensorType) -> int:
        return self.max.flops(*x)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        return Pooling("winner", x[0], x[1], _geometry(self.max, x[2:], y[2:]))

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        x = node.inputs[0]
        return windows_in_blocks(blocking, node, x) if blocking.has(x) else None

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        plane = np.arange(math.prod(x.shape[2:]), dtype=np.float64).reshape(1, 1, *x.shape[2:])
        values = _windows(self.max, x, -math.inf)
        positions = np.broadcast_to(_windows(self.max, plane, -1), values.shape)
        best = (values == values.max(axis=-1, keepdims=True)) | np.isnan(values)
        # Of an input of −∞, too, the padding is not the first.
        return np.asarray((best & (positions >= 0)).argmax(axis=-1), x.dtype)

    def notation(self) -> str:
        return f"max.winner of {self.max.notation()}"


@op("avg")
@dataclass(frozen=True)
class Avg(Op):
    """Average pooling: the mean of every window, channel by channel.

    The stride defaults to the window. With `count_pad=on` padding counts as zeros in the mean;
    otherwise the mean is over the elements inside the input. `avg global` takes the whole map.
    With `ceil=on` the output size rounds up; elements beyond the padding never count.
    """

    category: ClassVar[str] = "pooling"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("avg 2x2", "3@8x8"),
        Sample("avg 3x3 /2 pad=1", "2@9x7"),
        Sample("avg 3x3 /2 pad=1 count_pad=on ceil=on", "2@8x8"),
        Sample("avg 3 /2", "2@8"),
        Sample("avg 2", "2@4x5x6"),
        Sample("avg global", "3@5x4"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("avg 9x9", "3@8x8", "E202"),
        Mistake("avg 2x2 pad=2", "3@8x8", "E201"),
        Mistake("avg", "3@8x8", "E104"),
        Mistake("avg 2x2 count_pad=7", "3@8x8", "E201"),
    )

    window: Shape = attribute(WindowKind(word="global"), "a window", notation="window")
    stride: Shape = attribute(
        Stride(), "the step of the window", notation="stride", default=Word("window")
    )
    pad: Pads = attribute(Padding(), "zeros around the input", default=Word("valid"))
    ceil: bool = attribute(Flag(), "whether the output size rounds up", default=False)
    count_pad: bool = attribute(Flag(), "whether padding counts in the mean", default=False)

    def result(self, *x: TensorType) -> TensorType:
        _check(self.kind, x[0], self.window, (1,) * len(self.window), self.pad)
        spatial = output_sizes(
            self.kind, x[0].spatial, self.window, self.stride, self.pad, ceil=self.ceil
        )
        return TensorType((x[0].channels, *spatial))

    def flops(self, *x: TensorType) -> int:
        return self.result(*x).size * (math.prod(self.window) + 1)

    def caption(self, *x: TensorType) -> Caption:
        return _caption("avg pool", self, x[0])

    def sees(self, *x: TensorType) -> Window:
        if self.window == x[0].spatial:
            return Window(whole=True)
        return Window(self.window, self.stride, tuple(before for before, _ in self.pad))

    def _after(self) -> Shape:
        return tuple(after for _, after in self.pad) if self.count_pad else ()

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        geometry = _geometry(self, x[2:], y[2:])
        return Pooling("mean", x[0], x[1], geometry, self.count_pad, self._after())

    def divisor(self, spatial: Shape) -> np.ndarray:
        """How many elements each mean divides by, shaped as the spatial output."""
        import numpy as np

        ones = np.ones((1, 1, *spatial))
        if self.count_pad:
            ones = np.pad(ones, ((0, 0), (0, 0), *self.pad), constant_values=1)
            unpadded = Avg(
                window=self.window,
                stride=self.stride,
                pad=((0, 0),) * len(self.pad),
                ceil=self.ceil,
                count_pad=False,
            )
            counts = _windows(unpadded, ones, 0).sum(axis=-1)
            cut = output_sizes(
                self.kind, spatial, self.window, self.stride, self.pad, ceil=self.ceil
            )
            return np.asarray(counts[(slice(None), slice(None), *(slice(c) for c in cut))])
        return np.asarray(_windows(self, ones, 0).sum(axis=-1))

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        x = node.inputs[0]
        return windows_in_blocks(blocking, node, x) if blocking.has(x) else None

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        total = _windows(self, x, 0).sum(axis=-1)
        return np.asarray(total / self.divisor(x.shape[2:]), x.dtype)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        return [b.add(PoolGradient(self, node.inputs[0].type), single(dy))]


@dataclass(frozen=True)
class PoolGradient(Op):
    """The gradient of a pooling by its input: from winner and dy (max), or from dy (mean)."""

    kind: ClassVar[str] = "pool.gradient"
    category: ClassVar[str] = "pooling"
    takes_epilogue: ClassVar[bool] = True
    arity: ClassVar[int | None] = None
    pool: Max | Avg
    x: TensorType

    def result(self, *inputs: TensorType) -> TensorType:
        return self.x

    def flops(self, *inputs: TensorType) -> int:
        return self.pool.flops(self.x)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        dy, dx = inputs[-1], outputs[0]
        mode: Literal["maximum", "mean"] = "maximum" if isinstance(self.pool, Max) else "mean"
        geometry = _geometry(self.pool, dx[2:], dy[2:])
        if isinstance(self.pool, Max):
            return PoolingGradient(mode, dx[0], dx[1], geometry)
        pool = self.pool
        return PoolingGradient(mode, dx[0], dx[1], geometry, pool.count_pad, pool._after())

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        # Winners lie as the input of their pooling did; means have no such witness, and what takes
        # the gradient is a convolution's as a rule.
        known = blocking.has(node.inputs[0])
        worth = isinstance(self.pool, Avg) and self.x.channels > 4
        return windows_in_blocks(blocking, node, *node.inputs) if known or worth else None

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        dy = inputs[-1]
        if isinstance(self.pool, Max):
            plane = np.arange(math.prod(self.x.spatial), dtype=np.float64)
            positions = _windows(self.pool, plane.reshape(1, 1, *self.x.spatial), -1)
            positions = np.broadcast_to(positions, (*dy.shape, positions.shape[-1]))
            numbers = inputs[0].astype(np.int64)[..., None]
            winner = np.take_along_axis(positions, numbers, axis=-1)[..., 0]
            return scattered(winner.astype(np.int64), dy, self.x)
        size = math.prod(self.x.spatial)
        dx = np.zeros((*dy.shape[:2], size), dy.dtype)
        share = dy / self.pool.divisor(self.x.spatial)
        plane = np.arange(size, dtype=np.float64).reshape(1, 1, *self.x.spatial)
        seen = _windows(self.pool, plane, -1)[0, 0].reshape(-1, math.prod(self.pool.window))
        flat = share.reshape(*dy.shape[:2], -1)
        for column in seen.T.astype(np.int64):
            inside = column >= 0
            n, c = np.ogrid[: dy.shape[0], : dy.shape[1]]
            np.add.at(dx, (n[..., None], c[..., None], column[inside]), flat[..., inside])
        return dx.reshape(dy.shape[0], *self.x.shape)

    def notation(self) -> str:
        return f"pool.gradient of {self.pool.notation()}"


@op("subsample")
@dataclass(frozen=True)
class Subsample(Op):
    """LeNet-5's subsampling: every window's sum times a coefficient plus a bias, per channel.

    The windows do not overlap unless a stride is given. Weights: `coefficient`, `bias` (one value
    per channel each). (LeCun et al. 1998, section II.B)
    """

    category: ClassVar[str] = "pooling"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("subsample 2x2", "3@8x6"),
        Sample("subsample 3 /2", "2@9"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("subsample 9x9", "3@8x6", "E202"),
        Mistake("subsample", "3@8x6", "E104"),
    )

    window: Shape = attribute(WindowKind(), "a window", notation="window")
    stride: Shape = attribute(
        Stride(), "the step of the window", notation="stride", default=Word("window")
    )

    def _pool(self) -> Avg:
        pad = ((0, 0),) * len(self.window)
        return Avg(window=self.window, stride=self.stride, pad=pad, ceil=False, count_pad=False)

    def weights(self, *x: TensorType) -> tuple[Weight, ...]:
        bound = Initialiser("uniform", 1 / math.sqrt(math.prod(self.window)))
        shape = (x[0].channels,)
        return Weight("coefficient", shape, bound), Weight("bias", shape, bound)

    def result(self, *x: TensorType) -> TensorType:
        spatial = output_sizes(
            self.kind, x[0].spatial, self.window, self.stride, ((0, 0),) * x[0].rank
        )
        return TensorType((x[0].channels, *spatial))

    def flops(self, *x: TensorType) -> int:
        return self.result(*x).size * (math.prod(self.window) + 2)

    def caption(self, *x: TensorType) -> Caption:
        return _caption("subsampling", self, x[0])

    def sees(self, *x: TensorType) -> Window:
        return Window(self.window, self.stride, (0,) * len(self.window))

    def expand(self, b: Builder, node: Node) -> tuple[Value, ...]:
        x, coefficient, bias = node.inputs
        mean = b.add(self._pool(), x)
        total = operand(0) * float(math.prod(self.window)) * operand(1) + operand(2)
        return (compute(b, total, [mean, coefficient, bias], mean.type, name=node.name),)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        x, coefficient, bias = inputs
        total = _windows(self._pool(), x, 0).sum(axis=-1)
        along = (-1, *(1,) * len(self.window))
        y: np.ndarray = total * coefficient.reshape(along) + bias.reshape(along)
        return y


@op("adaptive_max")
@dataclass(frozen=True)
class AdaptiveMax(Op):
    """Max pooling to a given size: output o covers floor(o·I/O) up to ceil((o+1)·I/O).

    Where several elements are the largest, the gradient goes to the first in row-major order.
    """

    category: ClassVar[str] = "pooling"
    spatial: ClassVar[bool] = True
    samples: ClassVar[Sequence[Sample]] = (
        Sample("adaptive_max 2x3", "2@5x7"),
        Sample("adaptive_max 1", "3@6"),
        Sample("adaptive_max 4x4", "2@8x8"),
    )
    mistakes: ClassVar[Sequence[Mistake]] = (
        Mistake("adaptive_max", "2@5x7", "E104"),
        Mistake("adaptive_max 0", "2@5x7", "E201"),
        Mistake("adaptive_max 2", "9", "E203"),
    )

    window: Shape = attribute(WindowKind(), "the resulting sizes", notation="window")

    def _ranges(self, spatial: Shape) -> list[list[range]]:
        """Per axis, what every output covers."""
        return [
            [range(o * i // n, -(-(o + 1) * i // n)) for o in range(n)]
            for i, n in zip(spatial, self.window, strict=True)
        ]

    def result(self, *x: TensorType) -> TensorType:
        return TensorType((x[0].channels, *self.window))

    def flops(self, *x: TensorType) -> int:
        widest = (max(len(r) for r in axis) for axis in self._ranges(x[0].spatial))
        return self.result(*x).size * math.prod(widest)

    def sees(self, *x: TensorType) -> Window:
        sizes = tuple(max(len(r) for r in axis) for axis in self._ranges(x[0].spatial))
        if sizes == x[0].spatial:
            return Window(whole=True)
        steps = tuple(max(1, i // n) for i, n in zip(x[0].spatial, self.window, strict=True))
        return Window(sizes, steps, (0,) * len(sizes))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        return AdaptiveMaximum("maximum", x[0] * x[1], tuple(x[2:]), tuple(y[2:]))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return self.winners(inputs[0])[0]

    def winners(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The maxima and their row-major positions in the plane."""
        import numpy as np

        ranges = self._ranges(x.shape[2:])
        places = np.arange(math.prod(x.shape[2:])).reshape(x.shape[2:])
        y = np.zeros((*x.shape[:2], *self.window), x.dtype)
        where = np.zeros(y.shape, np.int64)
        for o in np.ndindex(*self.window):
            view = np.ix_(*(axis[k] for axis, k in zip(ranges, o, strict=True)))
            flat = x[(slice(None), slice(None), *view)].reshape(*x.shape[:2], -1)
            best = flat.argmax(axis=-1)
            y[(..., *o)] = np.take_along_axis(flat, best[..., None], -1)[..., 0]
            where[(..., *o)] = places[view].reshape(-1)[best]
        return y, where

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        winner = b.add(AdaptiveWinner(self), node.inputs[0])
        return [b.add(AdaptiveMaxGradient(self, node.inputs[0].type), winner, single(dy))]


@dataclass(frozen=True)
class AdaptiveWinner(Op):
    """Where in its plane the maximum of every window is: row-major, the first of equals."""

    kind: ClassVar[str] = "adaptive_max.winner"
    category: ClassVar[str] = "pooling"
    max: AdaptiveMax

    def result(self, *x: TensorType) -> TensorType:
        return TensorType(self.max.result(*x).shape, "int64")

    def flops(self, *x: TensorType) -> int:
        return self.max.flops(*x)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        x, y = inputs[0], outputs[0]
        return AdaptiveMaximum("winner", x[0] * x[1], tuple(x[2:]), tuple(y[2:]))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return self.max.winners(inputs[0])[1]


@dataclass(frozen=True)
class AdaptiveMaxGradient(Op):
    """The gradient of adaptive max pooling by its input, from winner and dy."""

    kind: ClassVar[str] = "adaptive_max.gradient"
    category: ClassVar[str] = "pooling"
    arity: ClassVar[int | None] = None
    max: AdaptiveMax
    x: TensorType

    def result(self, *inputs: TensorType) -> TensorType:
        return self.x

    def flops(self, *inputs: TensorType) -> int:
        return self.max.flops(self.x)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        dy, dx = inputs[1], outputs[0]
        return WinnerGradient(dx[0] * dx[1], math.prod(dx[2:]), math.prod(dy[2:]))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return scattered(inputs[0], inputs[1], self.x)


def scattered(winner: np.ndarray, dy: np.ndarray, x: TensorType) -> np.ndarray:
    """Every element of dy added at its winner's position in a plane of zeros."""
    import numpy as np

    dx = np.zeros((*dy.shape[:2], math.prod(x.spatial)), dy.dtype)
    n, c = np.ogrid[: dy.shape[0], : dy.shape[1]]
    flat = winner.reshape(*dy.shape[:2], -1)
    np.add.at(dx, (n[..., None], c[..., None], flat), dy.reshape(flat.shape))
    return dx.reshape(dy.shape[0], *x.shape)
