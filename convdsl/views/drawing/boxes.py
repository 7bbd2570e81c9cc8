"""A box of a drawing: a row of the summary, or block instances that are kept closed."""

from __future__ import annotations

from dataclasses import dataclass

from convdsl.graph import Scope, TensorType
from convdsl.views.summary import Layer

Row = tuple[Layer, ...]


@dataclass(frozen=True)
class Box:
    """A row, or a closed block instance; ``copies`` of them, each reading the one before."""

    rows: tuple[Row, ...]
    """Of the first copy."""
    layers: tuple[Layer, ...]
    """Of all copies."""
    path: tuple[Scope, ...]
    """The open block instances around it."""
    scope: Scope | None = None
    """The block instance it stands for, where it is a closed one."""
    copies: int = 1

    @property
    def name(self) -> str:
        """Unique in the network."""
        return self.layers[0].name

    @property
    def head(self) -> Layer:
        """The layer that a row begins with."""
        return self.layers[0]

    @property
    def is_row(self) -> bool:
        return self.scope is None and self.copies == 1 and len(self.rows) == 1

    @property
    def label(self) -> str:
        """What a person called the first layer, without the blocks around it; else nothing."""
        own = self.name.rpartition(".")[2]
        return "" if own.startswith(self.head.op) else own

    @property
    def symbol(self) -> str:
        """The sign, for a row that joins values element by element."""
        return self.head.caption.symbol if self.is_row else ""

    @property
    def output(self) -> TensorType:
        return self.layers[-1].output

    @property
    def pointwise(self) -> bool:
        """Whether each output element sees a single position of the input."""
        return all(
            layer.window is None
            or (not layer.window.whole and all(size <= 1 for size in layer.window.size))
            for layer in self.layers
        )

    @property
    def category(self) -> str:
        """The kind of op; in closed blocks, of the one that works most."""
        if self.is_row:
            return self.head.category
        return max(self.layers, key=lambda layer: layer.costs.flops).category

    @property
    def parameters(self) -> int:
        return sum(layer.costs.parameters for layer in self.layers)

    @property
    def macs(self) -> int:
        return sum(layer.costs.macs for layer in self.layers)
