"""After a step a training program has what the network predicted before it."""

import numpy as np
import pytest

import convdsl

# The second ends in feature maps, which kernels keep in blocks of channels.
PROGRAMS = [
    "net A {\n  input 1@8x8\n  conv 4@3x3 -> relu\n  dense 5\n}\n",
    "net B {\n  input 3@8x8\n  conv 16@3x3 -> relu\n  conv 5@3x3 -> avg 4x4 -> flatten\n}\n",
]


@pytest.mark.parametrize("text", PROGRAMS)
def test_it_is_what_inference_gives(text):
    net = convdsl.load_source(text)
    random = np.random.default_rng(0)
    x = random.standard_normal((6, *net.graph.inputs[0].type.shape)).astype(np.float32)
    target = np.arange(6) % 5
    step = net.compile(train=True, batch=6, optimizer=convdsl.SGD())
    inference = net.compile(batch=6)
    expected = inference(x)
    for lr in (0.5, 0.0):
        step.step(x, target, lr=lr)
        np.testing.assert_allclose(step.prediction, expected, rtol=1e-4, atol=1e-5)
        inference.update(step.parameters)
        expected = inference(x)
    step.value_and_grad(x, target)
    np.testing.assert_allclose(step.prediction, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - inference(2 * x)).max() > 0.01


def test_programs_for_inference_have_none():
    program = convdsl.load_source(PROGRAMS[0]).compile()
    with pytest.raises(TypeError, match="compiled for inference"):
        program.prediction  # noqa: B018
