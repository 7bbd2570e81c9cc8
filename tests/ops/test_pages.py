"""`docs/ops.md`: up to date, complete for every op, and every program in it compiles to a graph."""

import os
import re
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from helpers import sample_network

import convdsl
from convdsl.ops import registry
from convdsl.ops.attributes import attributes
from convdsl.ops.losses import LOSSES

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "op_pages"
DOCUMENT = (ROOT / "docs" / "ops.md").read_text(encoding="utf-8")
PAGES = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", DOCUMENT, re.M | re.S))
PROGRAMS = re.findall(r"^```cnn\n(.*?)^```$", DOCUMENT, re.M | re.S)


def rows(text):
    """The cells of every line of a Markdown table; a bar within a cell is escaped."""
    lines = (line for line in text.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_pages_are_up_to_date():
    loader = SourceFileLoader("op_pages", str(TOOL))
    spec = spec_from_loader("op_pages", loader)
    module = module_from_spec(spec)
    loader.exec_module(module)
    assert module.document() == DOCUMENT, "tools/op_pages writes them"
    assert os.access(TOOL, os.X_OK)


def test_the_table_has_every_op_and_no_empty_cell():
    table = rows(DOCUMENT[: DOCUMENT.index("### Losses")])[2:]
    assert [row[0] for row in table] == [f"[{name}](#{name})" for name in registry()]
    for row in table:
        assert len(row) == 7
        assert all(row)
        # What is lacking is said with its reason.
        assert all(len(cell.split()) > 5 for cell in row if cell.startswith("none"))


def test_the_table_of_losses_has_every_loss():
    table = rows(PAGES["Losses"])[2:]
    assert [row[0] for row in table] == [f"`{name}`" for name in LOSSES]
    assert all(len(row) == 6 and all(row) for row in table)


def test_every_op_has_a_page():
    assert list(PAGES) == ["Losses", *registry()]


@pytest.mark.parametrize("op", registry().values(), ids=lambda op: op.kind)
def test_a_page_has_maths_attributes_examples_and_weights(op):
    page = PAGES[op.kind]
    assert op.documentation() in page
    cells = [cell for row in rows(page) for cell in row]
    for name, attribute in attributes(op).items():
        assert name in cells
        assert attribute.doc in cells
    for sample in op.samples:
        assert f"`{sample.text}`" in cells
        node = sample_network(sample).graph.nodes[-1]
        for weight in node.op.weights(*(v.type for v in node.data)):
            assert f"`{weight.name}`" in op.documentation()
    first = sample_network(op.samples[0]).graph.nodes[-1]
    for weight in first.op.weights(*(v.type for v in first.data)):
        assert f"`{weight.name}`" in cells


def test_every_program_is_a_network():
    assert len(PROGRAMS) == len(registry())
    for name, program in zip(registry(), PROGRAMS, strict=True):
        graph = convdsl.load_source(program).graph
        assert graph.nodes[-1].op.kind == name
