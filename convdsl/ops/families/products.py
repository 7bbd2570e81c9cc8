"""Matrix products."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.ops.expressions import (
    Expr,
    Load,
    Scalar,
    Symbol,
)
from convdsl.ops.families.base import (
    Axis,
    Epilogue,
    Family,
    Nest,
    SizeNames,
    Storage,
    flat,
    symbol,
)


@dataclass(frozen=True)
class Product(Family):
    """A matrix product A·B (rows×inner by inner×columns), either factor stored transposed.

    With ``bias`` a third operand is added to every row.
    """

    rows: int
    columns: int
    inner: int
    transpose_a: bool = False
    transpose_b: bool = False
    bias: bool = False
    epilogue: Epilogue | None = None

    @property
    def in_place(self) -> tuple[int, ...]:
        return self.epilogue.full(3 if self.bias else 2) if self.epilogue else ()

    @property
    def storage(self) -> Storage:
        return "exact"

    def nest(self) -> Nest:
        size = SizeNames()
        m, n, k = symbol("m"), symbol("n"), symbol("k")
        rows, columns, inner = (
            size("M", self.rows),
            size("N", self.columns),
            size("K", self.inner),
        )
        a = flat([k, m], [inner, rows]) if self.transpose_a else flat([m, k], [rows, inner])
        b = flat([n, k], [columns, inner]) if self.transpose_b else flat([k, n], [inner, columns])
        name = "product_" + ("t" if self.transpose_a else "n") + ("t" if self.transpose_b else "n")
        operands: list[tuple[str, Scalar]] = [("a", "float32"), ("b", "float32")]
        total: Expr = Symbol("total")
        if self.bias:
            operands.append(("bias", "float32"))
            total = total + Load("bias", n)
        if self.epilogue:
            operands += self.epilogue.operands
            total = self.epilogue.apply(total, [m, n], [rows, columns])
        return Nest(
            name + ("_bias" if self.bias else ""),
            tuple(operands),
            "float32",
            size.items,
            (Axis("m", "M"), Axis("n", "N")),
            Load("a", a) * Load("b", b),
            (Axis("k", "K"),),
            "sum",
            total,
        )
