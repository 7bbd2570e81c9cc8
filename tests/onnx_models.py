"""The ops in ONNX's terms: for a graph and its arrays, the same network as an ONNX model in memory.

What ONNX has no operator for stands in `WITHOUT`, with the reason.
"""

import math

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 22

WITHOUT = {
    "drop_path": "ONNX has dropout of elements, not of branches; in inference this is the identity",
    "spatial_dropout": "ONNX has dropout of elements, not of channels; in inference the identity",
}
"""Ops without a counterpart: the reason, as a sentence for the table of ops."""

TRANSLATIONS = {}
"""For every other op: a function of the model, the op, the names of its inputs, their types and
its weights as arrays, that adds ONNX nodes and returns the name of the result."""


class Model:
    """Collects ONNX nodes and constants."""

    def __init__(self):
        self.nodes, self.constants, self.count = [], [], 0

    def add(self, kind, *inputs, outputs=1, **attributes):
        """A node; the name of its first result. Attributes that are None are left out."""
        self.count += 1
        names = [f"v{self.count}_{k}" for k in range(outputs)]
        given = {k: v for k, v in attributes.items() if v is not None}
        self.nodes.append(helper.make_node(kind, list(inputs), names, **given))
        return names[0]

    def constant(self, array):
        self.count += 1
        self.constants.append(numpy_helper.from_array(np.asarray(array), f"c{self.count}"))
        return f"c{self.count}"

    def number(self, value):
        return self.constant(np.float32(value))

    def integers(self, *values):
        return self.constant(np.array(values, np.int64))

    def finish(self, name, inputs, output, shape):
        """The model from inputs (arrays by name) to a value of that shape."""
        made = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in inputs.items()
        ]
        result = helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)
        graph = helper.make_graph(self.nodes, name, made, [result], self.constants)
        opset = helper.make_opsetid("", OPSET)
        # The oldest format that the operators need, for readers behind the newest one.
        return helper.make_model(graph, ir_version=10, opset_imports=[opset])


def network_model(graph, arrays):
    """A network as an ONNX model, the weights from the arrays."""
    model = Model()
    names = {v: f"in_{k}" for k, v in enumerate(graph.inputs)}
    for node in graph.nodes:
        types = [v.type for v in node.data]
        weights = [arrays[w.name] for w in node.weights]
        translate = TRANSLATIONS[node.op.kind]
        names[node.output] = translate(
            model, node.op, [names[v] for v in node.data], types, weights
        )
    inputs = {names[v]: arrays[v.name] for v in graph.inputs}
    result = graph.outputs[0][1]
    batch = arrays[graph.inputs[0].name].shape[0]
    shape = result.type.with_batch(batch)
    return model.finish(graph.name, inputs, names[result], shape), inputs


def operators(node):
    """The ONNX operators that a node becomes, each once, in order."""
    model = Model()
    names = [f"x{k}" for k, _ in enumerate(node.data)]
    weights = [np.zeros(w.type.shape, np.float32) for w in node.weights]
    TRANSLATIONS[node.op.kind](model, node.op, names, [v.type for v in node.data], weights)
    return tuple(dict.fromkeys(made.op_type for made in model.nodes))


def translates(*kinds):
    def register(function):
        TRANSLATIONS.update(dict.fromkeys(kinds, function))
        return function

    return register


# -- windows ---------------------------------------------------------------------------------


def sides(pads):
    """Pairs per axis in ONNX's order: all before, then all after."""
    return [before for before, _ in pads] + [after for _, after in pads]


@translates("conv")
def conv(model, op, inputs, types, weights):
    weight, *bias = weights
    if op.connect is not None:
        dense = np.zeros((op.filters, types[0].channels, *op.window), np.float32)
        places = [(f, c) for f in range(op.filters) for c, row in enumerate(op.connect) if row[f]]
        for place, window in zip(places, weight, strict=True):
            dense[place] = window
        weight = dense
    if op.flip:
        weight = np.flip(weight, range(2, weight.ndim))
    return model.add(
        "Conv",
        *inputs,
        model.constant(np.ascontiguousarray(weight)),
        *map(model.constant, bias),
        strides=op.stride,
        dilations=op.dilation,
        pads=sides(op.pad),
        group=op.groups,
    )


