"""Random programs: well formed but seldom meaningful ones, meaningful ones, and mutations."""

import random
import re
from pathlib import Path

NETWORKS = Path(__file__).parents[2] / "networks"


class Writer:
    """Writes random programs that follow the grammar, in no particular layout."""

    NAMES = ("x", "y", "width", "C1", "unit", "n_2", "relu", "half")
    NUMBERS = ("0", "1", "3", "64", "1_000", "0.5", "1e-5", "60M", "11.7M")
    COMMENTS = ("", "", "", " # note -> expect", " ## documentation", "#")
    CLAIMS = ("", "", "expect 6@28x28, params=156", "expect 10, macs ~ 1.5M", "expect rf=5x7")

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.depth = 0

    def pick(self, *choices):
        return self.random.choice(choices)

    def some(self, what, least, most, between=", "):
        return between.join(what() for _ in range(self.random.randint(least, most)))

    def name(self):
        return self.pick(*self.NAMES)

    def number(self):
        return self.pick(*self.NUMBERS)

    def space(self):
        return self.pick("", " ", "  ")

    # -- expressions -------------------------------------------------------------------------
    def atom(self):
        return self.pick(self.name(), self.number(), "in", '"a b"', "3x3")

    def operand(self):
        return self.pick(self.name(), self.number(), f"({self.expression()})")

    def expression(self):
        if self.depth > 3 or self.random.random() < 0.4:
            return self.atom()
        self.depth += 1
        kind = self.pick(*self.KINDS)
        text = kind(self)
        self.depth -= 1
        return text

    def binary(self):
        sign = self.pick("+", "-", "*", "//", "%", "**", "==", "<", " and ", " or ")
        between = self.pick("", " ")
        return f"{self.operand()}{between}{sign}{between}{self.operand()}"

    KINDS = (
        lambda s: f"({s.flow()})",
        lambda s: f"[{s.some(s.expression, 0, 3)}]",
        lambda s: f"({s.some(s.flow, 2, 3)})",
        binary,
        binary,
        lambda s: f"{s.operand()} < {s.operand()} <= {s.operand()}",
        lambda s: f"not {s.operand()}",
        lambda s: f"(-{s.operand()})",
        lambda s: f"{s.operand()} if {s.operand()} else {s.operand()}",
        lambda s: f"{s.name()}[{s.expression()}]",
        lambda s: f"{s.name()}.c",
        lambda s: f"{s.name()}({s.flow()}, {s.name()}{s.space()}={s.space()}{s.flow()})",
        lambda s: f"{s.name()}()",
        lambda s: f"((x, y) => {s.operand()})",
    )

    # -- flows -------------------------------------------------------------------------------
    def window(self):
        return self.pick("3x3", "1x5x2", self.operand(), f"({self.atom()})x({self.atom()})")

    def argument(self):
        return self.pick(
            f"{self.operand()}@{self.window()}",
            f"/{self.window()}",
            f"{self.name()}={self.space()}{self.operand()}",
            self.operand(),
            "-0.5",
            f"{self.operand()}..{self.operand()}",
            "connect=(s, d) => s == d",
        )

    def application(self):
        return f"{self.name()} {self.some(self.argument, 0, 3, ' ')}"

    def flow(self):
        def step():
            return self.application() if self.random.random() < 0.6 else self.expression()

        return self.some(step, 1, self.pick(1, 2, 9), self.pick(" -> ", "->", " ->\n  "))

    def claims(self):
        return self.pick(*self.CLAIMS)

    # -- statements --------------------------------------------------------------------------
    def statement(self):
        flow, name = self.flow(), self.name()
        if self.depth > 2 or self.random.random() < 0.7:
            return self.pick(
                f"{flow}  {self.claims()}",
                f"{name}: {flow} {self.claims()}",
                f"{name}{self.space()}={self.space()}{flow}",
                f"{name}, {self.name()} = {flow}",
                f"yield {flow}",
                f"output {name}: {flow}",
                f"input {name}: 3@8x8 {self.argument()}",
                f"default {name} {{ {self.name()}={self.operand()} }}",
            )
        self.depth += 1
        text = self.pick(
            f"for {name} in {self.expression()} {self.body()}",
            f"if {self.expression()} {self.body()}",
            f"if {self.expression()} {self.body()} else {self.body()}",
            f"if {self.expression()} {self.body()}\n else if {self.operand()} {self.body()}",
        )
        self.depth -= 1
        return text

    def body(self):
        if self.random.random() < 0.3:
            return f"{{ {self.some(self.statement, 0, 2, '; ')} }}"
        lines = [
            self.pick("", "\n", "\n\n\n", "# alone\n", "## alone\n")
            + self.space()
            + self.statement()
            + self.pick(*self.COMMENTS)
            for _ in range(self.random.randint(0, 4))
        ]
        return "{" + self.pick("", " # head") + "\n" + "".join(f"{x}\n" for x in lines) + "}"

    def item(self):
        heads = ("", "()", "(c)", "(c, s=1,)", "(unit: block, n: int[4], k: int = 2)")
        return self.pick(
            f"block {self.name()}{self.pick(*heads)} {self.body()}",
            f"net {self.name()}{self.pick(*heads)} {self.body()} {self.claims()}",
            f"net {self.name()} = {self.name()}({self.some(self.flow, 0, 2)}) {self.claims()}",
            f"{self.name()} = {self.operand()}",
            f"default {self.name()} {{\n {self.name()}={self.operand()},\n}}",
            'import "other.cnn"',
        )

    def program(self):
        lines = [
            self.pick(*self.COMMENTS) + self.pick("\n", "\n\n\n") + self.item()
            for _ in range(self.random.randint(0, 4))
        ]
        return self.pick("", "cnn 1\n") + "".join(f"{x}{self.pick(*self.COMMENTS)}\n" for x in lines)


