"""Random kernels without memory of their own: every thread computes what Python does."""

import random as randomness

import numpy as np
import pytest

from emulator.sources import run

THREADS, BLOCKS = 48, 2
NAMES = ["a", "b", "c", "d"]


class Writer:
    """Writes the body of a kernel: assignments, branches, loops, and ways out of them."""

    def __init__(self, seed):
        self.random = randomness.Random(seed)
        self.known = {"t", "n", "a"}
        self.lines = ["a = x[t]"]
        self.counters = 0

    def source(self):
        self.block(1, 8, loops=0)
        values = " + ".join(f"{k} * {name}" for k, name in enumerate(sorted(self.known), 1))
        body = [
            "x = ints(x)",
            "y = ints(y)",
            "t = cuda.grid(1)",
            *self.lines,
            f"y[t] = ({values}) % 1000003",
        ]
        return "def walk(x, y, n):\n" + "\n".join("    " + line for line in body) + "\n"

    def put(self, depth, line):
        self.lines.append("    " * (depth - 1) + line)

    def value(self):
        r = self.random
        left, right = (
            r.choice(sorted(self.known)),
            r.choice([*sorted(self.known), r.randint(-3, 9)]),
        )
        sign = r.choice(["+", "-", "*", "^", "&"])
        whole = f"({left} {sign} {right}) % {r.randint(5, 97)}"
        if r.random() < 0.2:
            whole = f"{whole} if {self.test()} else x[({left}) % n]"
        return whole

    def test(self):
        r = self.random
        simple = (
            f"{r.choice(sorted(self.known))} % {r.randint(2, 5)} {r.choice(['<', '==', '!='])} 1"
        )
        if r.random() < 0.3:
            other = r.choice(["t > 20", "n > 3", "x[t] < 12", "not t % 2", "3 <= a < 40"])
            simple = f"{simple} {r.choice(['and', 'or'])} {other}"
        return simple

    def block(self, depth, most, loops):
        """Some statements; what is assigned here may not be assigned elsewhere."""
        before, start = set(self.known), len(self.lines)
        for _ in range(self.random.randint(1, most)):
            self.statement(depth, loops)
        if len(self.lines) == start:
            self.put(depth, "pass")
        if depth > 1:
            self.known &= before

    def statement(self, depth, loops):
        r = self.random
        kind = r.choice(["assign"] * 4 + ["if"] * 3 + ["for", "while", "leave", "return", "add"])
        if kind == "assign":
            name = r.choice(NAMES)
            self.put(depth, f"{name} = {self.value()}")
            self.known.add(name)
        elif kind == "add":
            name = r.choice(sorted(self.known - {"t", "n"}))
            self.put(depth, f"{name} += {self.value()}")
        elif kind == "if" and depth < 5:
            self.put(depth, f"if {self.test()}:")
            self.block(depth + 1, 3, loops)
            if r.random() < 0.5:
                self.put(depth, "else:")
                self.block(depth + 1, 3, loops)
        elif kind == "for" and depth < 5:
            index = r.choice(["i", "j", "k"])
            bound = r.choice(["3", "n % 5", "t % 4", f"a % {r.randint(2, 5)}"])
            self.put(depth, f"for {index} in range({bound}):")
            before = set(self.known)
            self.known.add(index)
            self.block(depth + 1, 3, loops + 1)
            self.known = before
        elif kind == "while" and depth < 5:
            self.counters += 1
            name = f"w{self.counters}"
            self.put(depth, f"{name} = {r.choice(['t % 5', '4', 'x[t] % 6'])}")
            self.put(depth, f"while {name} > 0:")
            self.put(depth + 1, f"{name} -= 1")
            self.block(depth + 1, 3, loops + 1)
        elif kind == "leave" and loops:
            self.put(depth, f"if {self.test()}:")
            self.put(depth + 1, r.choice(["break", "continue"]))
        elif kind == "return" and r.random() < 0.3:
            self.put(depth, f"if t % {r.randint(3, 9)} == 2:")
            self.put(depth + 1, f"y[t] = {r.randint(-9, -1)}")
            self.put(depth + 1, "return")


def in_python(code, thread, x):
    written = {}
    names = {
        "ints": lambda pointer: pointer,
        "cuda": type("cuda", (), {"grid": staticmethod(lambda axes: thread)}),
    }
    exec(code, names)
    names["walk"](x, written, len(x))
    return written[thread]


@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_every_thread_computes_what_python_does(start):
    x = np.random.default_rng(0).integers(0, 30, THREADS * BLOCKS)
    for seed in range(start, start + 100):
        source = Writer(seed).source()
        code = compile(source, "<walk>", "exec")
        expected = [in_python(code, t, x.tolist()) for t in range(len(x))]
        y = np.zeros_like(x)
        run(source, BLOCKS, THREADS, x, y, len(x))
        np.testing.assert_array_equal(y, expected, err_msg=f"seed {seed}\n{source}")


def test_the_writer_reaches_every_kind_of_statement():
    sources = [Writer(seed).source() for seed in range(300)]
    for word in ("if ", "else:", "for ", "while ", "break", "continue", "return", " and ", "x[("):
        assert sum(word in source for source in sources) > 10, word
