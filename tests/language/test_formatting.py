"""The formatter: its layout case by case, and what holds for every program."""

from dataclasses import fields, is_dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from language.programs import NETWORKS, Writer

from convdsl.diagnostics import CompileError, Source
from convdsl.language import format_text, parse, syntax

CASES = {
    "spaces": (
        "net  T{\ninput   1@8x8\nconv 4@3x3   /2 pad = 1->relu\n}",
        "net T {\n  input 1@8x8\n  conv 4@3x3 /2 pad=1 -> relu\n}\n",
    ),
    "a statement a line": (
        "net T {\n  relu; tanh;;\n}\n",
        "net T {\n  relu\n  tanh\n}\n",
    ),
    "bodies on one line stay so": (
        "block b(c){in->conv c@3x3;relu}\n",
        "block b(c) { in -> conv c@3x3; relu }\n",
    ),
    "bodies on one line that are too long do not": (
        "block b(c) { conv c@3x3 -> relu; conv c@3x3 -> relu; conv c@3x3 -> relu; conv c@3x3 -> relu;"
        " sigmoid }\n",
        "block b(c) {\n" + "  conv c@3x3 -> relu\n" * 4 + "  sigmoid\n}\n",
    ),
    "blank lines, one at most": (
        "net T {\n\n\n  relu\n\n\n\n  tanh\n\n}\n\n\n",
        "net T {\n  relu\n\n  tanh\n}\n",
    ),
    "expect in a column between blank lines": (
        "net T {\n  a: relu expect 3\n  long: conv 4@3x3 expect 4, params=8\n  tanh\n\n"
        "  b: relu expect 3\n}\n",
        "net T {\n  a: relu           expect 3\n  long: conv 4@3x3  expect 4, params=8\n  tanh\n\n"
        "  b: relu  expect 3\n}\n",
    ),
    "expect on its own line": (
        "net T {\n  concat(aaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbb, ccccccccccccccccc)"
        " expect 3@4x5, params=1_000_000\n}\n",
        "net T {\n  concat(aaaaaaaaaaaaaaaaaaa, bbbbbbbbbbbbbbbbbbbbbbb, ccccccccccccccccc)\n"
        "    expect 3@4x5, params=1_000_000\n}\n",
    ),
    "comments": (
        "# top\ncnn 1 # version\n## doc\nnet T { # head\n# one\n  relu# two\n  # three\n}# four\n#five",
        "# top\ncnn 1  # version\n## doc\nnet T {  # head\n  # one\n  relu  # two\n  # three\n"
        "}  # four\n#five\n",
    ),
    "comments within a statement go before it": (
        "net T {\n  conv 4@3x3 # a\n    -> relu ## b\n    expect 3 # c\n}\n",
        "net T {\n  # a\n  # b\n  conv 4@3x3 -> relu  expect 3  # c\n}\n",
    ),
    "comments between the branches of an if": (
        "net T {\n  if true { relu } # a\n  # b\n  else { tanh }\n}\n",
        "net T {\n  # a\n  # b\n  if true { relu }\n  else { tanh }\n}\n",
    ),
    "expressions": (
        "net T {\n  x=(a+b)*c//2**n-(-d)\n  y=n[i+1]if not a==b and c else[1,(2,3)]\n}\n",
        "net T {\n  x = (a + b) * c // 2**n - (-d)\n"
        "  y = n[i + 1] if not a == b and c else [1, (2, 3)]\n}\n",
    ),
    "arguments are tight, calls are not": (
        "net T {\n  conv 2*c + 1@3x3 pad=k - 1\n  unit(64*2 , s=1 if i else 2, t=i*2)\n}\n",
        "net T {\n  conv 2*c+1@3x3 pad=k-1\n  unit(64 * 2, s = 1 if i else 2, t=i * 2)\n}\n",
    ),
    "sizes and ranges": (
        "net T {\n  conv c@( a )x( b+1 ) /2x1\n  slice 0 .. n - 1\n  for i in 0 .. 4 { relu }\n}\n",
        "net T {\n  conv c@(a)x(b + 1) /2x1\n  slice 0..n-1\n  for i in 0..4 { relu }\n}\n",
    ),
    "long flows break before their arrows": (
        "net T {\n  " + " -> ".join(["conv 64@3x3 pad=half"] * 6) + "\n}\n",
        "net T {\n  conv 64@3x3 pad=half -> conv 64@3x3 pad=half -> conv 64@3x3 pad=half"
        " -> conv 64@3x3 pad=half\n    -> conv 64@3x3 pad=half -> conv 64@3x3 pad=half\n}\n",
    ),
    "defaults and parameters": (
        "default conv{\n pad=half,\n bias=off\n}\nnet T(n:int[4],k:int=3,c=1,){}\nnet U=T([1])\n",
        "default conv { pad=half, bias=off }\nnet T(n: int[4], k: int = 3, c=1) {}\n"
        "net U = T([1])\n",
    ),
    "strings are left alone": (
        'net T {\n  conv 2@3x3 connect="""\n X.\n   .X"""->relu\n}\n',
        'net T {\n  conv 2@3x3 connect="""\n X.\n   .X""" -> relu\n}\n',
    ),
    "carriage returns": ("net T {\r\n  relu\r\n}\r\n", "net T {\n  relu\n}\n"),
    "nothing": ("", ""),
}


