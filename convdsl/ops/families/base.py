"""What all families share: the loop nest that is their meaning, and the naming of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal

from convdsl.graph.types import Shape
from convdsl.ops.expressions import (
    Expr,
    Load,
    Number,
    Scalar,
    Symbol,
    substitute,
)


def operand(position: int, dtype: Scalar = "float32") -> Symbol:
    """The element of a map's input."""
    return Symbol(f"x{position}", dtype)


BATCH = Symbol("batch", "int64")
"""In a map or reduction: the number of images."""
FLAT = Symbol("position", "int64")
"""In a map: the row-major position of the element."""


def coordinate(axis: int) -> Symbol:
    """In a map or reduction: the index along an axis of the type (batch left out)."""
    return Symbol(f"i{axis}", "int64")


def align(shape: Shape, batched: bool, to: Shape) -> tuple[bool, ...]:
    """For every axis of ``to`` (batch first), whether an operand has it or is repeated along it.

    Operands are aligned from the left, after the batch: a vector of channels fits feature maps,
    a value per image fits vectors.
    """
    own = (to[0] if batched else 1, *shape)
    assert len(own) <= len(to), (shape, to)
    own = own + (1,) * (len(to) - len(own))
    for size, full in zip(own, to, strict=True):
        assert size in (1, full), (shape, to)
    return tuple(size == full and full != 1 for size, full in zip(own, to, strict=True))


Reducer = Literal["sum", "maximum", "winner"]
"""``winner`` gives the ``tag`` of the first element that is the maximum (or NaN)."""


@dataclass(frozen=True)
class Axis:
    """A loop: its variable and the name of the size that bounds it."""

    index: str
    size: str


@dataclass(frozen=True)
class Nest:
    """One element of the result per point of ``axes``, row-major: the meaning of a kernel.

    ``element`` is reduced over the ``reduced`` axes, outermost first; ``finish`` turns the reduced
    value, called ``total``, into the result. Sizes are given at run time, so that layers share
    kernels; ``sizes`` holds their values in the order in which the kernel takes them.
    """

    name: str
    inputs: tuple[tuple[str, Scalar], ...]
    result: Scalar
    sizes: tuple[tuple[str, int], ...]
    axes: tuple[Axis, ...]
    element: Expr
    reduced: tuple[Axis, ...] = ()
    reducer: Reducer | None = None
    finish: Expr = Symbol("total")
    tag: Expr | None = None

    @property
    def extent(self) -> dict[str, int]:
        return dict(self.sizes)

    @property
    def points(self) -> int:
        """The number of elements of the result."""
        return math.prod(self.extent[a.size] for a in self.axes)


@dataclass(frozen=True)
class Table:
    """A constant array that a kernel reads."""

    dtype: Scalar
    values: tuple[float, ...]


@dataclass(frozen=True)
class Runs:
    """Where in every one of so many equal rows of an array others have their rows."""

    rows: int
    starts: tuple[int, ...]
    """Elements from the beginning of a row."""


Storage = Literal["narrow", "exact", "as read"]
"""In 16 bits, in its own type, or in 16 bits where a map that it is made from is."""


class Family:
    """What a step computes on its operands; ``inputs`` in order, one result."""

    def nest(self) -> Nest:
        """The meaning as a loop nest."""
        raise NotImplementedError

    @property
    def in_place(self) -> tuple[int, ...]:
        """The inputs whose buffer the result may take over."""
        return ()

    @property
    def joined(self) -> Runs | None:
        """Where its inputs are in the result, where that is nothing but them, row by row."""
        return None

    @property
    def taken(self) -> Runs | None:
        """Where the result is in its input, where it is nothing but a run of every row of that."""
        return None

    @property
    def tables(self) -> tuple[Table, ...]:
        """Constant operands, which follow the inputs."""
        return ()

    @property
    def storage(self) -> Storage:
        """How a feature map that comes of it is stored where the target keeps maps in 16 bits."""
        return "as read"


def flat(indices: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
    """The row-major position of an element."""
    return reduce(
        lambda position, pair: position * pair[1] + pair[0],
        zip(indices[1:], sizes[1:], strict=True),
        indices[0] if indices else integer(0),
    )


def integer(value: int) -> Expr:
    return Number(value, "int64")


def symbol(name: str) -> Symbol:
    return Symbol(name, "int64")


class SizeNames:
    """Names sizes as a nest is built; one that is the same for a family by nature is a number."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    def __call__(self, name: str, value: int) -> Symbol:
        assert self.values.setdefault(name, value) == value, name
        return symbol(name)

    def row(self, name: str, values: Sequence[int]) -> list[Expr]:
        return [self(f"{name}{axis}", value) for axis, value in enumerate(values)]

    @property
    def items(self) -> tuple[tuple[str, int], ...]:
        return tuple(self.values.items())


@dataclass(frozen=True)
class Epilogue:
    """What a family's results go through: an expression of the result x0 and of operands x1, ….

    ``present`` says per operand along which axes of the result it varies. The operands follow the
    family's own.
    """

    expression: Expr
    present: tuple[tuple[bool, ...], ...]
    whole: tuple[bool, ...]
    """Per operand: whether it has an element for every one of the result."""

    def apply(self, total: Expr, axes: Sequence[Expr], sizes: Sequence[Expr]) -> Expr:
        """The stored value, from the family's and the indices of the result."""
        values: dict[Symbol, Expr] = {operand(0): total}
        for k, present in enumerate(self.present, 1):
            own = [a for a, here in enumerate(present) if here]
            at = flat([axes[a] for a in own], [sizes[a] for a in own])
            values[operand(k)] = Load(f"e{k}", at)
        return substitute(self.expression, values)

    def planar(self, trailing: int = 0) -> bool:
        """Whether every operand varies along all spatial axes of the result or along none.

        Those are the axes after batch and channels but for the last ``trailing``.
        """
        return all(len(set(p[2 : len(p) - trailing])) < 2 for p in self.present)

    def flattened(self, trailing: int = 0) -> Epilogue:
        """The same with the spatial axes of the result as one."""
        present = []
        for p in self.present:
            end = len(p) - trailing
            present.append((*p[:2], any(p[2:end]), *p[end:]))
        return Epilogue(self.expression, tuple(present), self.whole)

    def full(self, first: int) -> tuple[int, ...]:
        """The places, counted from ``first``, of the operands that are as large as the result."""
        return tuple(k for k, whole in enumerate(self.whole, first) if whole)

    @property
    def operands(self) -> tuple[tuple[str, Scalar], ...]:
        return tuple((f"e{k}", "float32") for k in range(1, len(self.present) + 1))
