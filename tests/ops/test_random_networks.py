"""Random networks: forward and every gradient against torch, in the interpreter and compiled."""

import random as randomness

import numpy as np
import pytest
import torch
from helpers import positive_buffers, random_arrays, torch_forward

import convdsl
from convdsl.runtime.interpreter import evaluate

ACTIVATIONS = [
    "relu", "leaky_relu 0.2", "prelu", "relu6", "elu", "selu", "gelu", "silu", "mish",
    "hard_swish", "hard_sigmoid", "softplus", "sigmoid", "tanh", "scaled_tanh", "softmax",
]  # fmt: skip


class Writer:
    """Writes a network of so many statements, keeping track of the current shape."""

    def __init__(self, seed):
        self.random = randomness.Random(seed)
        self.rank = self.random.choice([1, 2, 2, 2, 3])
        self.lines = []
        self.channels = self.random.choice([1, 2, 3, 4, 6])
        top = {1: 24, 2: 13, 3: 7}[self.rank]
        self.sizes = [self.random.randint(3, top) for _ in range(self.rank)]
        self.batch = self.random.randint(1, 4)

    def text(self):
        start = f"{self.channels}@{self.by(self.sizes)}"
        for _ in range(self.random.randint(1, 12)):
            self.statement()
        body = "\n".join(f"  {line}" for line in [f"input {start}", *self.lines])
        return f"net R {{\n{body}\n  dense 5\n}}\n"

    def by(self, sizes):
        return "x".join(map(str, sizes))

    def statement(self):
        choices = [self.conv, self.conv, self.pool, self.activation, self.norm, self.branch]
        choices += [self.move, self.deconv]
        self.random.choice(choices)()

    def window(self, most=4):
        return [self.random.randint(1, min(most, n)) for n in self.sizes]

    def conv(self):
        r = self.random
        groups = r.choice([g for g in (1, 1, 1, 2, 3) if self.channels % g == 0])
        filters = groups * r.randint(1, 4)
        window = self.window()
        dilation = r.choice([1, 1, 2])
        reach = [dilation * (k - 1) + 1 for k in window]
        pad = [(r.randint(0, 2), r.randint(0, 2)) for _ in window]
        stride = [r.randint(1, 2) for _ in window]
        sizes = [
            (n + a + b - k) // s + 1
            for n, (a, b), k, s in zip(self.sizes, pad, reach, stride, strict=True)
        ]
        if min(sizes) < 1:
            return
        self.lines.append(
            f"conv {filters}@{self.by(window)} /{self.by(stride)} groups={groups} "
            f"dilation={dilation} pad=[{', '.join(f'({a}, {b})' for a, b in pad)}] "
            f"bias={r.choice(['on', 'off'])}"
        )
        self.channels, self.sizes = filters, sizes

    def deconv(self):
        if max(self.sizes) > 8:
            return
        window = self.window(3)
        filters = self.random.randint(1, 4)
        self.lines.append(f"deconv {filters}@{self.by(window)} /2")
        self.channels = filters
        self.sizes = [(n - 1) * 2 + k for n, k in zip(self.sizes, window, strict=True)]

    def pool(self):
        r = self.random
        kind = r.choice(["max", "avg"])
        window = self.window(3)
        if kind == "max" and self.rank and r.random() < 0.1:
            window = self.sizes
        stride = [r.randint(1, 2) for _ in window]
        pad = [r.randint(0, k // 2) for k in window]
        ceil = r.random() < 0.4
        extra = f" count_pad={r.choice(['on', 'off'])}" if kind == "avg" else ""
        text = f"{kind} {self.by(window)} /{self.by(stride)} pad={self.pads(pad)}"
        net = convdsl.load_source(
            f"net P {{ input {self.channels}@{self.by(self.sizes)}\n"
            f"{text} ceil={'on' if ceil else 'off'}{extra} }}"
        )
        self.lines.append(f"{text} ceil={'on' if ceil else 'off'}{extra}")
        self.sizes = list(net.graph.outputs[0][1].type.spatial)

    def pads(self, pad):
        return f"[{', '.join(map(str, pad))}]"

    def activation(self):
        self.lines.append(self.random.choice(ACTIVATIONS))

    def norm(self):
        groups = self.random.choice([g for g in (1, 2, 3) if self.channels % g == 0])
        self.lines.append(
            self.random.choice(
                ["bn", "layer_norm", f"group_norm {groups}", "lrn 3 alpha=0.1", "dropout 0.3"]
            )
        )

    def branch(self):
        r = self.random
        index = len(self.lines)
        self.lines.append(f"v{index} = {r.choice(['relu', 'tanh', 'sigmoid'])}")
        kind = r.choice(["add", "mul", "sub", "concat", "gate"])
        if kind == "concat" and self.channels <= 8:
            self.lines.append(f"concat(v{index}, (v{index} -> tanh))")
            self.channels *= 2
        elif kind == "gate":
            self.lines.append(f"mul(v{index}, (v{index} -> avg global -> sigmoid))")
        else:
            self.lines.append(f"{'add' if kind == 'concat' else kind}(v{index}, (v{index} -> bn))")

    def move(self):
        r = self.random
        kind = r.choice(["pad", "resize", "slice", "shuffle", "adaptive"])
        if kind == "pad":
            mode = r.choice(["constant", "reflect", "replicate"])
            if mode == "reflect" and min(self.sizes) < 2:
                return
            self.lines.append(f"pad 1 mode={mode}")
            self.sizes = [n + 2 for n in self.sizes]
        elif kind == "resize" and max(self.sizes) < 8:
            self.lines.append(f"resize 2 mode={r.choice(['nearest', 'bilinear'])}")
            self.sizes = [2 * n for n in self.sizes]
        elif kind == "slice" and self.channels > 1:
            last = r.randint(1, self.channels)
            self.lines.append(f"slice 0..{last}")
            self.channels = last
        elif kind == "shuffle" and self.channels % 2 == 0:
            self.lines.append("shuffle 2")
        elif kind == "adaptive":
            sizes = [r.randint(1, n) for n in self.sizes]
            self.lines.append(f"adaptive_avg {self.by(sizes)}")
            self.sizes = sizes


def compare(seed, compiled):
    writer = Writer(seed)
    text = writer.text()
    graph = convdsl.load_source(text).graph
    batch = writer.batch
    arrays = positive_buffers(graph, random_arrays(graph, batch, seed, np.float64))
    for variable in graph.parameters:
        # Realistic scales, so that activations stay in range through twelve layers.
        fan = max(1, variable.type.size // variable.type.shape[0])
        arrays[variable.name] /= np.sqrt(fan)
    target = np.random.default_rng(seed).integers(0, 5, batch)
    expected = torch_gradients(graph, arrays, target)
    # Inference statistics in both: the gradient of batch norm as an affine map.
    lowered = gradient_graph(graph)
    given = {**arrays, "target": target}
    found = evaluate(lowered, {v.name: given.get(v.name) for v in lowered.variables})
    for name, value in expected.items():
        # A gradient that is zero in exact arithmetic is rounding in both; torch keeps the sixth of
        # hard sigmoid in float32 even here.
        scale = max(np.abs(value).max(), 1e-3)
        assert np.abs(found[name] - value).max() / scale < 1e-7, f"seed {seed}: {name}\n{text}"
    if compiled:
        run_compiled(graph, lowered, given, expected, seed, text, batch)


def gradient_graph(graph):
    from convdsl import passes

    graph = passes.specialise(graph, training=False)
    graph = passes.add_loss(passes.expand(graph, keep_differentiable=True), "cross_entropy")
    graph = passes.add_gradients(graph, (*graph.parameters, *graph.inputs))
    return passes.simplify(passes.expand(graph))


def run_compiled(graph, lowered, given, expected, seed, text, batch):
    from convdsl import passes
    from convdsl.compiler import _laid_out, _target
    from convdsl.plan import plan
    from convdsl.runtime.cpu import CpuMachine

    target = _target("cpu")
    planned = plan(_laid_out(passes.fuse(lowered), target), batch, target)
    single = {
        n: np.ascontiguousarray(a, np.float32 if a.dtype.kind == "f" else np.int64)
        for n, a in given.items()
    }
    machine = CpuMachine(planned, single)
    machine.poison()
    machine.prepare()
    inputs = {p.name: single[p.name] for p in planned.variables if p.role in ("input", "target")}
    machine.run(inputs, 0, planned.forward)
    for port in planned.outputs:
        if port.name in expected:
            value = expected[port.name]
            # float32 through up to twelve layers, compared by norm
            error = np.linalg.norm(machine.view(port.buffer, port.shape) - value)
            scale = max(np.linalg.norm(value), 1e-2)
            assert error / scale < 2e-3, f"seed {seed}: {port.name}\n{text}"
    assert machine.guards_intact()


def torch_gradients(graph, arrays, target):
    tensors = {
        v.name: torch.from_numpy(arrays[v.name]).requires_grad_(v.role != "buffer")
        for v in graph.variables
    }
    x = tensors[graph.inputs[0].name]
    logits = torch_forward(graph, x, tensors)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
    loss.backward()
    found = {"loss": loss.detach().numpy()}
    for variable in (*graph.parameters, *graph.inputs):
        grad = tensors[variable.name].grad
        value = np.zeros(arrays[variable.name].shape) if grad is None else grad.numpy()
        found[f"gradient of {variable.name}"] = value
    return found


@pytest.mark.parametrize("start", range(0, 200, 20))
def test_random_networks_in_the_interpreter(start):
    for seed in range(start, start + 20):
        compare(seed, compiled=False)


@pytest.mark.parametrize("seed", range(1000, 1015))
def test_random_networks_compiled(seed):
    compare(seed, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(2000, 4000, 100))
def test_more_random_networks_in_the_interpreter(start):
    for seed in range(start, start + 100):
        compare(seed, compiled=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5000, 5200))
def test_more_random_networks_compiled(seed):
    compare(seed, compiled=True)


def test_the_writer_reaches_every_kind_of_statement():
    words = {line.split()[0].split("(")[0] for s in range(200) for line in lines(s)}
    assert {"conv", "deconv", "max", "avg", "bn", "add", "concat", "pad", "resize"} <= words


def lines(seed):
    writer = Writer(seed)
    writer.text()
    return writer.lines
