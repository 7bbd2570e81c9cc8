"""The seed's networks against torch with the same weights: forward, loss and every gradient."""

import numpy as np
import pytest
import torch
from helpers import relative_error, torch_forward

import convdsl


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("name", ["lenet", "alexnet"])
def test_forward_is_torchs(name, batch):
    net = convdsl.load(name)
    program = net.compile(batch=batch)
    shape = (batch, *net.graph.inputs[0].type.shape)
    x = np.random.default_rng(batch).standard_normal(shape).astype(np.float32)
    tensors = {n: torch.from_numpy(a.copy()) for n, a in program.parameters.items()}
    with torch.no_grad():
        expected = torch_forward(net.graph, torch.from_numpy(x), tensors)
    # float32 rounding over at most 9,216 products
    assert relative_error(program(x), expected.numpy()) < 1e-5


@pytest.mark.parametrize("batch", [1, 5])
def test_lenets_loss_and_gradients_are_torchs(batch):
    net = convdsl.load("lenet")
    step = net.compile(train=True, batch=batch)
    random = np.random.default_rng(batch)
    x = random.standard_normal((batch, 1, 32, 32)).astype(np.float32)
    target = random.integers(0, 10, batch)
    loss, gradients = step.value_and_grad(x, target)
    tensors = {n: torch.from_numpy(a.copy()).requires_grad_() for n, a in step.parameters.items()}
    tx = torch.from_numpy(x).requires_grad_()
    expected = torch.nn.functional.cross_entropy(
        torch_forward(net.graph, tx, tensors), torch.from_numpy(target)
    )
    expected.backward()
    assert abs(loss - expected.item()) < 1e-5
    assert relative_error(step.input_grad, tx.grad.numpy()) < 1e-5
    for name, tensor in tensors.items():
        assert relative_error(gradients[name], tensor.grad.numpy()) < 1e-5, name
