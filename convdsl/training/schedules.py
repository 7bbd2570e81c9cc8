"""Schedules: what share of the learning rate is taken at which point of a training."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Schedule:
    """A function of the epochs that are gone, a fraction included, and of those planned."""

    name: ClassVar[str]

    def factor(self, epoch: float, epochs: int) -> float:
        """What the learning rate is multiplied by."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Schedule):
    """The same throughout."""

    name: ClassVar[str] = "constant"

    def factor(self, epoch: float, epochs: int) -> float:
        return 1.0


@dataclass(frozen=True)
class Step(Schedule):
    """Multiplied by ``by`` after ``every`` so many epochs."""

    name: ClassVar[str] = "step"
    every: int = 10
    by: float = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        return float(self.by ** (int(epoch) // self.every))


@dataclass(frozen=True)
class MultiStep(Schedule):
    """Multiplied by ``by`` at each of the epochs ``at``. (He et al. 2016, section 4.2)"""

    name: ClassVar[str] = "multi_step"
    at: tuple[int, ...] = ()
    by: float = 0.1

    def factor(self, epoch: float, epochs: int) -> float:
        return float(self.by ** bisect_right(sorted(self.at), epoch))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from the whole rate down to the share ``to``. (Loshchilov and Hutter 2017)"""

    name: ClassVar[str] = "cosine"
    to: float = 0.0

    def factor(self, epoch: float, epochs: int) -> float:
        return _between(1.0, self.to, epoch / epochs)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From the share ``start`` up to the whole rate at the share ``peak`` of the epochs, and down
    to the share ``end``, each along half a cosine. (Smith and Topin 2018)
    """

    name: ClassVar[str] = "one_cycle"
    start: float = 0.04
    end: float = 0.0001
    peak: float = 0.3

    def factor(self, epoch: float, epochs: int) -> float:
        gone = epoch / epochs
        if gone < self.peak:
            return _between(self.start, 1.0, gone / self.peak)
        return _between(1.0, self.end, (gone - self.peak) / (1 - self.peak))


def _between(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * min(share, 1.0))) / 2


SCHEDULES: Mapping[str, type[Schedule]] = {
    kind.name: kind for kind in (Constant, Step, MultiStep, Cosine, OneCycle)
}
"""All schedules by the name that recipes know them by."""
