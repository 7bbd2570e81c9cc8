"""First values: every scheme has the spread it names, and depends on seed and name alone."""

import math

import numpy as np
import pytest

import convdsl


def weight(text, seed=0, name="conv1.weight"):
    net = convdsl.load_source(f"net T {{ input 8@9x9\n {text} }}")
    return net.compile(seed=seed).parameters[name]


@pytest.mark.parametrize(
    ("scheme", "bound", "deviation"),
    [
        ("fan_in", 1 / math.sqrt(72), None),
        ("glorot", math.sqrt(6 / (72 + 64 * 9)), None),
        ("lecun", 2.4 / 72, None),
        ("uniform spread=0.3", 0.3, None),
        ("he", None, math.sqrt(2 / 72)),
        ("normal spread=0.2", None, 0.2),
    ],
)
def test_spreads(scheme, bound, deviation):
    values = weight(f"conv 64@3x3 init={scheme}")
    if bound is not None:
        assert 0.98 * bound < np.abs(values).max() <= bound
        deviation = bound / math.sqrt(3)
    # 4,608 draws: the deviation is known to about 1%
    assert abs(values.std() / deviation - 1) < 0.05
    assert abs(values.mean()) < 0.05 * deviation


def test_constants():
    assert not weight("conv 4@3x3 init=zeros").any()
    assert (weight("conv 4@3x3 init=constant spread=0.5") == 0.5).all()
    assert (weight("dense 3 init=he bias_fill=1", name="dense1.bias") == 1).all()


@pytest.mark.parametrize("filters", [16, 100])
def test_orthogonal_along_the_shorter_side(filters):
    matrix = weight(f"conv {filters}@3x3 init=orthogonal").reshape(filters, -1)
    shorter = matrix if filters < 72 else matrix.T
    np.testing.assert_allclose(shorter @ shorter.T, np.eye(len(shorter)), atol=1e-5)


def test_a_layers_values_do_not_depend_on_other_layers():
    alone = weight("A: conv 4@3x3", name="A.weight")
    among = weight("B: conv 8@1x1\n A: conv 4@3x3", name="A.weight")
    np.testing.assert_array_equal(alone, among)
    assert (weight("A: conv 4@3x3", seed=1, name="A.weight") != alone).any()
