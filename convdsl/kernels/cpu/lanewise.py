"""Scalar expressions as source on vectors: the mathematics of a channel for a block of them."""

from __future__ import annotations

from convdsl.ops.expressions import FUNCTIONS, Apply, Expr, Symbol, bare, substitute, symbols
from convdsl.ops.expressions import text as scalar_text
from convdsl.ops.families import Epilogue, flat, operand

# Where a condition chooses between numbers, vectors need a function; some have a shorter way.
SOURCES = {
    "logistic": "logistic({0})",
    "maximum": "select({0} < {1}, {1}, {0})",
    "minimum": "select({0} > {1}, {1}, {0})",
    "select": "select({0}, {1}, {2})",
    "both": "({0} & {1})",
    "either": "({0} | {1})",
}

FINISH = "finished"
"""The name of the function that `Finish` writes."""


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
        return [
            f"e{k}" for k, _ in self._operands() if self.epilogue and self.epilogue.whole[k - 1]
        ]

    @property
    def function(self) -> list[str]:
        """The lines of the function that takes a vector of results to what is stored.

        It stands before the kernel, which calls it for every vector: so it is compiled once.
        """
        if self.epilogue is None:
            return []
        total: Expr = Symbol("total")
        if self.bias:
            total = total + Symbol(self.bias)
        names = {operand(k): f"e{k}" for k, _ in self._operands()}
        values: dict[Symbol, Expr] = {x: Symbol(name) for x, name in names.items()}
        value = text(substitute(self.epilogue.expression, {operand(0): total, **values}))
        given = ["total", *([self.bias] if self.bias else []), *names.values()]
        return [
            "@inlined",
            f"def {FINISH}({', '.join(given)}):",
            # An expression may not depend on its operands at all, and then is a number.
            f"    return wide({value})",
        ]

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
        given = [total, *([f"{self.bias}_{mark}"] if self.bias else [])]
        if self.epilogue is None:
            return " + ".join(given)
        for k, present in self._operands():
            name = f"e{k}_{mark}"
            if present[2]:
                whole = self.epilogue.whole[k - 1]
                index = at if whole else self._index(present, batch, block, pixel)
                name = self._load(k, present, index)
            given.append(name)
        return f"{FINISH}({', '.join(given)})"

    def _operands(self) -> list[tuple[int, tuple[bool, ...]]]:
        """The operands that the epilogue reads, with the axes of the result that they have."""
        if self.epilogue is None:
            return []
        used = symbols(self.epilogue.expression)
        return [(k, p) for k, p in enumerate(self.epilogue.present, 1) if operand(k) in used]

    def _load(self, k: int, present: tuple[bool, ...], index: str) -> str:
        return f"{'load' if present[3] else 'splat'}(e{k}, {index})"

    def _index(self, present: tuple[bool, ...], batch: str, block: str, pixel: str) -> str:
        axes = [Symbol(name, "int64") for name in (batch, f"({block})", f"({pixel})", "0")]
        sizes = [Symbol(name, "int64") for name in ("N", "FB", "P", str(self.lanes))]
        own = [a for a, here in enumerate(present) if here]
        return bare(flat([axes[a] for a in own], [sizes[a] for a in own]))
