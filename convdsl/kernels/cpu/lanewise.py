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
    here; the epilogue is planar. With ``paired`` a vector holds two neighbouring pixels.
    """

    def __init__(
        self, epilogue: Epilogue | None, lanes: int, bias: str = "", paired: bool = False
    ) -> None:
        self.epilogue = epilogue.flattened(trailing=1) if epilogue else None
        self.lanes = lanes
        self.bias = bias
        self.paired = paired

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
            load = "repeat_first" if self.paired else "load_first"
            lines.append(f"{self.bias}_{mark} = {load}({self.bias}, {first}, F - {first})")
        for k, present in self._operands():
            if not present[2]:
                lines.append(f"e{k}_{mark} = {self._load(k, present, batch, block)}")
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
                name = f"load(e{k}, {at})" if whole else self._load(k, present, batch, block, pixel)
            given.append(name)
        return f"{FINISH}({', '.join(given)})"

    def position(self, batch: str, block: str, pixel: str) -> str:
        """Where the first lane of a result is, in blocks of which an image has YB."""
        return f"(({batch} * YB + {block}) * P + {pixel}) * {self.lanes}"

    def _operands(self) -> list[tuple[int, tuple[bool, ...]]]:
        """The operands that the epilogue reads, with the axes of the result that they have."""
        if self.epilogue is None:
            return []
        used = symbols(self.epilogue.expression)
        return [(k, p) for k, p in enumerate(self.epilogue.present, 1) if operand(k) in used]

    def _load(
        self, k: int, present: tuple[bool, ...], batch: str, block: str, pixel: str = "0"
    ) -> str:
        """The vector of the operand's elements; ``present`` are the axes that it has."""
        index = self._index(present, batch, block, pixel)
        several, lanes = present[2:]
        if self.paired and not lanes and several:
            return f"pair(e{k}, {index}, {self._index(present, batch, block, pixel + ' + 1')})"
        if self.paired and lanes and not several:
            return f"repeat(e{k}, {index})"
        return f"{'load' if lanes else 'splat'}(e{k}, {index})"

    def _index(self, present: tuple[bool, ...], batch: str, block: str, pixel: str) -> str:
        axes = [Symbol(name, "int64") for name in (batch, f"({block})", f"({pixel})", "0")]
        sizes = [Symbol(name, "int64") for name in ("N", "FB", "P", str(self.lanes))]
        own = [a for a, here in enumerate(present) if here]
        return bare(flat([axes[a] for a in own], [sizes[a] for a in own]))
