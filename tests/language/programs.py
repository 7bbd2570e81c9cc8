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
        self.fuel = 60
        """How much more may be written before everything is kept short."""

    def pick(self, *choices):
        """One of the choices; what is a function is called."""
        chosen = self.random.choice(choices)
        return chosen(self) if callable(chosen) else chosen

    def some(self, what, least, most, between=", "):
        most = most if self.fuel > 0 else least
        return between.join(what() for _ in range(self.random.randint(least, most)))

    def name(self):
        return self.pick(*self.NAMES)

    def number(self):
        return self.pick(*self.NUMBERS)

    def space(self):
        return self.pick("", " ", "  ")

    # -- expressions -------------------------------------------------------------------------
    def atom(self):
        return self.pick(Writer.name, Writer.number, "in", '"a b"', "3x3")

    def operand(self):
        return self.pick(Writer.name, Writer.number, lambda s: f"({s.expression()})")

    def expression(self):
        self.fuel -= 1
        if self.fuel < 0 or self.random.random() < 0.4:
            return self.atom()
        return self.pick(*self.KINDS)

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
        computed = lambda s: f"({s.atom()})x({s.atom()})"  # noqa: E731
        return self.pick("3x3", "1x5x2", Writer.operand, computed)

    ARGUMENTS = (
        lambda s: f"{s.operand()}@{s.window()}",
        lambda s: f"/{s.window()}",
        lambda s: f"{s.name()}={s.space()}{s.operand()}",
        operand,
        "-0.5",
        lambda s: f"{s.operand()}..{s.operand()}",
        "connect=(s, d) => s == d",
    )

    def argument(self):
        self.fuel -= 1
        return self.pick(*self.ARGUMENTS)

    def application(self):
        return f"{self.name()} {self.some(self.argument, 0, 3, ' ')}"

    def flow(self):
        def step():
            return self.application() if self.random.random() < 0.6 else self.expression()

        return self.some(step, 1, self.pick(1, 2, 9), self.pick(" -> ", "->", " ->\n  "))

    def claims(self):
        return self.pick(*self.CLAIMS)

    # -- statements --------------------------------------------------------------------------
    SIMPLE = (
        lambda s: f"{s.flow()}  {s.claims()}",
        lambda s: f"{s.name()}: {s.flow()} {s.claims()}",
        lambda s: f"{s.name()}{s.space()}={s.space()}{s.flow()}",
        lambda s: f"{s.name()}, {s.name()} = {s.flow()}",
        lambda s: f"yield {s.flow()}",
        lambda s: f"output {s.name()}: {s.flow()}",
        lambda s: f"input {s.name()}: 3@8x8 {s.argument()}",
        lambda s: f"default {s.name()} {{ {s.name()}={s.operand()} }}",
        lambda s: f"train {{ {s.name()}={s.operand()}, {s.name()}=[{s.name()}] }}",
    )
    NESTED = (
        lambda s: f"for {s.name()} in {s.expression()} {s.body()}",
        lambda s: f"if {s.expression()} {s.body()}",
        lambda s: f"if {s.expression()} {s.body()} else {s.body()}",
        lambda s: f"if {s.expression()} {s.body()}\n else if {s.operand()} {s.body()}",
    )

    def statement(self):
        self.fuel -= 3
        simple = self.fuel < 0 or self.random.random() < 0.7
        return self.pick(*(self.SIMPLE if simple else self.NESTED))

    def body(self):
        if self.random.random() < 0.3:
            return f"{{ {self.some(self.statement, 0, 2, '; ')} }}"

        def line():
            before = self.pick("", "\n", "\n\n\n", "# alone\n", "## alone\n")
            return before + self.space() + self.statement() + self.pick(*self.COMMENTS) + "\n"

        return "{" + self.pick("", " # head") + "\n" + self.some(line, 0, 4, "") + "}"

    HEADS = ("", "()", "(c)", "(c, s=1,)", "(unit: block, n: int[4], k: int = 2)")
    ITEMS = (
        lambda s: f"block {s.name()}{s.pick(*s.HEADS)} {s.body()}",
        lambda s: f"net {s.name()}{s.pick(*s.HEADS)} {s.body()} {s.claims()}",
        lambda s: f"net {s.name()} = {s.name()}({s.some(s.flow, 0, 2)}) {s.claims()}",
        lambda s: f"{s.name()} = {s.operand()}",
        lambda s: f"default {s.name()} {{\n {s.name()}={s.operand()},\n}}",
        'import "other.cnn"',
    )

    def program(self):
        def item():
            self.fuel = 60
            gap = self.pick(*self.COMMENTS) + self.pick("\n", "\n\n\n")
            return gap + self.pick(*self.ITEMS) + self.pick(*self.COMMENTS) + "\n"

        return self.pick("", "cnn 1\n") + self.some(item, 0, 4, "")


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
        "for i in 0..{n} {{ S{n}: unit({c} + i) }}",
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
