"""Receptive fields: the seed's and the papers' numbers, and the support that a NaN shows."""

from fractions import Fraction

import numpy as np
import pytest
from built import Net, alexnet, lenet

from convdsl.analysis import analyse, receptive_fields
from convdsl.graph import Graph, Scope
from convdsl.ops.attributes import Bank, Word
from convdsl.runtime.interpreter import evaluate


def field_of(graph: Graph, name: str):
    (node,) = [n for n in graph.nodes if n.name == name]
    return analyse(graph).field(node.outputs[0])


def test_a_chain_adds_kernels_times_strides():
    """AlexNet's fields, as Araujo et al. (2019) list them."""
    graph = alexnet()
    sizes = {n.name: field_of(graph, n.name).size[0] for n in graph.nodes if n.name[0] in "CP"}
    assert sizes == {
        "C1": 11, "P2": 19, "C3": 51, "P4": 67, "C5": 99, "C6": 131, "C7": 163, "P8": 195,
    }  # fmt: skip
    last = field_of(graph, "P8")
    assert last.stride == (32, 32)
    assert last.start == (-64, -64)
    assert last.exact
    assert not last.whole


def test_what_sees_everything_sees_the_whole_input():
    field = field_of(lenet(), "F5")
    assert (field.size, field.stride, field.start) == ((28, 28), (0, 0), (0, 0))
    assert field.whole
    assert analyse(lenet()).receptive_field == (28, 28)


def test_what_nothing_looks_at_is_not_seen():
    """A stride that does not fit leaves the last column out, for a dense layer after it too."""
    net = Net(1, 8)
    net.conv(1, 3, stride=2)
    net.apply("dense", 2, name="out")
    field = field_of(net.graph(), "out")
    assert (field.size, field.start, field.whole) == ((7,), (0,), False)


def test_axes_are_apart():
    net = Net(1, 20, 30)
    net.conv(2, 3, 5, name="c", stride=[2, 1], dilation=[1, 2])
    field = field_of(net.graph(), "c")
    assert (field.size, field.stride) == ((3, 9), (2, 1))


def test_joins_take_the_union_of_their_paths():
    net = Net(1, 16)
    x = net.at
    left = net.conv(1, 3, pad=1)
    net.at = x
    right = net.conv(1, 5, pad=[[4, 0]])
    net.combine(left, right, name="join")
    field = field_of(net.graph(), "join")
    assert (field.start, field.size, field.exact) == ((-4,), (6,), True)


def test_paths_of_different_strides_are_marked_inexact():
    net = Net(1, 9)
    x = net.at
    left = net.conv(1, 3, stride=2)  # 4 elements
    net.at = x
    right = net.conv(1, 6)  # 4 elements
    net.combine(left, right, name="join")
    field = field_of(net.graph(), "join")
    assert not field.exact
    assert (field.start, field.size) == ((0,), (9,))


def test_a_gate_that_sees_everything_makes_the_product_see_everything():
    """Squeeze and excitation: a map times a vector of its own channels."""
    net = Net(2, 6, 6)
    x = net.conv(2, 3, 3, pad=1)
    gate = net.apply("avg", Word("global"))
    net.combine(x, gate, name="scaled")
    field = field_of(net.graph(), "scaled")
    assert field.whole
    assert field.exact


def test_each_of_several_inputs_has_a_field():
    net = Net(1, 8, name="a")
    a, b = net.at, net.input("b", 1, 8)
    left = net.conv(1, 3, pad=1)
    net.at = b
    right = net.conv(1, 5, pad=2)
    both = net.combine(left, right)
    found = receptive_fields(net.graph())[both]
    assert {v.name: f.size for v, f in found.items()} == {"a": (3,), "b": (5,)}
    assert receptive_fields(net.graph())[left].keys() == {a}


def supports(graph: Graph, elements: range) -> list[tuple[int, int]]:
    """Start and end of the inputs whose NaN reaches an element of the output, in one dimension."""
    arrays = {v.name: np.ones(v.type.with_batch(1)) for v in graph.variables}
    (name, _), image = graph.outputs[0], graph.inputs[0].name
    reached = []
    for index in range(graph.inputs[0].type.spatial[0]):
        x = np.zeros_like(arrays[image])
        x[0, 0, index] = np.nan
        y = evaluate(graph, arrays | {image: x})[name]
        reached.append(np.isnan(y[0, 0, elements.start : elements.stop]))
    inputs = [np.flatnonzero(column) for column in np.transpose(reached)]
    return [(int(seen[0]), int(seen[-1]) + 1) for seen in inputs]


@pytest.mark.parametrize("seed", range(16))
def test_fields_are_the_measured_support(seed):
    """Random one-dimensional networks with a branch; an element in the middle, away from edges."""
    random = np.random.default_rng(seed)
    net = Net(1, 60)

    def layer() -> None:
        kernel, dilation = int(random.integers(2, 5)), int(random.integers(1, 3))
        pad = int(random.integers(0, 3))
        match random.integers(5):
            case 0:
                net.conv(1, kernel, dilation=dilation, pad=pad)
            case 1:
                net.apply(
                    "max", kernel, stride=int(random.integers(1, 3)), pad=min(pad, kernel - 1)
                )
            case 2:
                net.apply("deconv", Bank(1, kernel), stride=2, pad=min(pad, kernel - 1))
            case 3:
                net.apply("resize", int(random.integers(2, 4)), mode="nearest")
            case 4:
                net.apply("resize", 2, mode="bilinear")

    for _ in range(4):
        layer()
    x = net.at
    left = net.conv(1, 3, pad=1)
    net.at = x
    right = net.conv(1, 5, pad=2, stride=1)
    net.combine(left, right)
    layer()
    graph = net.graph()
    output = graph.outputs[0][1]
    field = analyse(graph).field(output)
    assert field.exact
    (reach,) = field.axes
    middle = output.type.spatial[0] // 2
    elements = range(middle, middle + 4)
    expected = [(max(reach.start(o), 0), min(reach.end(o), 60)) for o in elements]
    assert supports(graph, elements) == expected


def test_upsampling_sees_what_its_phases_see():
    """Two elements share an input; three see two, and so do two of different inputs."""
    net = Net(1, 8)
    net.apply("resize", 2, name="up")
    net.conv(1, 3, name="c", pad=1)
    net.apply("max", 2, name="down")
    graph = net.graph()
    up, c, down = (field_of(graph, name) for name in ("up", "c", "down"))
    assert (up.size, up.stride, up.axes[0].starts) == ((1,), (Fraction(1, 2),), (0, 0))
    assert (c.size, c.axes[0].starts, c.axes[0].ends) == ((2,), (-1, 0), (1, 2))
    assert (down.size, down.stride, down.axes[0].period) == ((3,), (1,), 1)


def test_time_is_linear_in_the_nodes():
    """Doubly joined paths, which would be exponential if each were walked."""
    net = Net(1, 8, 8)
    for index in range(200):
        net.combine(net.at, net.at, name=f"add{index}")
    assert analyse(net.graph()).receptive_field == (1, 1)


def test_paths_keep_their_scopes():
    net = Net(1, 8, 8)
    net.conv(1, 3, 3, path=(Scope("b1", "basic"),))
    assert net.graph().nodes[0].path[0].block == "basic"
