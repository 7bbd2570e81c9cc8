"""Counts: the seed's tables, and what the reference executes."""

import pytest
from built import Net, alexnet, lenet

from convdsl.analysis import analyse, connectivity
from convdsl.analysis.costs import node_costs
from convdsl.ops import registry


def test_the_seed_networks():
    assert analyse(lenet()).total.parameters == 61_706
    assert analyse(alexnet()).total.parameters == 62_378_344
    assert analyse(alexnet()).total.macs == 1_135_256_096


def test_the_rows_of_the_seeds_table():
    costs = {n.name: c for n, c in analyse(alexnet()).costs.items()}
    assert costs["C1"].parameters == 11 * 11 * 3 * 96 + 96
    assert costs["C3"].parameters == 5 * 5 * 96 * 256 + 256
    assert costs["P2"].parameters == costs["P2"].macs == 0
    assert costs["P2"].flops == 96 * 27 * 27 * 9
    assert costs["F9"].macs == 6 * 6 * 256 * 4096


def test_operations_grow_with_the_batch_and_parameters_do_not():
    one, many = analyse(lenet()).total, analyse(lenet(), 7).total
    assert (many.macs, many.flops) == (7 * one.macs, 7 * one.flops)
    assert many.activation_bytes == 7 * one.activation_bytes
    assert many.parameters == one.parameters


def test_shared_weights_are_counted_once():
    net = Net(4, 8, 8)
    net.conv(4, 3, 3, name="c", pad=1)
    first = net.builder.nodes[0]
    net.at = net.builder.add(first.op, net.at, *first.weights, name="again")
    graph = net.graph()
    assert analyse(graph).total.parameters == node_costs(graph.nodes[0]).parameters
    assert analyse(graph).total.macs == 2 * node_costs(graph.nodes[0]).macs


def test_views_take_no_memory():
    net = Net(4, 8, 8)
    net.apply("flatten")
    assert analyse(net.graph()).total.activation_bytes == 0


def test_the_peak_lies_between_the_largest_activation_and_their_sum():
    analysis = analyse(alexnet())
    largest = 4 * 96 * 55 * 55
    assert largest <= analysis.peak_activation_bytes < analysis.total.activation_bytes


def test_an_op_without_a_counting_rule_is_an_error(monkeypatch):
    monkeypatch.delattr(registry()["avg"], "flops")
    with pytest.raises(NotImplementedError, match="avg"):
        _ = analyse(lenet()).total


def test_why_a_convolution():
    """The seed's two savings for LeNet's C1: 28·28 inputs, 6·28·28 outputs, 5·5 windows."""
    nodes = {node.name: node for node in lenet().nodes}
    why = connectivity(nodes["C1"])
    assert why.dense == 28 * 28 * 6 * 28 * 28
    assert why.sparse == 6 * 28 * 28 * 25
    assert why.shared == 150
    assert why.saved_by_sparsity == pytest.approx(28 * 28 / 25)
    assert why.saved_by_sharing == 28 * 28
    assert connectivity(nodes["S2"]) is None
    assert connectivity(nodes["F5"]) is None
