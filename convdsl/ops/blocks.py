"""Feature maps in blocks of channels: the ops that compute on them, and the ones between layouts.

A target whose registers hold several numbers wants as many channels side by side at every position:
C×H×W becomes ⌈C/L⌉×H×W×L, an ordinary type of one axis more (Georganas et al. 2018). What lies in
the lanes beyond the last channel is never read: every op here keeps channels apart, and
convolutions count only real ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Graph, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Op
from convdsl.ops.families import Convolution, Family, Pooling, PoolingGradient, Reblock
from convdsl.ops.primitive import Reshape

if TYPE_CHECKING:
    import numpy as np

LEAST = 4
"""Lanes of the narrowest block: no processor has registers of fewer."""


def in_blocks(type: TensorType, lanes: int) -> TensorType:
    """The type of a feature map's blocks."""
    shape = (-(-type.channels // lanes), *type.spatial, lanes)
    return replace(type, shape=shape)


class Blocking:
    """A graph on its way into blocks: which of its values have been put where.

    Ops ask it for their operands in the layout they want; conversions are added once.
    """

    def __init__(self, graph: Graph, most: int) -> None:
        self.most = most
        self.builder = Builder(graph)
        self.builder.nodes.clear()
        self.builder.assignments.clear()
        self._plain: dict[Value, Value] = {v: v for v in graph.variables}
        self._blocked: dict[Value, Value] = {}
        self._operands: dict[tuple[Value, Shape], Value] = {}

    def lanes(self, channels: int) -> int:
        """How many of so many channels lie side by side."""
        return min(self.most, max(LEAST, 1 << (channels - 1).bit_length()))

    def type(self, type: TensorType) -> TensorType:
        """The type of a feature map's blocks."""
        return in_blocks(type, self.lanes(type.channels))

    def has(self, value: Value) -> bool:
        """Whether a value has been computed in blocks."""
        return value in self._blocked

    def keep(self, value: Value, made: Value) -> None:
        """Let a value of the old graph be one of the new, in either layout."""
        (self._plain if made.type == value.type else self._blocked)[value] = made

    def plain(self, value: Value) -> Value:
        """A value with its channels one behind the other."""
        if value not in self._plain:
            made = self._blocked[value]
            *spatial, lanes = made.type.shape[1:]
            if math.prod(spatial) != 1 or value.type.channels % lanes:
                to = replace(value.type, shape=(value.type.channels, *spatial))
                made = self.builder.add(FromBlocks(to, lanes), made)
            self._plain[value] = self._as(made, value.type)
        return self._plain[value]

    def blocked(self, value: Value) -> Value:
        """A value with its channels in blocks."""
        if value not in self._blocked:
            self._blocked[value] = self._to_blocks(self._plain[value])
        return self._blocked[value]

    def operand(self, value: Value, over: TensorType) -> Value:
        """A value as it is aligned with the blocks of ``over``, of which it may lack axes."""
        shape = value.type.shape
        if not shape:
            return self.plain(value)
        if self.has(value) or shape == over.shape:
            return self.blocked(value)
        own = shape + (1,) * (len(over.shape) - len(shape))
        if (value, own) not in self._operands:
            made = self._as(self.plain(value), replace(value.type, shape=own))
            if own[0] == over.channels:
                made = self._to_blocks(made)
            else:
                made = self._as(made, replace(value.type, shape=(*own, 1)))
            self._operands[value, own] = made
        return self._operands[value, own]

    def _as(self, value: Value, type: TensorType) -> Value:
        return value if value.type == type else self.builder.add(Reshape(type), value)

    def _to_blocks(self, value: Value) -> Value:
        lanes = self.lanes(value.type.channels)
        if math.prod(value.type.spatial) == 1 and value.type.channels % lanes == 0:
            return self._as(value, in_blocks(value.type, lanes))
        return self.builder.add(ToBlocks(value.type, lanes), value)


@dataclass(frozen=True)
class ToBlocks(Op):
    """A feature map into blocks of so many channels; lanes beyond the last are zero."""

    kind: ClassVar[str] = "to_blocks"
    category: ClassVar[str] = "shape"
    x: TensorType
    lanes: int

    def result(self, *x: TensorType) -> TensorType:
        return in_blocks(self.x, self.lanes)

    def flops(self, *x: TensorType) -> int:
        return 0

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return _reblock(self.x, inputs[0], self.lanes)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return blocks_of(inputs[0], self.x, self.lanes)

    def notation(self) -> str:
        return f"to blocks of {self.lanes} channels"


@dataclass(frozen=True)
class FromBlocks(Op):
    """A feature map of the type ``to`` out of its blocks of so many channels."""

    kind: ClassVar[str] = "from_blocks"
    category: ClassVar[str] = "shape"
    to: TensorType
    lanes: int

    def result(self, *x: TensorType) -> TensorType:
        return self.to

    def flops(self, *x: TensorType) -> int:
        return 0

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return _reblock(self.to, outputs[0], self.lanes, back=True)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return out_of_blocks(inputs[0], self.to)

    def notation(self) -> str:
        return f"from blocks of {self.lanes} channels"


def _reblock(type: TensorType, shape: Shape, lanes: int, back: bool = False) -> Family:
    batch = shape[0] if type.batched else 1
    return Reblock(batch, type.channels, math.prod(type.spatial), lanes, back)


def blocks_of(x: np.ndarray, type: TensorType, lanes: int) -> np.ndarray:
    """An array of the type, batch first where it has one, in blocks."""
    import numpy as np

    axis = 1 if type.batched else 0
    missing = -type.channels % lanes
    x = np.pad(x, [(0, missing if a == axis else 0) for a in range(x.ndim)])
    x = x.reshape(*x.shape[:axis], -1, lanes, *x.shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(x, axis + 1, -1))


def out_of_blocks(x: np.ndarray, type: TensorType) -> np.ndarray:
    """The array of the type, batch first where it has one, out of its blocks."""
    import numpy as np

    axis = 1 if type.batched else 0
    x = np.moveaxis(x, -1, axis + 1)
    x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
    return np.ascontiguousarray(x[(slice(None),) * axis + (slice(type.channels),)])


@dataclass(frozen=True)
class InBlocks(Op):
    """An op on feature maps in blocks; an input of 1 lane is as the op itself takes it."""

    kind: ClassVar[str] = "in_blocks"
    arity: ClassVar[int | None] = None
    base: Op
    own: tuple[TensorType, ...]
    """The types of the op's inputs, out of blocks."""
    lanes: tuple[int, ...]
    """Per input and, last, for the result."""

    @property
    def category(self) -> str:  # type: ignore[override]
        return self.base.category

    @property
    def _result(self) -> TensorType:
        (result,) = self.base.infer(*self.own)
        return result

    def result(self, *x: TensorType) -> TensorType:
        return self._result if self.lanes[-1] == 1 else in_blocks(self._result, self.lanes[-1])

    def flops(self, *x: TensorType) -> int:
        data = self.own if self.base.arity is None else self.own[: self.base.arity]
        return self.base.flops(*data)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        batch = next(s[0] for s, t in zip(inputs, self.own, strict=True) if t.batched)
        shapes = [t.with_batch(batch) for t in self.own]
        inner = self.base.family(shapes, [self._result.with_batch(batch)])
        match inner:
            case Convolution(direction="forward"):
                return replace(inner, x_lanes=self.lanes[0], y_lanes=self.lanes[-1])
            case Convolution(direction="input"):
                return replace(inner, y_lanes=self.lanes[0], x_lanes=self.lanes[-1])
            case Convolution():
                return replace(inner, x_lanes=self.lanes[0], y_lanes=self.lanes[1])
            case Pooling() | PoolingGradient():
                lanes = self.lanes[0]
                return replace(inner, planes=-(-inner.planes // lanes), lanes=lanes)
        raise AssertionError(inner)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        plain = [
            x if lanes == 1 else out_of_blocks(x, type)
            for x, type, lanes in zip(inputs, self.own, self.lanes, strict=False)
        ]
        y = self.base.evaluate(*plain)
        assert not isinstance(y, tuple)
        return y if self.lanes[-1] == 1 else blocks_of(y, self._result, self.lanes[-1])

    def notation(self) -> str:
        return f"{self.base.notation()} in blocks of {self.lanes[-1]} channels"


def windows_in_blocks(
    blocking: Blocking, node: Node, *maps: Value, result: bool = True
) -> tuple[Op, list[Value]]:
    """A node of a window op with these of its inputs, and its result, in blocks."""
    inputs = [blocking.blocked(v) if v in maps else blocking.plain(v) for v in node.inputs]
    lanes = [
        made.type.shape[-1] if v in maps else 1 for v, made in zip(node.inputs, inputs, strict=True)
    ]
    lanes.append(blocking.lanes(node.output.type.channels) if result else 1)
    return InBlocks(node.op, tuple(v.type for v in node.inputs), tuple(lanes)), inputs
