"""What a program asks of the device it runs on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from convdsl.plan.model import Buffer, Port

Array = np.ndarray


class Machine(ABC):
    """A device with a plan loaded. Not safe for threads, `upload` aside: the caller holds a lock.

    A device with memory of its own has more to do for the methods that have a body here.
    """

    takes_device_arrays = False
    """Whether inputs may be arrays of a GPU, and outputs be left there."""

    @abstractmethod
    def prepare(self) -> None:
        """Compute what depends on parameters alone; after every change of parameters."""

    @abstractmethod
    def run(self, inputs: Mapping[str, Any], first: int, last: int) -> None:
        """Run steps [first, last) on contiguous arrays of the right types.

        Inputs are read from where they are given with the first step. The work may go on when this
        returns; `view`, `later` and `wait` come after it.
        """

    @abstractmethod
    def view(self, buffer: Buffer, shape: Sequence[int]) -> Array:
        """A buffer as an array; the next run may overwrite it."""

    def wait(self) -> None:
        """Return when everything is done."""
        return

    def fetch(self) -> None:
        """Bring the program's memory of its variables up to date."""
        return

    def remote(self, array: Any) -> Any | None:
        """An array that lies on the device, as `run` takes it; None for one of the host."""
        return None

    def upload(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The same arrays where `run` has them at hand, perhaps on their way there."""
        return inputs

    def was_sent(self, array: Any) -> bool:
        """Whether it is one of the arrays that `upload` gave back, on the device."""
        return False

    def later(self, ports: Sequence[Port]) -> Callable[[], tuple[Array, ...]]:
        """What gives copies of some outputs of the latest run, also after the next one began."""
        found = tuple(self.view(port.buffer, port.shape).copy() for port in ports)
        return lambda: found
