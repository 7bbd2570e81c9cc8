"""The functions that kernels have of their own for vectors, against those in float64."""

import numpy as np
import pytest

import convdsl

# By docs/numerics.md: of the value, but for numbers too small to be normal.
FUNCTIONS = {
    "sigmoid": (lambda x: 1.0 / (1.0 + np.exp(-x)), 1.3e-7),
    "tanh": (np.tanh, 3e-7),
}
LENGTH = 1 << 16


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_right_to_what_is_stated(name):
    function, bound = FUNCTIONS[name]
    ends = [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e-45, 3e38, -3e38]
    wide = np.linspace(-100.0, 100.0, LENGTH // 2)
    small = np.geomspace(1e-44, 20.0, LENGTH // 4)
    x = np.concatenate([wide, small, -small[len(ends) :], ends]).astype(np.float32)
    y = convdsl.load_source(f"net T {{ input {len(x)}; {name} }}").compile()(x[None])[0]
    with np.errstate(over="ignore"):
        expected = function(x.astype(np.float64))
    assert np.isnan(y[np.isnan(x)]).all()
    there = ~np.isnan(x)
    # Below normal numbers the last bit is worth more.
    np.testing.assert_allclose(y[there], expected[there], rtol=bound, atol=2e-38)
    assert np.abs(y[there]).max() <= 1.0
