"""Scalar expressions as source on vectors: the mathematics of a channel for a block of them."""

from __future__ import annotations

from convdsl.ops.expressions import FUNCTIONS, Apply, Expr, Symbol, bare, substitute
from convdsl.ops.expressions import text as scalar_text
from convdsl.ops.families import Epilogue, flat, operand

# Where a condition chooses between numbers, vectors need a function.
SOURCES = {
    "maximum": "select({0} < {1}, {1}, {0})",
    "minimum": "select({0} > {1}, {1}, {0})",
    "select": "select({0}, {1}, {2})",
    "both": "({0} & {1})",
    "either": "({0} | {1})",
}


def text(expression: Expr) -> str:
    """The expression as source; its symbols are vectors or numbers."""
    if isinstance(expression, Apply):
        source = SOURCES.get(expression.function) or FUNCTIONS[expression.function].source
        return source.format(*(text(a) for a in expression.arguments))
    return scalar_text(expression)


class Finish:
    """What results go through before they are stored: a bias and an epilogue, block by block.

    Results have the axes batch, block of channels, pixel and lane, with indices and sizes named
    here; the epilogue is planar.
    """

    def __init__(self, epilogue: Epilogue | None, lanes: int, bias: str = "") -> None:
        self.epilogue = epilogue.flattened(trailing=1) if epilogue else None
        self.lanes = lanes
        self.bias = bias

    @property
    def whole(self) -> list[str]:
        """The operands of the epilogue that have an element for every result."""
        return (
            [f"e{k}" for k, whole in enumerate(self.epilogue.whole, 1) if whole]
            if self.epilogue
            else []
        )

    def before(self, batch: str, block: str, mark: str) -> list[str]:
        """Statements that load what all pixels of a block share; ``mark`` tells blocks apart."""
        lines = []
        if self.bias:
            first = f"({block}) * {self.lanes}"
            lines.append(f"{self.bias}_{mark} = load_first({self.bias}, {first}, F - {first})")
        for k, present in self._operands():
            if not present[2]:
                index = self._index(present, batch, block, "0")
                lines.append(f"e{k}_{mark} = {self._load(k, present, index)}")
        return lines

    def value(self, total: str, batch: str, block: str, pixel: str, at: str, mark: str) -> str:
        """The stored vector; ``at`` is the position of its first lane in the result."""
        value: Expr = Symbol(total)
        if self.bias:
            value = value + Symbol(f"{self.bias}_{mark}")
        if self.epilogue is None:
            return text(value)
        values: dict[Symbol, Expr] = {operand(0): value}
        for k, present in self._operands():
            name = f"e{k}_{mark}"
            if present[2]:
                whole = self.epilogue.whole[k - 1]
                index = at if whole else self._index(present, batch, block, pixel)
                name = self._load(k, present, index)
            values[operand(k)] = Symbol(name)
        # An expression may not depend on its operands at all, and then is a number.
        return f"wide({text(substitute(self.epilogue.expression, values))})"

    def _operands(self) -> list[tuple[int, tuple[bool, ...]]]:
        return list(enumerate(self.epilogue.present, 1)) if self.epilogue else []

    def _load(self, k: int, present: tuple[bool, ...], index: str) -> str:
        return f"{'load' if present[3] else 'splat'}(e{k}, {index})"

    def _index(self, present: tuple[bool, ...], batch: str, block: str, pixel: str) -> str:
        axes = [Symbol(name, "int64") for name in (batch, f"({block})", f"({pixel})", "0")]
        sizes = [Symbol(name, "int64") for name in ("N", "FB", "P", str(self.lanes))]
        own = [a for a, here in enumerate(present) if here]
        return bare(flat([axes[a] for a in own], [sizes[a] for a in own]))
