"""Counted costs against what the interpreter executes, op by op, on numbers that count.

The reference of every op is evaluated on object arrays of `Counted` numbers. Two conventions of the
contract show: a multiply-add of convolution is counted for every element of the result, of the
window and of the channels a filter is connected to, *padding included*; and channels that a table
of connections leaves out are not, although the reference multiplies by the zeros that stand for
them. So a product counts where its weight is a `Counted` number, whatever it is multiplied with.
"""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import positive_buffers, random_arrays, sample_network

import convdsl
from convdsl.analysis.costs import analyse
from convdsl.ops import registry
from convdsl.ops.activations import Activation
from convdsl.ops.expressions import FUNCTIONS

SAMPLES = [(op, sample) for op in registry().values() for sample in op.samples]


class Tally:
    """Multiplications, and all operations."""

    def __init__(self):
        self.products = self.operations = 0


@functools.total_ordering
class Counted:
    """A number that tells its tally about arithmetic.

    To add 0, and to multiply or divide by 1, is nothing: the reference does so for convenience.
    """

    def __init__(self, value, tally):
        self.value, self.tally = float(value), tally

    def _made(self, value):
        self.tally.operations += 1
        return Counted(value, self.tally)

    def __add__(self, other):
        if isinstance(other, int | float) and other == 0:
            return self
        return self._made(self.value + float(other))

    def __sub__(self, other):
        return self + -other if other == 0 else self._made(self.value - float(other))

    def __rsub__(self, other):
        return self._made(float(other) - self.value)

    def __mul__(self, other):
        if isinstance(other, int | float) and other == 1:
            return self
        self.tally.products += 1
        return self._made(self.value * float(other))

    def __truediv__(self, other):
        if not isinstance(other, Counted) and other == 1:
            return self
        return self._made(self.value / float(other))

    def __rtruediv__(self, other):
        return self._made(float(other) / self.value)

    def __pow__(self, other):
        return self._made(self.value ** float(other))

    def __neg__(self):
        return self._made(-self.value)

    def __abs__(self):
        return self._made(abs(self.value))

    def __lt__(self, other):
        self.tally.operations += 1
        return self.value < float(other)

    def __eq__(self, other):
        return self.value == float(other)

    def __hash__(self):
        return hash(self.value)

    def __float__(self):
        return self.value

    __radd__, __rmul__ = __add__, __mul__


def function(name):
    """A method by which NumPy applies a function to an object."""
    return lambda self: self._made(getattr(math, name)(self.value))


for _name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh", "erf"):
    setattr(Counted, _name, function(_name))
