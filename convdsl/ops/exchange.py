"""What the processes that train together exchange in the middle of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from convdsl.graph import Builder, TensorType, Value
from convdsl.graph.types import Shape
from convdsl.ops.base import Op
from convdsl.ops.families import Family, operand
from convdsl.ops.primitive import Elementwise

if TYPE_CHECKING:
    import numpy as np


def mean_over_processes(b: Builder, value: Value, processes: int) -> Value:
    """The mean of a value over so many processes; in one the value itself, at no cost."""
    return value if processes == 1 else b.add(MeanOverProcesses(value.type), value)


@dataclass(frozen=True)
class MeanOverProcesses(Op):
    """The mean of a value over the processes that train together.

    To a program it is a copy. What runs the program stops behind the step, which is marked, and
    puts the mean of all copies in the place of each.
    """

    kind: ClassVar[str] = "mean_over_processes"
    exchanged: ClassVar[bool] = True
    to: TensorType

    def result(self, *x: TensorType) -> TensorType:
        return self.to

    def flops(self, *x: TensorType) -> int:
        return self.to.size

    def family_for(self, batch: int, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> Family:
        copy = Elementwise(operand(0), (self.to,), self.to)
        return copy.family_for(batch, inputs, outputs)

    def evaluate(self, *inputs: np.ndarray) -> np.ndarray:
        """Of one process."""
        return inputs[0].copy()

    def notation(self) -> str:
        return "mean over processes"
