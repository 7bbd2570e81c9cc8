"""Receptive fields against published ones, and against what a gradient shows."""

import pytest
import torch
from helpers import torch_op

from convdsl.analysis import analyse
from convdsl.network import Network, locate, read

# Of the last layer with a window, as Araujo, Norris and Sim list them ("Computing receptive fields
# of convolutional neural networks", Distill 2019). Their ResNets are the paper's.
PUBLISHED = {
    "AlexNetTorchvision": 195,
    "VGG16": 212,
    "ResNet50_Paper": 483,
    "ResNet101_Paper": 1027,
    "ResNet152_Paper": 1507,
    "MobileNetV1": 315,
}


def last_window(analysis):
    """The last value, and its field, that is not about the whole input."""
    for node in reversed(analysis.graph.nodes):
        field = analysis.field(node.output)
        if node.output.type.spatial and min(field.stride) > 0:
            return node.output, field
    raise AssertionError("every layer sees everything")


def resized(name, *sizes):
    path, found = locate(name)
    channels = Network(read(path), found).graph.inputs[0].type.channels
    return Network(read(path), found, input_sizes=[(channels, *sizes)]).graph


@pytest.mark.parametrize("name", PUBLISHED)
def test_fields_are_the_published_ones(name):
    _, field = last_window(analyse(resized(name, 224, 224)))
    assert field.size == (PUBLISHED[name],) * 2


# Name, field, the axis that is long enough for it, and the sizes of the others.
MEASURED = [
    ("LeNet5", 32, 0, (32,)),
    ("LeNet", 16, 1, (32,)),
    ("AlexNet", 195, 0, (99,)),
    ("AlexNetGrouped", 195, 1, (99,)),
    ("TinyVGG", 16, 0, (20,)),
    ("ZFNet", 171, 1, (64,)),
    ("NiN", 42, 0, (12,)),
    ("NiN_ImageNet", 227, 1, (67,)),
    ("VGG11", 150, 0, (32,)),
    ("VGG16", 212, 1, (32,)),
    ("VGG16_1x1", 156, 0, (32,)),
    ("VGG19", 268, 1, (32,)),
    ("Plain18", 435, 0, (32,)),
    ("ResNet18", 435, 0, (32,)),
    ("ResNet50", 427, 1, (32,)),
    ("ResNet50_Paper", 483, 0, (32,)),
    ("ResNet20", 109, 1, (8,)),
    ("ResNeXt50", 427, 0, (32,)),
    ("GoogLeNet_NoAux", 0, 0, (32,)),
    ("SqueezeNet", 0, 1, (32,)),
    ("MobileNetV1_025", 315, 0, (32,)),
    ("MobileNetV2", 491, 1, (32,)),
    ("M5", 0, 0, ()),
    ("M11", 0, 0, ()),
    ("C3D", 0, 0, (8, 8)),
    ("C3D", 0, 2, (8, 8)),
]


@pytest.mark.parametrize(("name", "size", "axis", "others"), MEASURED)
def test_fields_are_the_support_of_the_gradient(name, size, axis, others):
    """Of an element in the middle, in a network whose maps have been made linear and positive."""
    sizes = list(others)
    sizes.insert(axis, 8 * (size // 8) + 200)
    graph = resized(name, *sizes)
    value, field = last_window(analyse(graph))
    assert field.exact
    assert field.size[axis] == size
    graph = graph.replace(outputs=(("measured", value),)).live()
    x = torch.ones(1, *graph.inputs[0].type.shape, dtype=torch.float64, requires_grad=True)
    y = linear(graph, x)
    middle = [n // 2 for n in y.shape[2:]]
    y[(0, 0, *middle)].backward()
    across = [a for a in range(x.ndim - 1) if a != axis + 1]
    seen = x.grad[0].sum(across).nonzero().flatten().tolist()
    start = field.start[axis] + middle[axis] * field.stride[axis]
    assert 0 < start
    assert seen == list(range(start, start + size))


def linear(graph, x):
    """The output with every weight the same, maxima means, and no activations."""
    values = {graph.inputs[0]: x}
    for node in graph.nodes:
        given = [values[v] for v in node.data]
        values[node.output] = linear_op(node.op, given, node.weights)
    return values[graph.outputs[0][1]]


def linear_op(op, given, weights):
    match op.kind:
        case "max":
            ones = torch.ones(given[0].shape[1], 1, *op.window, dtype=torch.float64)
            pads = [p + (s if op.ceil else 0) ... ]
    shapes = [w.type.shape for w in weights]
    filled = [torch.full(s, 1 / max(1, torch.Size(s[1:]).numel()), dtype=torch.float64) for s in shapes]
    return torch_op(op, given, filled)
