"""Every op × every sample: the checks that follow from the contract alone."""

import math

import numpy as np
import pytest
import torch
from helpers import (
    positive_buffers,
    random_arrays,
    relative_error,
    sample_network,
    torch_forward,
)

import convdsl
from convdsl import CompileError, passes
from convdsl.compiler import lower
from convdsl.graph.graph import verify
from convdsl.ops import registry
from convdsl.ops.primitive import Elementwise
from convdsl.runtime.interpreter import evaluate

SAMPLES = [(op, s) for op in registry().values() for s in op.samples]
MISTAKES = [(op, m) for op in registry().values() for m in op.mistakes]


def name(case):
    return case.text if hasattr(case, "text") else case.kind


def test_the_registry_is_found():
    assert {"conv", "dense", "max", "avg", "relu"} <= set(registry())


@pytest.mark.parametrize("op", registry().values(), ids=lambda op: op.kind)
def test_every_op_is_documented_with_samples_and_mistakes(op):
    assert len(op.documentation()) > 20
    assert op.samples
    assert op.mistakes


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_the_inferred_shape_is_the_computed_one(op, sample):
    graph = sample_network(sample).graph
    verify(graph)
    results = evaluate(graph, positive_buffers(graph, random_arrays(graph, 2)))
    assert results["output"].shape == graph.outputs[0][1].type.with_batch(2)
    assert results["output"].dtype == np.float32


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_passes_keep_the_result(op, sample):
    graph = sample_network(sample).graph
    lowered = lower(graph)
    verify(lowered)
    arrays = positive_buffers(graph, random_arrays(graph, 3))
    expected = evaluate(graph, arrays)["output"]
    actual = evaluate(lowered, arrays)["output"]
    # float32 sums in another order
    assert relative_error(actual, expected) < 1e-5


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_the_result_is_torchs(op, sample):
    graph = sample_network(sample).graph
    arrays = positive_buffers(graph, random_arrays(graph, 2))
    tensors = {name: torch.from_numpy(a) for name, a in arrays.items()}
    expected = torch_forward(graph, tensors[graph.inputs[0].name], tensors)
    assert relative_error(evaluate(graph, arrays)["output"], expected.numpy()) < 1e-5


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_gradients_are_central_differences(op, sample):
    """In float64, of a random projection of the result."""
    graph = sample_network(sample).graph
    extended, weights = projected(passes.specialise(graph, training=False))
    by = (*graph.parameters, *graph.inputs)
    ready = passes.expand(extended, keep_differentiable=True)
    with_gradients = passes.simplify(passes.expand(passes.add_gradients(ready, by)))
    verify(with_gradients)
    arrays = random_arrays(with_gradients, 2, seed=1, dtype=np.float64)
    positive_buffers(graph, arrays)
    # Away from kinks: no two elements closer than the step, none near zero.
    spread(arrays[graph.inputs[0].name])
    found = evaluate(with_gradients, arrays)
    random = np.random.default_rng(2)
    for variable in by:
        gradient = found[f"gradient of {variable.name}"]
        array = arrays[variable.name]
        for _ in range(4):
            direction = random.standard_normal(array.shape)
            expected = difference(extended, arrays, variable.name, direction)
            assert math.isclose((gradient * direction).sum(), expected, rel_tol=1e-5, abs_tol=1e-6)
    assert weights.name in arrays


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_gradients_are_torchs(op, sample):
    """By every input and parameter, of a random projection of the result, in float64."""
    graph = sample_network(sample).graph
    extended, weights = projected(passes.specialise(graph, training=False))
    by = (*graph.parameters, *graph.inputs)
    ready = passes.expand(extended, keep_differentiable=True)
    with_gradients = passes.simplify(passes.expand(passes.add_gradients(ready, by)))
    arrays = random_arrays(with_gradients, 2, seed=1, dtype=np.float64)
    positive_buffers(graph, arrays)
    found = evaluate(with_gradients, arrays)
    tensors = {n: torch.from_numpy(a) for n, a in arrays.items()}
    for variable in by:
        tensors[variable.name].requires_grad_()
    result = torch_forward(graph, tensors[graph.inputs[0].name], tensors)
    (result * tensors[weights.name]).sum().backward()
    for variable in by:
        expected = tensors[variable.name].grad.numpy()
        # torch keeps the sixth of hard sigmoid in float32 even here.
        assert relative_error(found[f"gradient of {variable.name}"], expected) < 1e-7


def projected(graph):
    """The graph with the sum of its output times a random tensor as its only output."""
    from convdsl.graph import Builder, TensorType
    from convdsl.ops.families import operand
    from convdsl.ops.primitive import compute

    b = Builder(graph)
    ((_, value),) = graph.outputs
    weights = b.variable("projection", value.type, "target")
    scalar = TensorType((), batched=False)
    total = compute(b, operand(0) * operand(1), [value, weights], value.type, scalar)
    return graph.replace(
        variables=tuple(b.variables), nodes=tuple(b.nodes), outputs=(("loss", total),)
    ), weights


def spread(x):
    order = np.argsort(np.random.default_rng(3).standard_normal(x.size))
    x.reshape(-1)[order] = (np.arange(x.size) + 0.5 - x.size // 2) / x.size * 4


def difference(graph, arrays, name, direction, step=1e-6):
    lowered = passes.simplify(passes.expand(graph))
    up = evaluate(lowered, {**arrays, name: arrays[name] + step * direction})["loss"]
    down = evaluate(lowered, {**arrays, name: arrays[name] - step * direction})["loss"]
    return float(up - down) / (2 * step)


@pytest.mark.parametrize(("op", "mistake"), MISTAKES, ids=name)
def test_every_mistake_has_its_diagnostic(op, mistake):
    with pytest.raises(CompileError) as caught:
        sample_network(mistake)
    assert [d.code for d in caught.value.diagnostics] == [mistake.code]
    assert caught.value.diagnostics[0].span is not None


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_notation_reads_back_as_the_same_op(op, sample):
    node = sample_network(sample).graph.nodes[-1]
    assert isinstance(node.op, op)
    text = node.op.notation()
    if op.arity is None:
        text += f"({', '.join('in' for _ in node.inputs)})"
    shape = node.inputs[0].type
    read = convdsl.load_source(f"net T {{\n  input {shape}\n  {text}\n}}\n")
    assert read.graph.nodes[0].op == node.op


@pytest.mark.parametrize(("op", "sample"), SAMPLES, ids=name)
def test_costs_are_counted(op, sample):
    for node in sample_network(sample).graph.nodes:
        types = [v.type for v in node.data]
        assert node.op.flops(*types) >= 2 * node.op.macs(*types) >= 0


def test_a_map_without_operands_is_a_constant():
    from convdsl.graph import TensorType
    from convdsl.ops.expressions import Number

    made = Elementwise(Number(2.0), (), TensorType((3,), batched=False))
    assert made.evaluate().tolist() == [2, 2, 2]
