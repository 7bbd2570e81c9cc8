"""Every bundled network: it loads, its expectations hold, and torch counts the same."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from helpers import torch_op
from torch.utils.flop_counter import FlopCounterMode

from convdsl import resources
from convdsl.language import net_names
from convdsl.network import Network, bundled, load, read

FILES = sorted(resources.networks_directory().glob("*.cnn"))
NETWORKS = [(path, name) for path in FILES for name in net_names(read(path))]


@cache
def network(path, name):
    return Network(read(path), name)


every_network = pytest.mark.parametrize(
    ("path", "name"), NETWORKS, ids=[name for _, name in NETWORKS]
)

# fmt: off
CONTRACT = [
    "lenet5", "lenet", "alexnet", "alexnet_grouped", "alexnet_torchvision", "vgg11",
    "vgg11_lrn", "vgg13", "vgg16_1x1", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50",
    "resnet101", "resnet152", "plain18", "plain34", "resnet20", "resnet32", "resnet44",
    "resnet56", "resnet110", "tinyvgg", "zfnet", "nin", "googlenet", "squeezenet",
    "mobilenet_v1", "mobilenet_v2", "densenet121", "resnext50", "se_resnet50", "unet", "m5",
    "c3d",
]
# fmt: on


def test_the_zoo_is_found():
    assert len(NETWORKS) >= 40


@pytest.mark.parametrize("name", CONTRACT)
def test_bundled_names_fold(name):
    assert load(name).graph is not None
    assert re.sub(r"[-_]", "", name) in bundled()


@every_network
def test_expectations_hold(path, name):
    net = network(path, name)
    assert net.verify() == ()
    assert not net.warnings
    about_all = {e.quantity for e in net.expectations if e.value is None and not e.nodes}
    assert "params" in about_all, "the network states no parameters"


@every_network
def test_networks_are_documented(path, name):
    text = network(path, name).graph.documentation
    assert len(text) > 20
    file = path.read_text(encoding="utf-8")
    assert re.search(r"## .*\b(19|20)\d\d\b", file), "the file names no paper"
    assert max(map(len, file.splitlines())) <= 120


@every_network
def test_outputs_are_logits(path, name):
    graph = network(path, name).graph
    for _, value in graph.outputs:
        assert "softmax" not in graph.producers[value].op.kind
        classes = value.type.channels
        assert value.type.shape == (classes,) or name.startswith("UNet")
        assert not graph.labels or len(graph.labels) == classes


@every_network
def test_images_are_prepared_to_size(path, name):
    """What the preprocessing of an image network makes is the size of its input."""
    (image,) = network(path, name).graph.inputs
    given, shape = dict(image.attributes), image.type.shape
    if "crop" in given:
        assert shape[1:] == (given["crop"],) * 2
        assert given["resize"] >= given["crop"]
    if shape[0] == 3 and len(shape) == 3 and shape[1] > 64:
        assert {"mean", "std", "resize", "crop"} <= set(given)


@every_network
def test_torch_counts_the_same(path, name):
    """Shapes and multiply-adds as torch infers and counts them, parameters as its tensors have."""
    net = network(path, name)
    graph = net.graph
    full = 0
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        weights = {v: torch.empty(v.type.shape) for v in graph.variables if v.role != "input"}
        values = {v: torch.empty(2, *v.type.shape) for v in graph.inputs}
        for node in graph.nodes:
            given = [values[v] for v in node.data]
            made = torch_op(node.op, given, [weights[w] for w in node.weights])
            assert tuple(made.shape) == (2, *node.output.type.shape), node.name
            values[node.output] = made
            table = getattr(node.op, "connect", None)
            if table is not None:  # torch multiplies by the zeros, too
                missing = sum(not connected for row in table for connected in row)
                full += missing * node.op.window[0] ** 2 * made[0, 0].numel()
    macs = sum(node.op.macs(*(v.type for v in node.data)) for node in graph.nodes)
    assert counter.get_total_flops() == 2 * 2 * (macs + full)
    assert net.params == sum(weights[v].numel() for v in graph.parameters)


def test_the_documented_table_is_current():
    tool = Path(__file__).resolve().parents[2] / "tools" / "zoo_table"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