def formatted(text):
    return format_text(Source("net.cnn", text))


@pytest.mark.parametrize("case", CASES)
def test_layout(case):
    given, wanted = CASES[case]
    assert formatted(given) == wanted
    assert formatted(wanted) == wanted


def structure(node):
    """A syntax tree without places and comments, for comparison."""
    if isinstance(node, syntax.File):
        return structure(node.items)
    if isinstance(node, tuple):
        return tuple(map(structure, node))
    if is_dataclass(node):
        kept = [f.name for f in fields(node) if f.name not in ("span", "source")]
        return (type(node).__name__, *(structure(getattr(node, name)) for name in kept))
    return node


def assert_formats(text):
    """Formatting keeps the tree and the comments, and is idempotent."""
    once = formatted(text)
    assert formatted(once) == once
    before, after = parse(Source("a", text)), parse(Source("b", once))
    assert structure(before) == structure(after)
    comments = sorted(c.span.text.lstrip("#") for c in before.comments)
    assert comments == sorted(c.span.text.lstrip("#") for c in after.comments)


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.cnn")), ids=lambda p: p.stem)
def test_bundled_networks_are_formatted(path):
    text = path.read_text(encoding="utf-8")
    assert_formats(text)
    assert formatted(text) == text, f"convdsl fmt {path}"


def assert_formats_if_it_parses(text):
    try:
        parse(Source("net.cnn", text))
    except CompileError as error:
        # Brackets and literals are well formed; what remains is a word in the wrong place.
        assert {d.code for d in error.diagnostics} <= {"E002"}, text
    else:
        assert_formats(text)


# A seed cannot be shrunk.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@settings(max_examples=300, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_formatting_keeps_every_program(seed):
    assert_formats_if_it_parses(Writer(seed).program())


@pytest.mark.slow
@settings(max_examples=20_000, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_formatting_keeps_very_many_programs(seed):
    assert_formats_if_it_parses(Writer(seed).program())


def test_most_random_programs_parse():
    parsed = 0
    for seed in range(100):
        try:
            parse(Source("net.cnn", Writer(seed).program()))
        except CompileError:
            continue
        parsed += 1
    assert parsed > 60


def test_recipes_stand_on_a_line_or_a_setting_a_line():
    given = (
        "net T{ input 4\n dense 2\n train{epochs=3;lr=1e-3,\n augment=[flip,crop( pad=4 )]}\n"
        " # why\n train { seed=1 } }\n"
    )
    formatted = format_text(Source("t.cnn", given))
    assert "  train { epochs=3, lr=1e-3, augment=[flip, crop(pad=4)] }\n" in formatted
    assert format_text(Source("t.cnn", formatted)) == formatted
    settings = ", ".join(f"weight_decay={n * 111111}" for n in range(1, 6))
    long = f"net T {{\n  input 4\n  train {{ {settings} }}\n  dense 2\n}}\n"
    broken = format_text(Source("t.cnn", long))
    assert "  train {\n    weight_decay=111111\n" in broken
    assert format_text(Source("t.cnn", broken)) == broken
