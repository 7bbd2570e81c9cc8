"""Receptive fields against published ones, and against the support of a gradient."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import torch_op

from convdsl.analysis import analyse
from convdsl.network import Network, load, locate, read

# As Araujo, Norris and Sim list them ("Computing receptive fields of convolutional neural
# networks", Distill 2019). Their ResNets have the stride where the paper has it.
PUBLISHED = {
    "AlexNet": 195,
    "AlexNetTorchvision": 195,
    "VGG16": 212,
    "ResNet50_Paper": 483,
    "ResNet101_Paper": 1027,
    "ResNet152_Paper": 1507,
    "MobileNetV1": 315,
}

# Name, field along an axis, which axis, and the sizes of the other axes.
MEASURED = [
    ("LeNet", 16, 0, (32,)),
    ("LeNet5", 32, 1, (32,)),
    ("AlexNetGrouped", 195, 1, (67,)),
    ("TinyVGG", 16, 0, (20,)),
    ("ZFNet", 171, 1, (64,)),
    ("NiN", 27, 0, (12,)),
    ("NiN_ImageNet", 195, 1, (67,)),
    ("VGG11", 150, 0, (32,)),
    ("VGG16", 212, 1, (32,)),
    ("ResNet18", 435, 0, (32,)),
    ("ResNet50", 427, 0, (32,)),
    ("ResNet20", 81, 0, (8,)),
    ("GoogLeNet_NoAux", 715, 0, (64,)),
    ("SqueezeNet", 155, 1, (32,)),
    ("MobileNetV1_025", 315, 0, (32,)),
    ("M5", 1772, 0, ()),
    ("C3D", 76, 0, (32, 32)),
    ("C3D", 150, 2, (16, 32)),
    ("UNet", 204, 0, (188,)),
]
MEASURED_TOO = [
    ("AlexNet", 195, 0, (67,)),
    ("VGG16_1x1", 156, 0, (32,)),
    ("Plain18", 435, 1, (32,)),
    ("ResNet34_A", 899, 1, (32,)),
    ("ResNet50_Paper", 483, 1, (32,)),
    ("ResNeXt50", 427, 1, (32,)),
    ("MobileNetV2", 491, 1, (32,)),
    ("M11", 7052, 0, ()),
]

ACTIVATIONS = {"relu", "relu6", "sigmoid", "tanh", "lrn", "dropout"}


def last_window(graph):
    """The last value whose elements see different parts of the input, and its field."""
    analysis = analyse(graph)
    for node in reversed(graph.nodes):
        field = analysis.field(node.output)
        if node.output.type.spatial and min(field.stride) > 0:
            return node.output, field
    raise AssertionError("every layer sees everything")


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_are_the_published_ones(name):
    _, field = last_window(load(name).graph)
    assert field.size == (PUBLISHED[name],) * 2


@pytest.mark.parametrize(
    ("name", "size", "axis", "others"),
    [*MEASURED, *(pytest.param(*case, marks=pytest.mark.slow) for case in MEASURED_TOO)],
)
def test_fields_are_the_support_of_the_gradient(name, size, axis, others):
    """Of elements in the middle, on a long strip, with everything made linear and positive."""
    declared = load(name).graph
    channels, step = declared.inputs[0].type.channels, last_window(declared)[1].axes[axis].advance
    sizes = [*others[:axis], size + 3 * step, *others[axis:]]
    path, found = locate(name)
    graph = Network(read(path), found, input_sizes=[(channels, *sizes)]).graph
    value, field = last_window(graph)
    reach = field.axes[axis]
    assert field.exact
    assert reach.size == size
    x = torch.ones(1, channels, *sizes, dtype=torch.float64, requires_grad=True)
    y = linear(graph.replace(outputs=(("measured", value),)).live(), x)
    for element in {0, reach.period // 2}:
        place = [n // 2 for n in y.shape[2:]]
        place[axis] += element
        (gradient,) = torch.autograd.grad(y[(0, ..., *place)].sum(), x, retain_graph=True)
        across = [a for a in range(x.ndim - 1) if a != axis + 1]
        seen = gradient[0].sum(across).nonzero().flatten().tolist()
        assert seen == list(range(reach.start(place[axis]), reach.end(place[axis])))


def linear(graph, x):
    values = {graph.inputs[0]: x}
    for node in graph.nodes:
        values[node.output] = linear_op(node.op, [values[v] for v in node.data], node.weights)
    return values[graph.outputs[0][1]]


def linear_op(op, given, weights):
    """An op with equal weights that keep the scale; maxima become means."""
    if op.kind in ACTIVATIONS:
        return given[0]
    if op.kind == "max":
        mean = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[len(op.window) - 1]
        return mean(given[0], op.window, op.stride, [p for p, _ in op.pad], op.ceil)
    shapes = [w.type.shape for w in weights]
    equal = [torch.full(s, 1 / math.prod(s[1:]), dtype=torch.float64) for s in shapes]
    return torch_op(op, given, equal)
