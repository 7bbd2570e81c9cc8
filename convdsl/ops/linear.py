"""Sparse linear maps along one axis: what slices, padding, resampling and banded sums share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Op, single
from convdsl.ops.families import Along, Family

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking

Terms = tuple[tuple[tuple[int, float], ...], ...]
"""For every position of the result: the (position, weight) pairs of the input that it sums."""


@dataclass(frozen=True)
class AlongAxis(Op):
    """Every position of the result along an axis sums a few weighted positions of the input."""

    kind: ClassVar[str] = "along"
    category: ClassVar[str] = "shape"
    x: TensorType
    axis: int
    terms: Terms

    def result(self, *x: TensorType) -> TensorType:
        assert x == (self.x,)
        shape = (*self.x.shape[: self.axis], len(self.terms), *self.x.shape[self.axis + 1 :])
        return replace(self.x, shape=shape)

    def flops(self, *x: TensorType) -> int:
        if all(len(t) <= 1 and all(w == 1.0 for _, w in t) for t in self.terms):
            return 0
        return 2 * self.x.size // self.x.shape[self.axis] * sum(len(t) for t in self.terms)

    def _full_axis(self) -> int:
        return self.axis + (1 if self.x.batched else 0)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        shape, axis = inputs[0], self._full_axis()
        longest = max(1, *(len(t) for t in self.terms))
        padded = [(*t, *[(0, 0.0)] * (longest - len(t))) for t in self.terms]
        return Along(
            math.prod(shape[:axis]),
            shape[axis],
            math.prod(shape[axis + 1 :]),
            tuple(tuple(source for source, _ in row) for row in padded),
            tuple(tuple(weight for _, weight in row) for row in padded),
        )

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        (x,) = node.inputs
        if not blocking.has(x):
            return None
        made, terms = blocking.blocked(x), self.terms
        if self.axis == 0:
            lanes = made.type.shape[-1]
            moved = _of_blocks(terms, lanes)
            if moved is None or blocking.lanes(len(terms)) != lanes:
                return None
            if x.type.channels % lanes and not all(moved):
                # A block of zeros reads another, whose lanes beyond the last may be anything.
                return None
            terms = moved
        return replace(self, x=made.type, terms=terms), [made]

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        (x,) = inputs
        matrix = np.zeros((len(self.terms), self.x.shape[self.axis]), x.dtype)
        for row, terms in enumerate(self.terms):
            for source, weight in terms:
                matrix[row, source] += weight
        moved = np.tensordot(matrix, x, (1, self._full_axis()))
        return np.ascontiguousarray(np.moveaxis(moved, 0, self._full_axis()))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        turned: list[list[tuple[int, float]]] = [[] for _ in range(self.x.shape[self.axis])]
        for row, terms in enumerate(self.terms):
            for source, weight in terms:
                turned[source].append((row, weight))
        return [along(b, single(dy), self.axis, tuple(tuple(t) for t in turned))]

    def notation(self) -> str:
        return f"along axis {self.axis}"


def _of_blocks(terms: Terms, lanes: int) -> Terms | None:
    """The map of blocks of so many positions; None where it does not take them whole."""
    blocks = []
    for start in range(0, len(terms), lanes):
        first, *others = terms[start : start + lanes]
        if any(source % lanes for source, _ in first):
            return None
        for lane, row in enumerate(others, 1):
            if row != tuple((source + lane, weight) for source, weight in first):
                return None
        blocks.append(tuple((source // lanes, weight) for source, weight in first))
    return tuple(blocks)


def along(b: Builder, x: Value, axis: int, terms: Terms, name: str = "") -> Value:
    """Apply a map along an axis of the type; the identity costs nothing."""
    if terms == tuple(((k, 1.0),) for k in range(x.type.shape[axis])):
        return x
    return b.add(AlongAxis(x.type, axis, terms), x, name=name)


def take(positions: Sequence[int]) -> Terms:
    """The terms of a selection; −1 gives zero."""
    return tuple(((p, 1.0),) if p >= 0 else () for p in positions)