@translates("deconv")
def deconv(model, op, inputs, types, weights):
    return model.add(
        "ConvTranspose",
        *inputs,
        *map(model.constant, weights),
        strides=op.stride,
        dilations=op.dilation,
        pads=sides(op.pad),
        output_padding=op.extra,
        group=op.groups,
    )


@translates("max")
def maximum(model, op, inputs, types, weights):
    if op.window == types[0].spatial and not any(sides(op.pad)):
        return model.add("GlobalMaxPool", *inputs)
    return model.add(
        "MaxPool",
        *inputs,
        kernel_shape=op.window,
        strides=op.stride,
        dilations=op.dilation,
        pads=sides(op.pad),
        ceil_mode=int(op.ceil),
    )


@translates("avg")
def average(model, op, inputs, types, weights):
    if op.window == types[0].spatial and not any(sides(op.pad)):
        return model.add("GlobalAveragePool", *inputs)
    return model.add(
        "AveragePool",
        *inputs,
        kernel_shape=op.window,
        strides=op.stride,
        pads=sides(op.pad),
        ceil_mode=int(op.ceil),
        count_include_pad=int(op.count_pad),
    )


@translates("adaptive_avg", "adaptive_max")
def adaptive_pooling(model, op, inputs, types, weights):
    """Along every axis, slices and their means or maxima; ONNX has no adaptive pooling."""
    (x,) = inputs
    reducer = {"adaptive_avg": "ReduceMean", "adaptive_max": "ReduceMax"}[op.kind]
    for axis, (size, target) in enumerate(zip(types[0].spatial, op.window, strict=True), 2):
        parts = []
        for o in range(target):
            start, stop = math.floor(o * size / target), math.ceil((o + 1) * size / target)
            part = cut(model, x, axis, start, stop)
            parts.append(model.add(reducer, part, model.integers(axis), keepdims=1))
        x = model.add("Concat", *parts, axis=axis)
    return x


@translates("subsample")
def subsample(model, op, inputs, types, weights):
    """A depthwise convolution whose windows hold the coefficient everywhere."""
    coefficient, bias = weights
    channels = types[0].channels
    window = coefficient.reshape(channels, 1, *(1,) * len(op.window))
    full = np.ascontiguousarray(np.broadcast_to(window, (channels, 1, *op.window)))
    constants = map(model.constant, (full, bias))
    return model.add("Conv", *inputs, *constants, strides=op.stride, group=channels)


def cut(model, x, axis, start, stop, step=1):
    bounds = (model.integers(v) for v in (start, stop, axis, step))
    return model.add("Slice", x, *bounds)


# -- dense layers, normalisation -------------------------------------------------------------


@translates("dense")
def dense(model, op, inputs, types, weights):
    flat = model.add("Flatten", *inputs, axis=1) if types[0].rank else inputs[0]
    return model.add("Gemm", flat, *map(model.constant, weights), transB=1)


@translates("rbf")
def radial_basis(model, op, inputs, types, weights):
    row = model.add("Reshape", *inputs, model.integers(0, 1, types[0].size))
    apart = model.add("Sub", row, model.constant(weights[0]))
    return model.add("ReduceSumSquare", apart, model.integers(2), keepdims=0)


@translates("bn")
def batch_norm(model, op, inputs, types, weights):
    *affine, mean, variance = weights
    scale, shift = affine or (np.ones_like(mean), np.zeros_like(mean))
    constants = map(model.constant, (scale, shift, mean, variance))
    return model.add("BatchNormalization", *inputs, *constants, epsilon=op.eps)


def affine_of(types, weights):
    channels = types[0].channels
    return weights or (np.ones(channels, np.float32), np.zeros(channels, np.float32))


@translates("group_norm")
def group_norm(model, op, inputs, types, weights):
    constants = map(model.constant, affine_of(types, weights))
    return model.add(
        "GroupNormalization", *inputs, *constants, num_groups=op.groups, epsilon=op.eps
    )


@translates("instance_norm")
def instance_norm(model, op, inputs, types, weights):
    constants = map(model.constant, affine_of(types, weights))
    return model.add("InstanceNormalization", *inputs, *constants, epsilon=op.eps)


@translates("layer_norm")
def layer_norm(model, op, inputs, types, weights):
    along = (-1, *(1,) * types[0].rank)
    full = [np.broadcast_to(w.reshape(along), types[0].shape) for w in affine_of(types, weights)]
    constants = (model.constant(np.ascontiguousarray(w)) for w in full)
    return model.add("LayerNormalization", *inputs, *constants, axis=1, epsilon=op.eps)


