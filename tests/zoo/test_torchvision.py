"""Layers and results of the networks that torchvision has, from what `tools/torchvision_reference`
found in torchvision 0.28.0."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import torch_op

from convdsl.network import Network, load, locate, read

REFERENCE = json.loads((Path(__file__).parent / "torchvision.json").read_text(encoding="utf-8"))
LEFT_OUT = {"dropout", "flatten"}
KINDS = {"adaptive_avg": "avg"}


@pytest.mark.parametrize("name", REFERENCE)
def test_every_layer_is_torchvisions(name):
    reference = REFERENCE[name]
    graph = load(name).graph
    assert graph.inputs[0].type.shape == (3, reference["size"], reference["size"])
    assert without_idle(layers(graph)) == without_idle(reference["layers"])


def layers(graph):
    """Kind, output, parameters and multiply-adds of every layer that computes in inference."""
    found = []
    for node in graph.nodes:
        if node.op.kind not in LEFT_OUT:
            kind = KINDS.get(node.op.kind, node.op.kind)
            parameters = sum(w.type.size for w in node.weights if w.role == "parameter")
            macs = node.op.macs(*(v.type for v in node.data))
            found.append(f"{kind} {node.output.type} {parameters} {macs}")
    return found


def without_idle(rows):
    """The layers without average pooling to the size that is there already."""
    before = ["", *rows]
    return [
        row
        for row, last in zip(rows, before, strict=False)
        if not (row.startswith("avg") and row.split()[1:2] == last.split()[1:2])
    ]


# The others differ from these in how often a layer is repeated.
QUICK = {
    "AlexNetTorchvision",
    "VGG11",
    "ResNet18",
    "ResNet50",
    "ResNeXt50",
    "SqueezeNet",
    "GoogLeNetTorchvision",
    "MobileNetV2",
    "DenseNet121",
}


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in REFERENCE]
)
def test_results_are_torchvisions(name):
    """In float64, with the same weights."""
    reference = REFERENCE[name]
    path, found = locate(name)
    size = (3, reference["small"], reference["small"])
    graph = Network(read(path), found, input_sizes=[size]).graph
    random = np.random.default_rng(0)
    weights = {w: filled(w, random) for node in graph.nodes for w in node.weights}
    values = {graph.inputs[0]: tensor(random.standard_normal((1, *size), np.float32))}
    for node in graph.nodes:
        given = [values[v] for v in node.data]
        values[node.output] = torch_op(node.op, given, [weights[w] for w in node.weights])
    outputs = [values[value][0, :4].tolist() for _, value in graph.outputs]
    expected = [[float(v) for v in row.split()] for row in reference["logits"]]
    if len(expected) == 3:  # torchvision gives the auxiliary outputs in reverse
        expected[1:] = reversed(expected[1:])
    for ours, theirs in zip(outputs, expected, strict=True):
        assert np.allclose(ours, theirs, rtol=1e-7, atol=1e-7 * max(map(abs, theirs)))


def filled(variable, random):
    """What `tools/torchvision_reference` puts into a weight."""
    shape, name = variable.type.shape, variable.name.rpartition(".")[2]
    values = random.standard_normal(shape, np.float32)
    if name == "variance":
        return tensor(0.5 + np.abs(values))
    if name == "scale":
        return tensor(1 + 0.1 * values)
    if len(shape) > 1:
        return tensor(values * np.float32(math.sqrt(2 / math.prod(shape[1:]))))
    return tensor(0.1 * values)


def tensor(array):
    return torch.from_numpy(array).double()
