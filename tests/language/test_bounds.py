"""Whatever is given, the language answers, and soon: with a graph or with diagnostics."""

import time

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from language.programs import Writer, mutation

from convdsl.diagnostics import CompileError, Source, render
from convdsl.language import elaborate, format_text, net_names, parse

RUNAWAY = {
    "a long loop": ("for i in 0..1_000_000_000 { relu }", "E402"),
    "loops in loops": ("for i in 0..9999 { for j in 0..9999 { x = i * j } }", "E402"),
    "a billion channels": ("conv 1_000_000_000@3x3", "E401"),
    "a large padding": ("conv 3@3x3 pad=2_000_000_000", "E401"),
    "a power": ("dense 10**10**10", "E401"),
    "a power of fractions": ("dense 2.0**99999", "E208"),
    "a list repeated": ("x = [0] * 1_000_000_000", "E401"),
    "a list doubled": ("x = [0]\n  for i in 0..9999 { x = x + x }", "E401"),
    "a list in a list": ("x = [0]\n  for i in 0..9999 { x = [x, x] }\n  dense x", "E403"),
    "a string doubled": ('x = "a"\n  for i in 0..9999 { x = x + x }', "E401"),
    "brackets": (f"x = {'(' * 9999}1{')' * 9999}", "E403"),
    "minus signs": (f"x = {'-' * 9999}1", "E403"),
    "a long sum": (f"x = 1{'+1' * 9999}", "E403"),
    "many nots": (f"x = {'not ' * 9999}true", "E403"),
    "many powers": (f"x = 1{'**1' * 9999}", "E403"),
    "many indices": (f"x = [1]{'[0]' * 9999}", "E403"),
    "many bodies": ("if true {" * 999 + "}" * 999, "E403"),
    "a long number": (f"dense {'9' * 99_999}", "E401"),
    "a long size": (f"max {'9' * 99_999}x3", "E401"),
    "groups of large numbers": ("conv 1_000_007@1x1 groups=1000", "E204"),
    "blocks without end": ("grow(1)", "E403"),
    "blocks that double": ("twice(60)", "E402"),
    "a large predicate": ("conv 2000@1x1\n  conv 2000@1x1 connect=(s, d) => s == d", "E402"),
}
HEAD = """\
block grow(n) { grow(n + 1) }
block twice(n) { if n > 0 { twice(n - 1); twice(n - 1) } }
net T {
  input 3@8x8
"""


@pytest.mark.parametrize("case", RUNAWAY)
def test_what_would_run_away_is_told(case):
    body, code = RUNAWAY[case]
    start = time.process_time()
    with pytest.raises(CompileError) as raised:
        elaborate(parse(Source("net.cnn", f"{HEAD}  {body}\n}}\n")), "T")
    assert {d.code for d in raised.value.diagnostics} == {code}
    # Not a measurement: what runs away takes minutes or never ends.
    assert time.process_time() - start < 30


def test_thousands_of_layers_are_fine():
    lines = "  conv 4@3x3 pad=half -> bn -> relu\n" * 3_000
    graph = elaborate(parse(Source("net.cnn", f"net T {{\n  input 3@8x8\n{lines}}}\n"))).graph
    assert len(graph.nodes) == 9_000
    assert graph.nodes[-1].name == "relu3000"


def test_thousands_of_errors_are_fine():
    for line in ("  conv 3@ -> relu\n", "  conv 3@3x3x3 -> rulu\n", "  (\n", '  "\n'):
        with pytest.raises(CompileError) as raised:
            elaborate(parse(Source("net.cnn", f"net T {{\n  input 3@8x8\n{line * 3_000}}}\n")))
        assert 1 <= len(raised.value.diagnostics) <= 40


def assert_answers(text):
    """Only CompileErrors, whose diagnostics can be printed."""
    source = Source("net.cnn", text)
    try:
        file = parse(source)
        formatted = format_text(source)
        assert format_text(Source("net.cnn", formatted)) == formatted
        for name in net_names(file)[:2]:
            elaborate(file, name)
    except CompileError as error:
        assert error.diagnostics
        for diagnostic in error.diagnostics:
            assert render(diagnostic)


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a seed cannot be shrunk


@settings(max_examples=200, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_mutated_networks(seed):
    assert_answers(mutation(seed))


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text(text):
    assert_answers(text)


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_random_programs(seed):
    assert_answers(Writer(seed).program())


@pytest.mark.slow
@settings(max_examples=100_000, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_very_many_mutated_networks(seed):
    assert_answers(mutation(seed))