@translates("lrn")
def local_response_norm(model, op, inputs, types, weights):
    if op.over == "within":
        return response_within(model, op, inputs, types)
    (x,), rank = inputs, types[0].rank
    if rank != 2:
        # ONNX's implementations take images alone; the sum does not see the spatial axes.
        x = model.add("Reshape", x, model.integers(0, types[0].channels, -1, 1))
    # Of an even number of neighbours ONNX has the odd one above, this language (as PyTorch) below.
    even = op.size % 2 == 0
    if even:
        x = upside_down(model, x)
    y = model.add("LRN", x, size=op.size, alpha=op.alpha, beta=op.beta, bias=op.k)
    if even:
        y = upside_down(model, y)
    return y if rank == 2 else model.add("Reshape", y, model.integers(0, *types[0].shape))


def upside_down(model, x):
    """The channels in reverse order."""
    return cut(model, x, 1, -1, -(2**31), -1)


def response_within(model, op, inputs, types):
    """x / (k + alpha · mean of x²)^beta, the mean over a window with padding counted."""
    (x,), rank = inputs, types[0].rank
    mean = model.add(
        "AveragePool",
        model.add("Mul", x, x),
        kernel_shape=[op.size] * rank,
        pads=[op.size // 2] * rank + [(op.size - 1) // 2] * rank,
        count_include_pad=1,
    )
    scaled = model.add("Mul", mean, model.number(op.alpha))
    base = model.add("Add", scaled, model.number(op.k))
    return model.add("Div", x, model.add("Pow", base, model.number(op.beta)))


# -- elementwise -----------------------------------------------------------------------------


def plainly(kind, operator, **attributes):
    """An op that is one ONNX operator; attributes are constants or functions of the op."""

    @translates(kind)
    def translate(model, op, inputs, types, weights):
        given = {k: v(op) if callable(v) else v for k, v in attributes.items()}
        return model.add(operator, *inputs, **given)


plainly("relu", "Relu")
plainly("leaky_relu", "LeakyRelu", alpha=lambda op: op.slope)
plainly("sigmoid", "Sigmoid")
plainly("tanh", "Tanh")
plainly("elu", "Elu", alpha=lambda op: op.alpha)
plainly("selu", "Selu")
plainly("gelu", "Gelu")
plainly("softplus", "Softplus")
plainly("mish", "Mish")
plainly("hard_sigmoid", "HardSigmoid", alpha=1 / 6, beta=0.5)
plainly("hard_swish", "HardSwish")
plainly("softmax", "Softmax", axis=1)
plainly("log_softmax", "LogSoftmax", axis=1)
plainly("concat", "Concat", axis=1)
plainly("flatten", "Flatten", axis=1)
plainly("dropout", "Dropout")
plainly("transpose", "Transpose", perm=lambda op: [0, *(axis + 1 for axis in op.order)])


@translates("relu6")
def relu6(model, op, inputs, types, weights):
    return model.add("Clip", *inputs, model.number(0), model.number(6))


@translates("silu")
def silu(model, op, inputs, types, weights):
    return model.add("Mul", *inputs, model.add("Sigmoid", *inputs))


@translates("scaled_tanh")
def scaled_tanh(model, op, inputs, types, weights):
    inner = model.add("Tanh", model.add("Mul", *inputs, model.number(2 / 3)))
    return model.add("Mul", inner, model.number(1.7159))


@translates("prelu")
def prelu(model, op, inputs, types, weights):
    return model.add(
        "PRelu", *inputs, model.constant(weights[0].reshape(-1, *(1,) * types[0].rank))
    )


@translates("add", "sub", "mul")
def arithmetic(model, op, inputs, types, weights):
    """ONNX aligns axes from the last, the language from the channels."""
    longest = max(len(t.shape) for t in types)
    full = []
    for x, type in zip(inputs, types, strict=True):
        missing = longest - len(type.shape)
        shape = model.integers(0, *type.shape, *(1,) * missing)
        full.append(model.add("Reshape", x, shape) if missing else x)
    total, *others = full
    for other in others:
        total = model.add(op.kind.capitalize(), total, other)
    return total


# -- moves -----------------------------------------------------------------------------------


@translates("slice")
def slice_channels(model, op, inputs, types, weights):
    return cut(model, *inputs, 1, *op.channels)


@translates("crop")
def crop(model, op, inputs, types, weights):
    (x,) = inputs
    for axis, (size, (before, after), to) in enumerate(
        zip(types[0].spatial, op.margin, op.to, strict=True), 2
    ):
        start = before + ((size - before - after - to) // 2 if to else 0)
        x = cut(model, x, axis, start, start + to if to else size - after)
    return x


@translates("shuffle")
def shuffle(model, op, inputs, types, weights):
    channels, spatial = types[0].channels, types[0].spatial
    split = model.integers(0, op.groups, channels // op.groups, *spatial)
    axes = [0, 2, 1, *range(3, 3 + len(spatial))]
    turned = model.add("Transpose", model.add("Reshape", *inputs, split), perm=axes)
    return model.add("Reshape", turned, model.integers(0, channels, *spatial))


@translates("pad")
def pad(model, op, inputs, types, weights):
    margins = model.integers(*sides(((0, 0), op.channels, *op.margin)))
    mode = {"replicate": "edge"}.get(op.mode, op.mode)
    return model.add("Pad", *inputs, margins, model.number(op.value), mode=mode)


@translates("resize")
def resize(model, op, inputs, types, weights):
    spatial = zip(types[0].spatial, op.factor, op.to, strict=True)
    sizes = [to or size * factor for size, factor, to in spatial]
    nearest = op.mode == "nearest"
    # The sizes with the batch left to `axes`, which name what is resized.
    return model.add(
        "Resize",
        *inputs,
        "",
        "",
        model.integers(*sizes),
        axes=list(range(2, 2 + len(sizes))),
        mode="nearest" if nearest else "linear",
        coordinate_transformation_mode="asymmetric" if nearest else "half_pixel",
        nearest_mode="floor" if nearest else None,
    )


@translates("reshape")
def reshape(model, op, inputs, types, weights):
    return model.add("Reshape", *inputs, model.integers(0, op.channels, *op.window))


# -- losses ----------------------------------------------------------------------------------


def loss_model(loss, prediction, target):
    """A loss as an ONNX model of a prediction and a target (arrays)."""
    model = Model()
    y = LOSS_TRANSLATIONS[loss.kind](model, loss, "prediction", "target")
    inputs = {"prediction": prediction, "target": target}
    return model.finish(loss.kind, inputs, y, ()), inputs


def loss_operators(loss):
    """The ONNX operators that a loss becomes, in order."""
    model = Model()
    LOSS_TRANSLATIONS[loss.kind](model, loss, "prediction", "target")
    return tuple(made.op_type for made in model.nodes)


def by_class(operator):
    def translate(model, loss, x, target):
        weights = [model.constant(np.array(loss.class_weights, np.float32))]
        return model.add(operator, x, target, *weights if loss.class_weights else ())

    return translate


def mean_of(each):
    def translate(model, loss, x, target):
        return model.add("ReduceMean", each(model, x, target), keepdims=0)

    return translate


def squared(model, x, target):
    apart = model.add("Sub", x, target)
    return model.add("Mul", apart, apart)


def hinge(model, x, target):
    return model.add("Relu", model.add("Sub", model.number(1), model.add("Mul", x, target)))


def binary_cross_entropy(model, x, target):
    """log(1 + exp(x)) − t·x, which is −t·log σ(x) − (1 − t)·log(1 − σ(x))."""
    return model.add("Sub", model.add("Softplus", x), model.add("Mul", x, target))


def soft_cross_entropy(model, x, target):
    share = model.add("Mul", model.add("LogSoftmax", x, axis=1), target)
    return model.add("Neg", model.add("ReduceSum", share, model.constant([1]), keepdims=0))


LOSS_TRANSLATIONS = {
    "cross_entropy": by_class("SoftmaxCrossEntropyLoss"),
    "soft_cross_entropy": mean_of(soft_cross_entropy),
    "negative_log_likelihood": by_class("NegativeLogLikelihoodLoss"),
    "mean_squared_error": mean_of(squared),
    "mean_absolute_error": mean_of(lambda m, x, t: m.add("Abs", m.add("Sub", x, t))),
    "hinge": mean_of(hinge),
    "binary_cross_entropy": mean_of(binary_cross_entropy),
}
