"""What several test files share: networks as functions of torch, and comparisons."""

import numpy as np

import convdsl


def sample_network(sample):
    """A network of one op, from a sample of the op's documentation."""
    return convdsl.load_source(f"net T {{\n  input {sample.input}\n  {sample.text}\n}}\n")


def random_arrays(graph, batch, seed=0, dtype=np.float32):
    """A random array for every variable of a graph."""
    random = np.random.default_rng(seed)
    arrays = {}
    for variable in graph.variables:
        shape = variable.type.with_batch(batch)
        if variable.type.dtype == "int64":
            arrays[variable.name] = random.integers(0, 3, shape)
        else:
            arrays[variable.name] = random.standard_normal(shape).astype(dtype)
    return arrays


def positive_buffers(graph, arrays):
    """The arrays with running variances made positive, as they are."""
    for variable in graph.buffers:
        arrays[variable.name] = np.abs(arrays[variable.name]) + arrays[variable.name].dtype.type(
            0.1
        )
    return arrays


def realistic_arrays(graph, batch, seed):
    """Random arrays in float64, weights of such sizes that activations stay in range for long."""
    arrays = positive_buffers(graph, random_arrays(graph, batch, seed, np.float64))
    for variable in graph.parameters:
        fan = max(1, variable.type.size // variable.type.shape[0])
        arrays[variable.name] /= np.sqrt(fan)
    return arrays


def relative_error(actual, expected):
    """The largest difference over the largest expected value."""
    expected = np.asarray(expected)
    assert np.shape(actual) == expected.shape
    assert np.isfinite(actual).all()
    scale = np.abs(expected).max() if expected.size else 0
    return float(np.abs(actual - expected).max() / (scale or 1.0))


def torch_forward(graph, x, parameters):
    """The output of a network in torch, for tensors by name; several inputs as a tuple."""
    inputs = x if isinstance(x, tuple) else (x,)
    values = dict(zip(graph.inputs, inputs, strict=True))
    for node in graph.nodes:
        given = [values[v] for v in node.data]
        weights = [parameters[w.name] for w in node.weights]
        values[node.output] = torch_op(node.op, given, weights)
    return values[graph.outputs[0][1]]


def torch_op(op, given, weights):
    """One op in torch, in inference."""
    import torch
    import torch.nn.functional as F

    x = given[0]
    rank = x.ndim - 2
    flat_pads = [p for pair in reversed(getattr(op, "pad", ())) for p in pair]
    match op.kind:
        case "conv":
            weight = weights[0]
            if op.connect is not None:
                pairs = [
                    (f, c) for f in range(op.filters) for c, r in enumerate(op.connect) if r[f]
                ]
                dense = torch.zeros(op.filters, x.shape[1], *op.window, dtype=x.dtype)
                rows, columns = zip(*pairs, strict=True)
                weight = dense.index_put((torch.tensor(rows), torch.tensor(columns)), weight)
            if op.flip:
                weight = weight.flip(*range(2, weight.ndim))
            bias = weights[1] if op.bias else None
            convolution = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            padded = F.pad(x, flat_pads)
            return convolution(padded, weight, bias, op.stride, 0, op.dilation, op.groups)
        case "deconv":
            transposed = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
            bias = weights[1] if op.bias else None
            pad = [before for before, _ in op.pad]
            return transposed(x, weights[0], bias, op.stride, pad, op.extra, op.groups, op.dilation)
        case "max":
            pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[rank - 1]
            pad = [before for before, _ in op.pad]
            return pool(x, op.window, op.stride, pad, op.dilation, op.ceil)
        case "avg":
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            pad = [before for before, _ in op.pad]
            return pool(x, op.window, op.stride, pad, op.ceil, op.count_pad)
        case "adaptive_avg":
            pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[rank - 1]
            return pool(x, op.window)
        case "adaptive_max":
            pool = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)[rank - 1]
            return pool(x, op.window)
        case "subsample":
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            total = pool(x, op.window, op.stride) * np.prod(op.window).item()
            coefficient, bias = (w.reshape(-1, *(1,) * rank) for w in weights)
            return total * coefficient + bias
        case "dense":
            return F.linear(x.flatten(1), *weights)
        case "rbf":
            return ((x.flatten(1)[:, None] - weights[0]) ** 2).sum(-1)
        case "flatten":
            return x.flatten(1)
        case "dropout" | "spatial_dropout" | "drop_path":
            return x
        case "bn":
            *affine, mean, variance = weights
            scale, shift = affine or (None, None)
            return F.batch_norm(x, mean, variance, scale, shift, eps=op.eps)
        case "group_norm" | "layer_norm" | "instance_norm":
            groups = {"layer_norm": 1, "instance_norm": x.shape[1]}.get(op.kind)
            return F.group_norm(x, groups or op.groups, *weights or (None, None), eps=op.eps)
        case "lrn" if op.over == "channels":
            return F.local_response_norm(x, op.size, op.alpha, op.beta, op.k)
        case "lrn":
            pads = [op.size // 2, (op.size - 1) // 2] * rank
            pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[rank - 1]
            mean = pool(F.pad(x * x, pads), op.size, 1)
            return x / (op.k + op.alpha * mean) ** op.beta
        case "concat":
            return torch.cat(given, 1)
        case "add" | "sub" | "mul":
            most = max(g.ndim for g in given)
            full = [g.reshape(*g.shape, *(1,) * (most - g.ndim)) for g in given]
            total = full[0]
            for other in full[1:]:
                total = getattr(torch, op.kind)(total, other)
            return total
        case "slice":
            return x[:, slice(*op.channels)]
        case "shuffle":
            split = x.reshape(x.shape[0], op.groups, -1, *x.shape[2:])
            return split.transpose(1, 2).reshape(x.shape)
        case "pad":
            margins = op.margin if op.channels == (0, 0) else (op.channels, *op.margin)
            flat = [p for pair in reversed(margins) for p in pair]
            value = {"value": op.value} if op.mode == "constant" else {}
            return F.pad(x, flat, mode=op.mode, **value)
        case "crop":
            for axis, (sides, to) in enumerate(zip(op.margin, op.to, strict=True), 2):
                before, after = sides
                kept = x.shape[axis] - before - after
                start = before + (kept - to) // 2 if to else before
                x = x.narrow(axis, start, to or kept)
            return x
        case "resize":
            sizes = [to or n * f for n, f, to in zip(x.shape[2:], op.factor, op.to, strict=True)]
            if op.mode == "nearest":
                return F.interpolate(x, sizes, mode="nearest")
            return F.interpolate(x, sizes, mode=("linear", "bilinear", "trilinear")[rank - 1])
        case "reshape":
            return x.reshape(x.shape[0], op.channels, *op.window)
        case "transpose":
            return x.permute(0, *(axis + 1 for axis in op.order))
        case "leaky_relu":
            return F.leaky_relu(x, op.slope)
        case "prelu":
            return F.prelu(x, weights[0])
        case "elu":
            return F.elu(x, op.alpha)
        case "scaled_tanh":
            return 1.7159 * torch.tanh(x * (2 / 3))
        case "hard_swish":
            return F.hardswish(x)
        case "hard_sigmoid":
            return F.hardsigmoid(x)
        case "softmax" | "log_softmax":
            return getattr(torch, op.kind)(x, 1)
        case "sigmoid" | "tanh" | "relu":
            return getattr(torch, op.kind)(x)
    return getattr(F, op.kind)(x)
