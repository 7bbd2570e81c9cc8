"""Canonical text: loading what `to_text` writes gives the same graph."""

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from language.programs import NETWORKS, network

from convdsl.diagnostics import Source
from convdsl.language import elaborate, format_text, net_names, parse, to_text


def described(graph):
    """Everything about a graph but places in the text."""
    return {
        "name": graph.name,
        "documentation": graph.documentation,
        "labels": graph.labels,
        "variables": [
            (v.name, v.type, v.role, v.initialiser, v.attributes) for v in graph.variables
        ],
        "nodes": [
            (n.name, n.op, [v.name for v in n.inputs], n.path, n.statement, n.documentation)
            for n in graph.nodes
        ],
        "outputs": [(name, value.name) for name, value in graph.outputs],
    }


def assert_same(file, net, overrides=None, input_sizes=()):
    text = to_text(file, net, overrides, input_sizes)
    assert format_text(Source("canonical.cnn", text)) == text
    original = elaborate(file, net, overrides, input_sizes)
    again_file = parse(Source("canonical.cnn", text))
    again = elaborate(again_file, net)
    assert described(again.graph) == described(original.graph)
    assert to_text(again_file, net) == text
    return text, again


@pytest.mark.parametrize("path", sorted(NETWORKS.glob("*.cnn")), ids=lambda p: p.stem)
def test_bundled_networks(path):
    file = parse(Source(str(path), path.read_text(encoding="utf-8")))
    for name in net_names(file):
        _, again = assert_same(file, name)
        assert len(again.expectations) == len(elaborate(file, name).expectations)
        assert not again.overridden


PROGRAM = """\
cnn 1
# a comment that goes
default conv { bias=off }
width = 4
spare = 5
## A unit.
## In two lines.
block unit(c) { conv c@3x3 pad=half }
block unused { relu }
default conv { pad=half }
## The family
net Family(n, classes=10, unit: block = unit) {
  input 3@8x8 mean=0.5  # so
  ## What the layer does
  C1: unit(width * n)  expect 8@8x8
  dense classes        expect 10
} expect params=3
net Other = Family(3)
net T = Family(2)  expect params=5_336
"""


def test_what_is_needed_is_kept_and_nothing_else():
    text, _ = assert_same(parse(Source("net.cnn", PROGRAM)), "T")
    assert (
        text
        == """\
cnn 1
default conv { bias=off }
width = 4

## A unit.
## In two lines.
block unit(c) { conv c@3x3 pad=half }
default conv { pad=half }

## The family
net Family(n, classes=10, unit: block = unit) {
  input 3@8x8 mean=0.5
  ## What the layer does
  C1: unit(width * n)  expect 8@8x8
  dense classes        expect 10
} expect params=3

net T = Family(2)  expect params=5_336
"""
    )


def test_overrides_are_bound_and_expectations_left_out():
    file = parse(Source("net.cnn", PROGRAM))
    text, _ = assert_same(file, "T", {"classes": 7, "unit": "relu"} | {"unit": "unit"})
    assert "net T = Family(2, classes=7, unit=unit)\n" in text
    assert "expect" not in text
    text, _ = assert_same(file, "Family", {"n": 3})
    assert "net Family(n=3, classes=10, unit: block = unit) {" in text


def test_input_sizes_are_bound():
    file = parse(Source("net.cnn", PROGRAM))
    text, _ = assert_same(file, "T", None, [(1, 9, 12)])
    assert "input 1@9x12 mean=0.5\n" in text


def test_imports_become_a_part_of_the_text(tmp_path):
    (tmp_path / "unit.cnn").write_text(
        "default conv { pad=half }\nwide = 4\nblock unit { conv wide@3x3 }\nblock spare { relu }\n"
    )
    text = """\
default conv { bias=off }
import "unit.cnn"
net T {
  input 3@8x8
  unit -> conv 2@3x3
}
"""
    written, _ = assert_same(parse(Source(str(tmp_path / "main.cnn"), text)), "T")
    assert (
        written
        == """\
cnn 1
wide = 4
block unit { default conv { pad=half }; conv wide@3x3 }

net T {
  default conv { bias=off }
  input 3@8x8
  unit -> conv 2@3x3
}
"""
    )


PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # a seed cannot be shrunk


@settings(max_examples=100, deadline=None, phases=PHASES)
@given(st.integers(0, 2**32))
def test_random_networks(seed):
    assert_same(parse(Source("net.cnn", network(seed))), "T", {"k": 3} if seed % 2 else None)


def test_recipes_are_kept_and_inherited():
    text = (
        "net T(n=3, how: word=adam) {\n  input 4\n  dense 2\n"
        "  train { epochs=n * 2, optimizer=how, augment=[flip, crop(pad=n)] }\n}\n"
        "net U = T(5)\n"
    )
    file = parse(Source("t.cnn", text))
    for name, epochs, pad in (("T", 6, 3), ("U", 10, 5)):
        told = {s.name: s.value for s in elaborate(file, name).recipe}
        assert told["epochs"] == epochs
        assert told["optimizer"].name == "adam"
        assert [str(c) for c in told["augment"]] == ["flip", f"crop(pad={pad})"]
        again = elaborate(parse(Source("c.cnn", to_text(file, name))), name).recipe
        assert {s.name: s.value for s in again} == told
