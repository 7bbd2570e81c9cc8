"""Long sums: the rounding of adding up a hundred thousand terms stays that of some hundred."""

import numpy as np
import pytest

from convdsl.kernels.cpu import maps, nests
from convdsl.ops.families import Reduction, operand
from convdsl.plan.model import Images
from convdsl.runtime.cpu import call


def error(recipe_of, shape, channel):
    """The largest relative error of means over all axes but one."""
    x = np.random.default_rng(0).uniform(0.0, 2.0, shape).astype(np.float32)
    kept = tuple(axis == channel for axis in range(len(shape)))
    present = ((True,) * len(shape),)
    recipe = recipe_of(Reduction(operand(0), "sum", shape, present, ("float32",), kept, mean=True))
    y = np.empty(shape[channel], np.float32)
    arrays = {"in0": x, "out": y}
    arrays |= {name: np.empty(elements, np.float32) for name, elements in recipe.temporaries}
    for made in recipe.calls:
        call(made.kernel, [arrays[name] for name in made.operands], made.sizes, made.work)
    others = tuple(axis for axis in range(len(shape)) if axis != channel)
    expected = x.mean(others, dtype=np.float64)
    return (abs(y - expected) / expected).max()


@pytest.mark.parametrize("shape", [(128, 784, 16), (1, 50_176, 16), (3, 1_000, 8)])
def test_means_in_blocks_of_channels(shape):
    assert error(lambda family: maps.recipe(family, Images(), 16), shape, 2) < 6e-7


def test_means_of_plain_feature_maps():
    assert error(nests.recipe, (128, 3, 784), 1) < 6e-7
