"""Forward and backward passes of every bundled network, at reduced sizes, against torch."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emulator import compile_emulated
from helpers import relative_error, torch_op

from convdsl import compiler
from convdsl.network import Network, locate, read
from convdsl.runtime.interpreter import evaluate

# The input each is run on. The last maps keep more than one element where they are normalised.
SIZES = {
    "LeNet": (1, 32, 32),
    "LeNet5": (1, 32, 32),
    "LeNet5_ScaledTanh": (1, 32, 32),
    "AlexNet": (3, 67, 67),
    "AlexNetGrouped": (3, 67, 67),
    "AlexNetTorchvision": (3, 63, 63),
    "TinyVGG": (3, 24, 20),
    "VGG11": (3, 32, 32),
    "VGG11_LRN": (3, 32, 32),
    "VGG13": (3, 32, 32),
    "VGG16_1x1": (3, 32, 32),
    "VGG16": (3, 32, 32),
    "VGG19": (3, 32, 32),
    "ZFNet": (3, 64, 64),
    "NiN": (3, 16, 12),
    "NiN_ImageNet": (3, 67, 67),
    "GoogLeNet_NoAux": (3, 64, 48),
    "GoogLeNetTorchvision_NoAux": (3, 64, 64),
    "SqueezeNet": (3, 48, 40),
    "ResNet18": (3, 64, 64),
    "ResNet34": (3, 64, 64),
    "ResNet50": (3, 64, 64),
    "ResNet101": (3, 64, 64),
    "ResNet152": (3, 64, 64),
    "ResNet34_A": (3, 64, 64),
    "ResNet34_C": (3, 64, 64),
    "ResNet50_Paper": (3, 64, 64),
    "ResNet101_Paper": (3, 64, 64),
    "ResNet152_Paper": (3, 64, 64),
    "Plain18": (3, 64, 64),
    "Plain34": (3, 64, 64),
    "ResNet20": (3, 16, 16),
    "ResNet32": (3, 16, 16),
    "ResNet44": (3, 16, 16),
    "ResNet56": (3, 16, 16),
    "ResNet110": (3, 16, 16),
    "ResNeXt50": (3, 64, 64),
    "SE_ResNet50": (3, 64, 64),
    "MobileNetV1": (3, 64, 64),
    "MobileNetV1_075": (3, 64, 64),
    "MobileNetV1_050": (3, 64, 64),
    "MobileNetV1_025": (3, 64, 64),
    "MobileNetV2": (3, 64, 64),
    "DenseNet121": (3, 64, 64),
    "UNet": (1, 188, 188),
    "M3": (1, 1000),
    "M5": (1, 4000),
    "M11": (1, 4000),
    "M18": (1, 4000),
    "C3D": (3, 16, 32, 32),
}
WITH_SEVERAL_OUTPUTS = {"GoogLeNet": (3, 224, 224), "GoogLeNetTorchvision": (3, 96, 96)}
CLASSES = 5
BATCH = 2

# In the others there are only more of the same layers.
QUICK = {
    "LeNet5_ScaledTanh",
    "AlexNetGrouped",
    "TinyVGG",
    "VGG11_LRN",
    "ZFNet",
    "NiN",
    "GoogLeNet_NoAux",
    "SqueezeNet",
    "ResNet18",
    "ResNet20",
    "SE_ResNet50",
    "MobileNetV1_025",
    "MobileNetV2",
    "M5",
}
# Compiling for the CPU takes seconds for every kernel; the GPU's are emulated, which takes time for
# every multiplication.
QUICK_COMPILED = {"LeNet5_ScaledTanh", "TinyVGG", "ResNet20", "MobileNetV1_025", "M5"}
QUICK_EMULATED = {*QUICK_COMPILED, "SqueezeNet"}
COMPILERS = {"cpu": compiler.compile, "cuda": compile_emulated}


def slow_but(names, quick):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


def compiled_for_each(names):
    """A target and a name: the quick ones of each target, and all the others slow."""
    quick = {"cpu": QUICK_COMPILED, "cuda": QUICK_EMULATED}
    cases = [(target, name) for target in COMPILERS for name in names]
    marks = [[] if name in quick[target] else [pytest.mark.slow] for target, name in cases]
    return [pytest.param(*case, marks=m) for case, m in zip(cases, marks, strict=True)]


def reduced(name, size):
    path, found = locate(name)
    return Network(read(path), found, {"classes": CLASSES}, [size]).graph


def without_dropout(graph):
    """The graph with all elements kept, so that training is no matter of chance."""
    nodes = [replace(n, op=replace(n.op, rate=0.0)) if n.op.kind == "dropout" else n for n in graph]
    return graph.replace(nodes=tuple(nodes))


def in_torch(graph, x, weights, training):
    """The outputs; in training, batch normalisation takes the statistics of the batch."""
    values = {graph.inputs[0]: x}
    for node in graph.nodes:
        given = [values[v] for v in node.data]
        own = [weights[w.name] for w in node.weights]
        if training and node.op.kind == "bn":
            made = F.batch_norm(*given, None, None, *own[:2], training=True, eps=node.op.eps)
        else:
            made = torch_op(node.op, given, own)
        values[node.output] = made
    return [values[value] for _, value in graph.outputs]


def drawn(graph, seed=0):
    """Values for all variables: weights that keep the scale of what flows, statistics unlike those
    of a batch."""
    random = np.random.default_rng(seed)
    arrays = {}
    for v in graph.variables:
        shape = v.type.with_batch(BATCH)
        if v.role == "input":
            arrays[v.name] = random.standard_normal(shape, np.float32)
        elif v.role == "target":
            arrays[v.name] = random.integers(0, CLASSES, shape)
        elif v.name.endswith(".mean"):
            # Around zero, or rectifiers would let nothing through and all results be biases.
            arrays[v.name] = random.standard_normal(shape, np.float32) * np.float32(0.1)
        elif v.role == "buffer":
            arrays[v.name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif v.name.endswith(".scale"):
            arrays[v.name] = random.uniform(0.8, 1.2, shape).astype(np.float32)
        else:
            scale = math.sqrt(2 / math.prod(shape[1:])) if len(shape) > 1 else 0.1
            arrays[v.name] = random.standard_normal(shape, np.float32) * np.float32(scale)
    return arrays


def doubles(arrays):
    return {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}


@pytest.mark.parametrize("name", slow_but(SIZES, QUICK))
def test_gradients_are_torchs(name):
    """In the interpreter, in float64, in training."""
    graph = without_dropout(reduced(name, SIZES[name]))
    lowered = compiler.lower(graph, "cross_entropy")
    arrays = doubles(drawn(lowered))
    found = evaluate(lowered, arrays)
    tensors = {
        v.name: torch.from_numpy(arrays[v.name]).requires_grad_(v.role != "buffer")
        for v in graph.variables
    }
    (logits,) = in_torch(graph, tensors[graph.inputs[0].name], tensors, training=True)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["target"]))
    loss.backward()
    assert abs(found["loss"] - loss.item()) < 1e-9
    largest = max(tensors[v.name].grad.abs().max() for v in graph.parameters).item()
    assert largest > 0
    for variable in (*graph.parameters, *graph.inputs):
        expected = tensors[variable.name].grad.numpy()
        difference = np.abs(found[f"gradient of {variable.name}"] - expected).max()
        # Counts are float32 in the graph. A gradient that is zero, such as a bias's before batch
        # normalisation, has no scale of its own.
        assert difference < 1e-7 * max(np.abs(expected).max(), 0.1 * largest), variable.name


@pytest.mark.parametrize(("target", "name"), compiled_for_each(SIZES | WITH_SEVERAL_OUTPUTS))
def test_compiled_forward_is_torchs(target, name):
    graph = reduced(name, (SIZES | WITH_SEVERAL_OUTPUTS)[name])
    program = COMPILERS[target](graph, batch=BATCH)
    arrays = drawn(graph)
    program.update({v.name: arrays[v.name] for v in (*graph.parameters, *graph.buffers)})
    x = arrays[graph.inputs[0].name]
    outputs = program(x)
    tensors = {n: torch.from_numpy(a) for n, a in doubles(arrays).items()}
    expected = in_torch(graph, tensors[graph.inputs[0].name], tensors, training=False)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for ours, theirs in zip(outputs, expected, strict=True):
        # The image must reach them: results differ from image to image.
        assert np.abs(ours[0] - ours[1]).max() > 1e-3 * np.abs(ours).max()
        # float32 rounding, carried through up to 155 layers
        assert relative_error(ours, theirs.numpy()) < 1e-4


def torch_gradients(graph, arrays):
    """The loss and the gradients of the parameters, in the precision of the arrays."""
    tensors = {
        v.name: torch.from_numpy(arrays[v.name]).requires_grad_(v.role != "buffer")
        for v in graph.variables
    }
    (logits,) = in_torch(graph, tensors[graph.inputs[0].name], tensors, training=True)
    loss = F.cross_entropy(logits, torch.from_numpy(arrays["target"]))
    loss.backward()
    return loss.item(), {v.name: tensors[v.name].grad.numpy() for v in graph.parameters}


def moved(arrays, seed):
    """The arrays in float64, every element moved by some 1e-6 of itself."""
    random = np.random.default_rng(seed)
    return {
        n: a * (1 + 1e-6 * random.standard_normal(a.shape)) if a.dtype == np.float64 else a
        for n, a in doubles(arrays).items()
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "name"), [*(("cpu", n) for n in SIZES), *(("cuda", n) for n in sorted(QUICK))]
)
def test_compiled_gradients_are_torchs(target, name):
    graph = without_dropout(reduced(name, SIZES[name]))
    step = COMPILERS[target](graph, batch=BATCH, loss="cross_entropy")
    arrays = drawn(compiler.lower(graph, "cross_entropy"))
    step.update({v.name: arrays[v.name] for v in (*graph.parameters, *graph.buffers)})
    loss, gradients = step.value_and_grad(arrays[graph.inputs[0].name], arrays["target"])
    exact_loss, exact = torch_gradients(graph, doubles(arrays))
    largest = max(np.linalg.norm(g) for g in exact.values())
    scales = {n: max(np.linalg.norm(g), 1e-3 * largest) for n, g in exact.items()}

    def distance(found):
        return max(np.linalg.norm(found[n] - exact[n]) / scales[n] for n in exact)

    # Rounding takes an element about as large as another, or about zero, to the other maximum or
    # to the other side of a ReLU, which moves gradients by a step, and batch normalisation over a
    # handful of elements amplifies it from layer to layer. How far that carries is shown by torch
    # itself: in float32, and in float64 with weights moved by as much as float32 sums round.
    others = [torch_gradients(graph, arrays)]
    others += [torch_gradients(graph, moved(arrays, seed)) for seed in range(3)]
    loss_reach = max(abs(other - exact_loss) for other, _ in others)
    reach = max(distance(other) for _, other in others)
    assert abs(loss - exact_loss) < 1e-5 + 4 * loss_reach
    assert distance(gradients) < 1e-4 + 4 * reach
