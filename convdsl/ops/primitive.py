"""Ops that only passes and other ops build: maps, reductions, products and views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, cast

from convdsl.graph import Builder, Node, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Op, single
from convdsl.ops.expressions import (
    Expr,
    Number,
    Scalar,
    bare,
    differentiate,
    evaluate,
    operations,
    substitute,
    symbols,
)
from convdsl.ops.expressions import cast as to_float
from convdsl.ops.families import (
    BATCH,
    Family,
    Fill,
    Map,
    Product,
    Reducer,
    Reduction,
    Table,
    align,
    operand,
)

if TYPE_CHECKING:
    import numpy as np

    from convdsl.ops.blocks import Blocking


@dataclass(frozen=True)
class Elementwise(Op):
    """An expression of x0, x1, … at every element; operands are aligned from the left.

    The result has the type of ``to``.
    """

    kind: ClassVar[str] = "map"
    category: ClassVar[str] = "activation"
    arity: ClassVar[int | None] = None
    expression: Expr
    inputs: tuple[TensorType, ...]
    to: TensorType

    def result(self, *x: TensorType) -> TensorType:
        assert x == self.inputs, (x, self.inputs)
        return self.to

    def flops(self, *x: TensorType) -> int:
        return operations(self.expression) * self.to.size

    def pointwise(self, *inputs: TensorType) -> Expr:
        return self.expression

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return self.family_for(outputs[0][0] if self.to.batched else 1, inputs, outputs)

    def family_for(self, batch: int, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        shape = outputs[0] if self.to.batched else (1, *outputs[0])
        return Map(
            self.expression,
            shape,
            tuple(align(t.shape, t.batched, shape) for t in self.inputs),
            tuple(cast(Scalar, t.dtype) for t in self.inputs),
            cast(Scalar, self.to.dtype),
            batch,
        )

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        return self.evaluate_for(1, *inputs)

    def evaluate_for(self, batch: int, *inputs: np.ndarray) -> np.ndarray:
        shape = full_shape(self.inputs, self.to, inputs, batch)
        values = _environment(self.expression, self.inputs, inputs, shape)
        value = evaluate(
            self.expression, values | {"batch": shape[0] if self.to.batched else batch}
        )
        return _materialise(value, shape, self.to)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        return map_gradient(b, self.expression, node.inputs, self.to, dy[0], needs)

    def notation(self) -> str:
        return f"map {bare(self.expression)}"


def map_in_blocks(
    blocking: Blocking, node: Node, expression: Expr
) -> tuple[Op, list[Value]] | None:
    """An elementwise node on feature maps in blocks, where it finds one of them so."""
    to = node.output.type
    if not _in_blocks_already(blocking, node, to, expression):
        return None
    operands = [blocking.operand(v, to) for v in node.inputs]
    types = tuple(v.type for v in operands)
    return Elementwise(expression, types, blocking.type(to)), operands


@dataclass(frozen=True)
class Reduce(Op):
    """An expression over aligned operands, reduced to a smaller type; see families.Reduction.

    ``over`` is the type in which the expression is taken; ``to`` keeps a prefix of its axes or has
    1 along those reduced, and lacks the batch when that is reduced too.
    """

    kind: ClassVar[str] = "reduce"
    category: ClassVar[str] = "activation"
    arity: ClassVar[int | None] = None
    expression: Expr
    inputs: tuple[TensorType, ...]
    over: TensorType
    to: TensorType
    reducer: Reducer = "sum"
    mean: bool = False

    def result(self, *x: TensorType) -> TensorType:
        assert x == self.inputs, (x, self.inputs)
        return self.to

    def flops(self, *x: TensorType) -> int:
        return (operations(self.expression) + 1) * self.over.size

    def kept(self, shape: Shape) -> tuple[bool, ...]:
        """Along which axes of ``shape`` (batch first) the result still varies."""
        mine = (self.to.batched, *(size != 1 for size in self.to.shape))
        mine = mine + (False,) * (len(shape) - len(mine))
        return tuple(m or full == 1 for m, full in zip(mine, shape, strict=True))

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        batch = next(
            (s[0] for s, t in zip(inputs, self.inputs, strict=True) if t.batched),
            1,
        )
        shape = (batch, *self.over.shape)
        # An axis of one element is reduced by keeping it.
        kept = self.kept(shape)
        return Reduction(
            self.expression,
            self.reducer,
            shape,
            tuple(align(t.shape, t.batched, shape) for t in self.inputs),
            tuple(cast(Scalar, t.dtype) for t in self.inputs),
            kept,
            self.mean,
        )

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        shape = full_shape(self.inputs, self.over, inputs)
        value = evaluate(self.expression, _environment(self.expression, self.inputs, inputs, shape))
        value = np.broadcast_to(value, shape)
        kept = self.kept(shape)
        axes = tuple(a for a, k in enumerate(kept) if not k)
        how = {"sum": np.mean if self.mean else np.sum, "maximum": np.max}[self.reducer]
        reduced = how(value, axis=axes) if axes else value
        target = self.to.with_batch(shape[0])
        return np.array(reduced.reshape(target), order="C")

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        if self.reducer != "sum":
            raise NotImplementedError("the gradient of a maximum is stated by the op that takes it")
        (upstream,) = dy
        expression = self.expression
        if self.mean:
            expression = expression / self._count()
        return map_gradient(b, expression, node.inputs, self.over, upstream, needs)

    def in_blocks(self, blocking: Blocking, node: Node) -> tuple[Op, list[Value]] | None:
        if not _in_blocks_already(blocking, node, self.over, self.expression):
            return None
        shape = self.to.shape + (1,) * (len(self.over.shape) - len(self.to.shape))
        if shape[0] != self.over.channels:
            # A sum over channels would count the lanes beyond the last.
            return None
        operands = [blocking.operand(v, self.over) for v in node.inputs]
        made = replace(
            self,
            inputs=tuple(v.type for v in operands),
            over=blocking.type(self.over),
            to=blocking.type(replace(self.to, shape=shape)),
        )
        return made, operands

    def _count(self) -> Expr:
        """How many elements go into one result."""
        kept = self.kept((1, *self.over.shape))[1:]
        own = math.prod(n for n, k in zip(self.over.shape, kept, strict=True) if not k)
        return Number(float(own)) if self.to.batched else to_float(BATCH) * float(own)

    def notation(self) -> str:
        return f"{'mean' if self.mean else self.reducer} {bare(self.expression)} -> {self.to}"


def _in_blocks_already(blocking: Blocking, node: Node, over: TensorType, expression: Expr) -> bool:
    """Whether a map or reduction over feature maps finds one of them in blocks.

    An expression of indices has them along the plain axes.
    """
    placed = {s.name for s in symbols(expression)} - {f"x{k}" for k in range(len(node.inputs))}
    return (
        len(over.shape) > 1
        and over.batched
        and placed <= {"batch"}
        and all(v.type.dtype == "float32" or not v.type.shape for v in node.inputs)
        and any(v.type.shape == over.shape and blocking.has(v) for v in node.inputs)
    )


def full_shape(
    types: Sequence[TensorType], to: TensorType, arrays: Sequence[np.ndarray], batch: int = 1
) -> Shape:
    """The batch-first shape in which an expression is taken."""
    if not to.batched:
        return (1, *to.shape)
    shown = (a.shape[0] for a, t in zip(arrays, types, strict=True) if t.batched)
    return (next(shown, batch), *to.shape)


def _environment(
    expression: Expr, types: Sequence[TensorType], arrays: Sequence[np.ndarray], shape: Shape
) -> dict[str, Any]:
    import numpy as np

    values: dict[str, Any] = {"batch": shape[0]}
    for k, (type, array) in enumerate(zip(types, arrays, strict=True)):
        own = array.shape if type.batched else (1, *array.shape)
        values[f"x{k}"] = array.reshape(own + (1,) * (len(shape) - len(own)))
    used = {s.name for s in symbols(expression)}
    for axis in range(len(shape) - 1):
        if f"i{axis}" in used:
            along = [1] * len(shape)
            along[axis + 1] = shape[axis + 1]
            values[f"i{axis}"] = np.arange(shape[axis + 1]).reshape(along)
    if "position" in used:
        values["position"] = np.arange(math.prod(shape)).reshape(shape)
    return values


def _materialise(value: Any, shape: Shape, to: TensorType) -> np.ndarray:
    import numpy as np

    full = np.broadcast_to(value, shape)
    return np.array(full if to.batched else full[0], order="C")


def map_gradient(
    b: Builder,
    expression: Expr,
    inputs: Sequence[Value],
    over: TensorType,
    dy: Value | None,
    needs: Sequence[bool],
) -> list[Value | None]:
    """The gradients of a map: its partial derivatives times dy, summed where it was repeated."""
    found: list[Value | None] = []
    position = len(inputs)
    for k, (value, needed) in enumerate(zip(inputs, needs, strict=True)):
        if not needed or dy is None or value.type.dtype != "float32":
            found.append(None)
            continue
        partial = differentiate(expression, operand(k))
        product = partial * operand(position)
        found.append(compute(b, product, (*inputs, dy), over, value.type))
    return found


def compute(
    b: Builder,
    expression: Expr,
    inputs: Sequence[Value],
    over: TensorType,
    to: TensorType | None = None,
    *,
    reducer: Reducer = "sum",
    mean: bool = False,
    name: str = "",
) -> Value:
    """A map over ``over``, or a reduction to ``to`` where that is smaller; unread operands go."""
    used = sorted(k for k in range(len(inputs)) if f"x{k}" in {s.name for s in symbols(expression)})
    renamed = substitute(
        expression,
        {
            operand(k, cast(Scalar, inputs[k].type.dtype)): operand(
                position, cast(Scalar, inputs[k].type.dtype)
            )
            for position, k in enumerate(used)
        },
    )
    kept = [inputs[k] for k in used]
    types = tuple(v.type for v in kept)
    to = to or over
    if to == over:
        return b.add(Elementwise(renamed, types, over), *kept, name=name)
    return b.add(Reduce(renamed, types, over, to, reducer, mean), *kept, name=name)


@dataclass(frozen=True)
class MatMul(Op):
    """A·B for stored matrices, either transposed; batched operands have their images as rows.

    ``to`` is the type of the result; used for dense layers in both directions.
    """

    kind: ClassVar[str] = "matmul"
    category: ClassVar[str] = "dense"
    arity: ClassVar[int | None] = None
    to: TensorType
    transpose_a: bool = False
    transpose_b: bool = False

    def result(self, *x: TensorType) -> TensorType:
        return self.to

    def flops(self, *x: TensorType) -> int:
        a, _ = x
        # A product over the batch has one term per image.
        return 2 * self.to.size * (a.size if self.to.batched else 1)

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        a, c = inputs[0], outputs[0]
        rows_a, columns_a = a[0], math.prod(a[1:])
        inner = rows_a if self.transpose_a else columns_a
        return Product(c[0], math.prod(c[1:]), inner, self.transpose_a, self.transpose_b)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        a, b = (x.reshape(x.shape[0], -1) for x in inputs)
        product = (a.T if self.transpose_a else a) @ (b.T if self.transpose_b else b)
        result: np.ndarray = product.reshape(self.to.with_batch(product.shape[0]))
        return result

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        a, c = node.inputs
        upstream = single(dy)
        ta, tb = self.transpose_a, self.transpose_b
        da = dc = None
        if needs[0]:
            da = (
                b.add(MatMul(a.type, transpose_a=tb, transpose_b=True), c, upstream)
                if ta
                else b.add(MatMul(a.type, transpose_b=not tb), upstream, c)
            )
        if needs[1]:
            dc = (
                b.add(MatMul(c.type, transpose_a=True, transpose_b=ta), upstream, a)
                if tb
                else b.add(MatMul(c.type, transpose_a=not ta), a, upstream)
            )
        return da, dc

    def notation(self) -> str:
        return "matmul " + ("aᵀ" if self.transpose_a else "a") + ("bᵀ" if self.transpose_b else "b")


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in the same order under another shape; costs nothing."""

    kind: ClassVar[str] = "view"
    category: ClassVar[str] = "shape"
    alias: ClassVar[bool] = True
    to: TensorType

    def result(self, *x: TensorType) -> TensorType:
        assert x[0].size == self.to.size
        return self.to

    def flops(self, *x: TensorType) -> int:
        return 0

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        (x,) = inputs
        return x.reshape(self.to.with_batch(x.shape[0]))

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        assert dy[0] is not None
        return [b.add(Reshape(node.inputs[0].type), dy[0])]


@dataclass(frozen=True)
class Constant(Op):
    """An array that the program holds."""

    kind: ClassVar[str] = "constant"
    category: ClassVar[str] = "other"
    arity: ClassVar[int | None] = 0
    values: tuple[float, ...]
    to: TensorType

    def result(self, *x: TensorType) -> TensorType:
        return self.to

    def flops(self, *x: TensorType) -> int:
        return 0

    def family(self, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        return Fill(Table("float32", self.values))

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        import numpy as np

        return np.array(self.values).reshape(self.to.shape)

    def gradient(
        self, b: Builder, node: Node, dy: Sequence[Value | None], needs: Sequence[bool]
    ) -> Sequence[Value | None]:
        return ()
