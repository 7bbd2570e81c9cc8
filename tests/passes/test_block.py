"""Feature maps in blocks of channels: the graph computes what it did."""

import numpy as np
import pytest
from helpers import positive_buffers, random_arrays, relative_error, sample_network

import convdsl
from convdsl import passes
from convdsl.compiler import lower
from convdsl.graph.graph import verify
from convdsl.ops import registry
from convdsl.runtime.interpreter import evaluate

SAMPLES = [s for op in registry().values() for s in op.samples]

NETWORKS = {
    "residual": "y = conv 20@3x3 pad=1\n conv 20@3x3 pad=1 -> bn\n add(y) -> relu",
    "branches": "a = conv 16@1x1\n b = conv 7@3x3 pad=1\n concat(a, b) -> max 2x2\n conv 5@1x1",
    "uneven branches": "a = conv 6@1x1\n b = conv 7@1x1\n concat(a, b)\n conv 5@1x1",
    "gate": "y = conv 18@3x3 pad=1\n avg global -> conv 18@1x1 -> sigmoid\n mul(y)",
    "gate by a vector": "y = conv 18@3x3\n avg global -> flatten -> dense 18 -> sigmoid\n mul(y)",
    "one filter": "conv 1@3x3 -> relu -> bn -> conv 2@1x1",
    "moves": "conv 24@3x3 -> shuffle 4 -> slice 3..20 -> pad 1 -> resize 2 -> conv 4@2x2",
    "whole blocks": "conv 48@3x3 -> slice 16..48 -> pad channels=(16, 32) -> conv 4@2x2",
    "depthwise": "conv 20@1x1 -> bn -> relu6 -> conv 20@3x3 groups=20 pad=1 -> bn -> conv 8@1x1",
    "normalised": "conv 12@3x3 -> layer_norm -> group_norm 3 -> lrn 3 -> avg 2x2",
}


def blocked(graph, lanes):
    made = passes.block(graph, lanes)
    verify(made)
    return made


@pytest.mark.parametrize("lanes", [4, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same_in_blocks(name, lanes):
    graph = convdsl.load_source(f"net T {{ input 3@9x8\n {NETWORKS[name]} }}").graph
    lowered = lower(graph)
    arrays = positive_buffers(graph, random_arrays(graph, 2))
    made = blocked(lowered, lanes)
    assert any(node.op.kind in ("in_blocks", "fused") for node in made)
    result = evaluate(made, arrays)["output"]
    assert relative_error(result, evaluate(lowered, arrays)["output"]) < 1e-6


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.text)
def test_gradients_are_the_same_in_blocks(sample):
    """Behind a convolution, so that the op finds its input in blocks where it takes it so."""
    type = sample_network(sample).graph.inputs[0].type
    window = "x".join("1" * type.rank)
    first = f"conv {type.channels}@{window}" if type.rank else f"dense {type.size}"
    text = f"block B {{\n {sample.text}\n}}\n"
    text += f"net T {{\n input {sample.input}\n {first}\n B\n flatten\n}}\n"
    lowered = lower(convdsl.load_source(text).graph, "cross_entropy")
    arrays = positive_buffers(lowered, random_arrays(lowered, 3))
    expected, found = evaluate(lowered, arrays), evaluate(blocked(lowered, 4), arrays)
    assert set(found) == set(expected)
    for name, value in expected.items():
        # Some gradients are zero but for rounding: a bias's before a normalisation.
        largest = np.abs(value).max()
        assert np.abs(found[name] - value).max() < 1e-5 * largest + 1e-6, name


def layout_moves(body, loss=None):
    """The changes of layout of maps of more channels than the first and last layer have."""
    graph = convdsl.load_source(f"net T {{ input 3@9x8\n {body} }}").graph
    made = blocked(lower(graph, loss), 16)
    moves = [node for node in made if node.op.kind in ("to_blocks", "from_blocks")]
    types = [n.op.x if n.op.kind == "to_blocks" else n.op.to for n in moves]
    return [t for t in types if t.batched and t.rank == 2 and t.channels not in (3, 16)]


BRANCHES = "s = conv 16@1x1\n a = s -> conv {a}@1x1\n b = s -> conv {b}@3x3 pad=1\n concat(a, b)"


@pytest.mark.parametrize("body", [BRANCHES.format(a=32, b=12), "conv 80@1x1 -> slice 16..48"])
def test_what_joins_and_cuts_whole_blocks_stays_in_blocks(body):
    last = "\n conv 16@1x1 -> avg global -> flatten"
    assert not layout_moves(body + last)
    assert not layout_moves(body + last, "cross_entropy")


@pytest.mark.parametrize("body", [BRANCHES.format(a=24, b=20), "conv 80@1x1 -> slice 8..48"])
def test_what_cuts_through_blocks_leaves_them(body):
    assert layout_moves(body + "\n conv 16@1x1 -> avg global -> flatten")
