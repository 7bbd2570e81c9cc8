"""Writes random networks that are right, for tests of everything that takes a network."""

import random as randomness

import convdsl

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


class LargeWriter(Writer):
    """Writes networks of more channels and pixels, so that several units of work share a step.

    Convolutions get their own input added to their result now and then.
    """

    def __init__(self, seed):
        super().__init__(seed)
        self.rank = self.random.choice([1, 2, 2, 2, 2, 3])
        top = {1: 60, 2: 34, 3: 10}[self.rank]
        self.sizes = [self.random.randint(4, top) for _ in range(self.rank)]
        self.batch = self.random.randint(1, 7)
        self.channels = self.random.choice([1, 3, 4, 8, 16, 20])

    def statement(self):
        others = [self.pool, self.activation, self.norm, self.branch, self.move, self.deconv]
        self.random.choice([self.conv, self.conv, self.wide, self.wide, self.skip, *others])()

    def wide(self):
        r = self.random
        side, stride = r.choice([1, 3, 3, 5]), r.choice([1, 1, 2])
        filters = r.choice([3, 4, 8, 12, 16, 24, 32, 40, 48])
        groups = r.choice([1, 1, self.channels if filters % self.channels == 0 else 1])
        text = f"conv {filters}@{self.cube(side)} /{self.cube(stride)} pad={side // 2}"
        self.lines.append(f"{text} groups={groups} -> {r.choice(['relu', 'tanh', 'bn'])}")
        self.channels = filters
        self.sizes = [(n - 1) // stride + 1 for n in self.sizes]

    def skip(self):
        r = self.random
        side, name = r.choice([1, 3, 3, 5]), f"s{len(self.lines)}"
        rest = r.choice(["", "-> relu", "-> bn -> relu", "-> sigmoid"])
        self.lines.append(f"{name}: {r.choice(['relu', 'tanh', 'sigmoid', 'bn'])}")
        self.lines.append(f"conv {self.channels}@{self.cube(side)} pad={side // 2} {rest}")
        self.lines.append(f"add({name})")

    def cube(self, side):
        return self.by([side] * self.rank)


class JoiningWriter:
    """Writes a network that joins and cuts maps, at multiples of 16 channels more often than not.

    Any of its values may be read several times, so that a map is wanted in several places.
    """

    def __init__(self, seed):
        self.random = r = randomness.Random(seed)
        self.batch = r.choice([1, 2, 3])
        self.size = r.choice(["5x6", "6x4", "9"])
        self.rank = self.size.count("x") + 1
        self.channels = []
        self.read = set()
        self.lines = []

    def text(self):
        r = self.random
        self.add("conv 16@1", 16)
        for _ in range(r.randint(3, 9)):
            kind = r.choice([self.layer, self.layer, self.join, self.join, self.cut, self.sum])
            kind()
        count = len(self.channels)
        unread = [k for k in range(count) if k not in self.read] or [count - 1]
        last = f"concat({', '.join(self.name(k) for k in unread)})"
        last = last if len(unread) > 1 else self.name(unread[0])
        body = "\n".join(f"  {line}" for line in [f"input 3@{self.size}", *self.lines])
        return f"net R {{\n{body}\n  {last} -> avg global\n  dense 5\n}}\n"

    def name(self, k):
        return f"v{k}"

    def add(self, flow, channels):
        self.lines.append(f"v{len(self.channels)} = {flow}")
        self.channels.append(channels)

    def take(self):
        """The number of a value, mostly one of the last."""
        k = min(len(self.channels) - 1, int(self.random.expovariate(0.5)))
        k = len(self.channels) - 1 - k
        self.read.add(k)
        return k

    def layer(self):
        r = self.random
        k = self.take()
        c = self.channels[k]
        filters = r.choice([16, 16, 32, 24])
        window = "x".join("3" * self.rank)
        # Few kinds, so that kernels are shared.
        flow, filters = r.choice(
            [
                (f"conv {filters}@1 -> relu", filters),
                (f"conv {filters}@{window} pad=half bias=off", filters),
                (f"conv {filters}@{window} pad=half bias=off -> bn -> relu", filters),
                (f"conv {c}@{window} pad=half groups={c} bias=off", c),
                (f"max {window} /1 pad=half", c),
                (f"avg {window} /1 pad=half", c),
                ("bn -> relu", c),
                ("tanh", c),
                ("shuffle 2", c),
            ]
        )
        self.add(f"{self.name(k)} -> {flow}", filters)

    def join(self):
        parts = [self.take() for _ in range(self.random.choice([2, 2, 3]))]
        channels = sum(self.channels[k] for k in parts)
        if channels <= 160:
            self.add(f"concat({', '.join(map(self.name, parts))})", channels)

    def cut(self):
        r = self.random
        k = self.take()
        step = r.choice([16, 16, 16, 4])
        places = range(0, self.channels[k] + 1, step)
        if len(places) > 1:
            first, last = sorted(r.sample(places, 2))
            self.add(f"{self.name(k)} -> slice {first}..{last}", last - first)

    def sum(self):
        k = self.take()
        same = [j for j, c in enumerate(self.channels) if c == self.channels[k]]
        other = self.random.choice(same)
        self.read.add(other)
        activation = self.random.choice(["", " -> relu"])
        self.add(f"add({self.name(k)}, {self.name(other)}){activation}", self.channels[k])
