"""Random networks: forward and every gradient against torch, in the interpreter and compiled."""

import numpy as np
import pytest
import torch
from helpers import realistic_arrays, torch_forward
from random_networks import JoiningWriter, Writer

import convdsl
from convdsl.runtime.interpreter import evaluate


def compare(seed, compiled, writing=Writer):
    writer = writing(seed)
    text = writer.text()
    graph = convdsl.load_source(text).graph
    batch = writer.batch
    arrays = realistic_arrays(graph, batch, seed)
    target = np.random.default_rng(seed).integers(0, 5, batch)
    expected = torch_gradients(graph, arrays, target)
    # Inference statistics in both: the gradient of batch norm as an affine map.
    lowered = gradient_graph(graph)
    given = {**arrays, "target": target}
    found = evaluate(lowered, {v.name: given.get(v.name) for v in lowered.variables})
    for name, value in expected.items():
        # A gradient that is zero in exact arithmetic is rounding in both; torch keeps the sixth of
        # hard sigmoid in float32 even here.
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(found[name] - value).max() / scale < 1e-7, f"seed {seed}: {name}\n{text}"
    if compiled:
        run_compiled(graph, lowered, given, expected, seed, text, batch)


def gradient_graph(graph):
    from convdsl import passes

    graph = passes.specialise(graph, training=False)
    graph = passes.add_loss(passes.expand(graph, keep_differentiable=True), "cross_entropy")
    graph = passes.add_gradients(graph, (*graph.parameters, *graph.inputs))
    return passes.simplify(passes.expand(graph))


def run_compiled(graph, lowered, given, expected, seed, text, batch):
    from convdsl import passes
    from convdsl.compiler import _target, laid_out
    from convdsl.plan import plan
    from convdsl.runtime.cpu import CpuMachine

    target = _target("cpu")
    planned = plan(laid_out(passes.fuse(lowered), target), batch, target)
    single = {
        n: np.ascontiguousarray(a, np.float32 if a.dtype.kind == "f" else np.int64)
        for n, a in given.items()
    }
    machine = CpuMachine(planned, single)
    machine.poison()
    machine.prepare()
    inputs = {p.name: single[p.name] for p in planned.variables if p.role in ("input", "target")}
    machine.run(inputs, 0, planned.forward)
    for port in planned.outputs:
        if port.name in expected:
            value = expected[port.name]
            # float32 through up to twelve layers, compared by norm
            error = np.linalg.norm(machine.view(port.buffer, port.shape) - value)
            scale = max(np.linalg.norm(value), 1e-2)
            assert error / scale < 2e-3, f"seed {seed}: {port.name}\n{text}"
    assert machine.guards_intact()


def torch_gradients(graph, arrays, target):
    tensors = {
        v.name: torch.from_numpy(arrays[v.name]).requires_grad_(v.role != "buffer")
        for v in graph.variables
    }
    x = tensors[graph.inputs[0].name]
    logits = torch_forward(graph, x, tensors)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
    loss.backward()
    found = {"loss": loss.detach().numpy()}
    for variable in (*graph.parameters, *graph.inputs):
        grad = tensors[variable.name].grad
        value = np.zeros(arrays[variable.name].shape) if grad is None else grad.numpy()
        found[f"gradient of {variable.name}"] = value
    return found


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_random_networks_in_the_interpreter(start):
    for seed in range(start, start + 20):
        compare(seed, compiled=False)


@pytest.mark.parametrize("seed", range(1000, 1015))
def test_random_networks_compiled(seed):
    compare(seed, compiled=True)


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_random_networks_that_join_and_cut_compiled(seed):
    compare(seed, compiled=True, writing=JoiningWriter)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6000, 6150))
def test_more_random_networks_that_join_and_cut_compiled(seed):
    compare(seed, compiled=True, writing=JoiningWriter)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2000, 4000, 100))
def test_more_random_networks_in_the_interpreter(start):
    for seed in range(start, start + 100):
        compare(seed, compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5000, 5200))
def test_more_random_networks_compiled(seed):
    compare(seed, compiled=True)


def test_the_writer_reaches_every_kind_of_statement():
    words = {line.split()[0].split("(")[0] for s in range(200) for line in lines(s)}
    assert {"conv", "deconv", "max", "avg", "bn", "add", "concat", "pad", "resize"} <= words


def lines(seed):
    writer = Writer(seed)
    writer.text()
    return writer.lines