def network(seed):
    """A program that means something: a network with blocks, branches, loops and parameters."""
    pick = random.Random(seed)
    bias = pick.choice(["on", "off"])
    layers = [
        "conv {c}@3x3 pad=half",
        "conv {c}@3x3 pad=half -> bn -> relu",
        "L{n}: conv {c}@1x1 -> relu",
        "L{n}: unit(c={c})",
        "unit({c}, act=tanh)",
        "max 3x3 /2 pad=half",
        "y = conv {c}@3x3 pad=half\n  y -> relu",
        "concat(in -> conv {c}@1x1, conv 2@{n}x1 pad=same) if in.h == 1 else relu",
        "for i in 0..{n} {{ conv {c}@3x3 pad=half }}",
        "for i in 0..{n} {{ S: unit({c} + i) }}",
        "if classes > {n} {{ tanh }} else {{ sigmoid }}",
        "concat(conv {c}@1x1, conv 4@3x3 pad=half, relu)",
    ]
    body = [
        pick.choice(layers).format(c=pick.randint(1, 6), n=number)
        for number in range(1, pick.randint(2, 7))
    ]
    documentation = pick.choice(["", "## What it is\n", "## In two\n## lines\n"])
    return f"""{documentation}default conv {{ bias={bias} }}
wide = {pick.randint(1, 5)}
## A unit
block unit(c, act: block = relu) {{
  z = in -> conv c@3x3 pad=half -> bn -> act
  yield z + (in -> conv c@1x1) -> relu
}}
net Family(classes, k = wide) {{
  input 3@9x7 mean=0.5
  conv k@3x3
  {chr(10).join(body)}
  avg global -> dense classes
}}
net T = Family({pick.randint(2, 9)})
"""


_PIECES = """( ) [ ] { } -> @ / = == .. 0 3x3 1e9 99999999999 in if else for net block yield expect " \"\"\" #
 ## ; relu conv concat max * ** - + => ~ : , .c not and x é \x00 input output default import half"""


def mutation(seed):
    """A bundled network with some words replaced, added, left out or exchanged."""
    pick = random.Random(seed)
    text = pick.choice(sorted(NETWORKS.glob("*.cnn"))).read_text(encoding="utf-8")
    words = re.findall(r"\s+|\w+|->|\.\.|\W", text)
    pieces = [*_PIECES.split(), "\n", " "]
    for _ in range(pick.randint(1, 4)):
        at, other = pick.randrange(len(words)), pick.randrange(len(words))
        match pick.choice(["replace", "add", "remove", "exchange"]):
            case "replace":
                words[at] = pick.choice(pieces)
            case "add":
                words.insert(at, pick.choice(pieces))
            case "remove":
                del words[at]
            case "exchange":
                words[at], words[other] = words[other], words[at]
    return "".join(words)
