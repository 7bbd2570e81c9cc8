"""Counted costs against what the interpreter executes, op by op, on numbers that count.

The reference of every op is evaluated on arrays of `Counted` numbers. Two conventions of the
contract show. A convolution's multiply-adds are output size × window × channels a filter sees,
*padding included*: a product with a padded zero counts, and the reference executes it. Channels
that a table of connections leaves out do not count, although the reference multiplies by the zeros
that stand for them: so what is counted is products with a weight, and those zeros are none.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import random_arrays, sample_network

import convdsl
from convdsl.analysis.costs import analyse
from convdsl.ops import registry
from convdsl.ops.expressions import FUNCTIONS
from convdsl.runtime.interpreter import evaluate

SAMPLES = [(op, sample) for op in registry().values() for sample in op.samples]
CASES = pytest.mark.parametrize(
    ("op", "sample"), SAMPLES, ids=[f"{s.text} on {s.input}" for _, s in SAMPLES]
)

WITH_MACS = {"conv", "deconv", "dense"}
MOVES = {"concat", "crop", "flatten", "pad", "reshape", "shuffle", "slice", "transpose"}
IDENTITIES = {"drop_path", "dropout", "spatial_dropout"}
"""In inference, for which costs are counted."""
SOMETIMES_MOVES = {"adaptive_avg", "resize"}
"""To the same sizes, and to the nearest element."""


class Tally:
    """How often was multiplied, and how much arithmetic there was in all."""

    def __init__(self):
        self.products = self.operations = 0


class Counted:
    """A number that tells its tally about arithmetic.

    Adding 0, and multiplying or dividing by 1, is nothing: the reference does it for convenience.
    """

    def __init__(self, value, tally):
        self.value, self.tally = float(value), tally

    def made(self, value):
        self.tally.operations += 1
        return Counted(value, self.tally)

    def __add__(self, other):
        return self if is_number(other, 0) else self.made(self.value + float(other))

    def __sub__(self, other):
        return self if is_number(other, 0) else self.made(self.value - float(other))

    def __rsub__(self, other):
        return self.made(float(other) - self.value)

    def __mul__(self, other):
        if is_number(other, 1):
            return self
        self.tally.products += 1
        return self.made(self.value * float(other))

    def __truediv__(self, other):
        return self if is_number(other, 1) else self.made(self.value / float(other))

    def __rtruediv__(self, other):
        return self.made(float(other) / self.value)

    def __pow__(self, other):
        return self.made(self.value ** float(other))

    def __neg__(self):
        return self.made(-self.value)

    def __abs__(self):
        return self.made(abs(self.value))

    def __lt__(self, other):
        self.tally.operations += 1
        return self.value < float(other)

    def __gt__(self, other):
        self.tally.operations += 1
        return self.value > float(other)

    def __le__(self, other):
        self.tally.operations += 1
        return self.value <= float(other)

    def __ge__(self, other):
        self.tally.operations += 1
        return self.value >= float(other)

    def __float__(self):
        return self.value

    def conjugate(self):
        return self

    __radd__, __rmul__ = __add__, __mul__


def is_number(value, number):
    return not isinstance(value, Counted) and value == number


def method(name):
    """What NumPy calls for a function of an object."""
    return lambda self: self.made(getattr(math, name)(self.value))


for name in ("exp", "log", "log1p", "expm1", "sqrt", "tanh", "erf"):
    setattr(Counted, name, method(name))


@pytest.fixture(autouse=True)
def erf_of_objects(monkeypatch):
    """The one function that NumPy lacks."""
    of_objects = np.frompyfunc(lambda x: x.erf() if isinstance(x, Counted) else math.erf(x), 1, 1)
    monkeypatch.setitem(FUNCTIONS, "erf", replace(FUNCTIONS["erf"], numpy=of_objects))


def counted(array, tally):
    made = np.empty(array.shape, object)
    for place, value in np.ndenumerate(array):
        made[place] = Counted(value, tally)
    return made


def as_floats(array):
    return np.vectorize(float, otypes=[float])(array)


def executed(sample, counts=lambda variable: True):
    """The last node of a sample's network and the tally of evaluating its op on one image.

    ``counts`` says which of its inputs hold numbers that count. All are positive, so that
    rectifiers pass them on.
    """
    graph = sample_network(sample).graph
    node = graph.nodes[-1]
    arrays = random_arrays(graph, 1, dtype=np.float64)
    tally, random = Tally(), np.random.default_rng(1)
    given = [
        arrays[v.name] if v in graph.variables else random.standard_normal(v.type.with_batch(1))
        for v in node.inputs
    ]
    given = [np.abs(a) for a in given]
    numbers = [
        counted(a, tally) if counts(v) else a.astype(object)
        for v, a in zip(node.inputs, given, strict=True)
    ]
    result = node.op.evaluate(*numbers)
    expected = node.op.evaluate(*given)
    np.testing.assert_allclose(as_floats(result), expected, rtol=1e-12, atol=1e-14)
    return node, tally


def types(node):
    return [v.type for v in node.data]


@pytest.mark.parametrize(
    "sample", [s for op, s in SAMPLES if op.kind in WITH_MACS], ids=lambda s: s.text
)
def test_macs_are_the_products_with_weights(sample):
    def is_weight(value):
        return getattr(value, "role", "") == "parameter"

    node, tally = executed(sample, is_weight)
    assert tally.products == node.op.macs(*types(node)) > 0


def test_connections_that_are_left_out_are_no_multiply_adds():
    """Three filters on two channels, four of six pairs connected: so much of what is multiplied."""
    (sample,) = (s for s in registry()["conv"].samples if "connect" in s.text)
    node, tally = executed(sample)
    assert node.op.macs(*types(node)) * 6 == tally.products * 4


@CASES
def test_only_convolutions_and_dense_layers_have_macs(op, sample):
    node = sample_network(sample).graph.nodes[-1]
    assert (node.op.macs(*types(node)) > 0) == (op.kind in WITH_MACS)


@CASES
def test_operations_are_counted_where_there_is_arithmetic(op, sample):
    """And nowhere else: the rule says 0 if, and only if, the reference computes nothing."""
    node, tally = executed(sample)
    flops = node.op.flops(*types(node))
    assert (flops > 0) == (tally.operations > 0)
    if op.kind not in SOMETIMES_MOVES:
        assert (flops == 0) == (op.kind in MOVES | IDENTITIES)


POINTWISE = [
    sample
    for op, sample in SAMPLES
    for node in [sample_network(sample).graph.nodes[-1]]
    if node.op.pointwise(*types(node)) is not None
]


@pytest.mark.parametrize("sample", POINTWISE, ids=lambda s: f"{s.text} on {s.input}")
def test_operations_of_elementwise_ops_are_the_executed_ones(sample):
    node, tally = executed(sample)
    assert node.op.flops(*types(node)) == tally.operations


@pytest.mark.parametrize(
    "sample", [s for op, s in SAMPLES if op.kind in WITH_MACS], ids=lambda s: s.text
)
def test_a_multiply_add_is_two_operations(sample):
    """Plus the bias; of the reference's, the first addition of a sum, to 0, is none."""
    node, tally = executed(sample)
    flops, macs = node.op.flops(*types(node)), node.op.macs(*types(node))
    size = node.output.type.size
    assert flops == 2 * macs + (size if node.op.bias else 0)
    if tally.products == macs and node.op.kind != "deconv":
        assert tally.operations == flops - size


def test_the_macs_of_a_network_are_all_the_products_it_takes():
    """LeNet, whose pooling and activations multiply nothing."""
    graph = convdsl.load("lenet").graph
    tally = Tally()
    arrays = random_arrays(graph, 1)
    (result,) = evaluate(graph, {n: counted(a, tally) for n, a in arrays.items()}).values()
    assert result.shape == (1, 10)
    assert tally.products == analyse(graph).total.macs
