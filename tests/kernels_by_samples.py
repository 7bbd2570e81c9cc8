"""The kernels of any target against the interpreter, by the samples of every op."""

import numpy as np
from helpers import positive_buffers, random_arrays, relative_error, sample_network

import convdsl
from convdsl.compiler import lower
from convdsl.ops import registry
from convdsl.ops.base import Sample
from convdsl.runtime.interpreter import evaluate

SAMPLES = [s for op in registry().values() for s in op.samples]

# What takes the gradient of the activation before it into its own.
POOLINGS = ("max 2x2", "avg 2x2", "avg 3x2", "max 3x3 /2 pad=1", "avg 3x3 /2 ceil=on", "max 2x2 /3")
CONVOLUTIONS = ("3x3 pad=1", "3x2 /2", "1x1", "3x3 groups=3", "3x3 dilation=2 pad=2")
CHAINS = [
    *(Sample(f"conv 6@3x3 -> relu -> {pool}", "3@13x11") for pool in POOLINGS),
    *(Sample(f"conv 6@3x3 -> sigmoid -> conv 6@{rest}", "3@9x10") for rest in CONVOLUTIONS),
    Sample("conv 6@3x3 -> tanh -> conv 6@3x3 groups=6", "3@9x10"),
    Sample("conv 6@3x3 -> relu -> avg global", "3@5x39"),
    Sample("conv 6@3x3 -> relu -> max 2x30", "3@6x39"),
    Sample("conv 6@3 -> sigmoid -> max 2", "3@13"),
    Sample("conv 6@2 -> sigmoid -> max 2", "2@4x5x6"),
]


def by_norm(actual, expected):
    """The error of a result over its own size, by norm."""
    assert np.isfinite(actual).all()
    return float(np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0))


def check_forward(run, sample, tolerance, error=relative_error):
    """The result of an op for one and for several images; ``run`` gives all outputs by name."""
    graph = sample_network(sample).graph
    for batch in (1, 3):
        arrays = positive_buffers(graph, random_arrays(graph, batch, seed=batch))
        expected = evaluate(graph, arrays)["output"]
        assert error(run(graph, arrays, batch)["output"], expected) < tolerance


def check_gradients(run, sample, tolerance, error=relative_error):
    """Loss and gradients of an op with the cross-entropy of its flattened result as the loss."""
    text = f"net T {{\n  input {sample.input}\n  {sample.text}\n  flatten\n}}\n"
    graph = convdsl.load_source(text).graph
    lowered = lower(graph, "cross_entropy")
    arrays = positive_buffers(graph, random_arrays(lowered, 5, seed=5))
    expected = evaluate(lowered, arrays)
    actual = run(graph, arrays, 5, "cross_entropy")
    # What variables become is compared with torch elsewhere.
    assert set(actual) == {name for name in expected if not name.endswith("'")}
    for name, value in actual.items():
        assert error(value, expected[name]) < tolerance, name
