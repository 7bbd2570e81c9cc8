"""Drawings: what is in them, that text fits its box, and that any Graphviz will do."""

import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from built import Net, alexnet, lenet
from reportlab.pdfbase.pdfmetrics import stringWidth

from convdsl.diagnostics import CompileError
from convdsl.graph import Scope
from convdsl.views import rendering
from convdsl.views.graphviz import PALETTE, drawing, svg
from convdsl.views.rendering import format_of, render

SVG = "{http://www.w3.org/2000/svg}"


def residual():
    net = Net(2, 6, 6)
    path = (Scope("unit1", "basic"),)
    x = net.at
    net.conv(2, 3, 3, name="unit1.conv1", pad=1, path=path, documentation="The <first> & best.")
    net.apply("relu", path=path, statement="unit1.conv1")
    net.combine(net.at, x, name="sum")
    return net.graph("Residual", documentation="A short documentation.\nA second line.")


def texts(image: str) -> list[str]:
    return [t.text or "" for t in ET.fromstring(image).iter(f"{SVG}text")]


def test_every_layer_shape_and_total_is_drawn():
    shown = texts(svg(lenet()))
    for node in lenet().nodes:
        assert any(node.op.notation() in text for text in shown), node.name
    for name in ("C1", "S2", "F7", "LeNet", "image"):
        assert name in shown
    for shape in ("1@28x28", "6@28x28", "16@5x5", "120"):
        assert f" {shape}".replace(" ", "") in [text.strip() for text in shown]
    assert "61,706 parameters, 416,520 MACs" in shown


def test_every_edge_is_drawn():
    """A box is called by its first layer; activations are in the box before them."""
    edges = re.findall(r'^\t+("[^"]+"|\S+) -> ("[^"]+"|\S+) ', drawing(residual()), re.MULTILINE)
    assert {(a.strip('"'), b.strip('"')) for a, b in edges} == {
        ("image", "unit1.conv1"),
        ("unit1.conv1", "sum"),
        ("image", "sum"),
        ("sum", "output logits"),
    }


def test_block_instances_are_clusters_and_documentation_is_a_tooltip():
    text = drawing(residual())
    assert 'subgraph "cluster_unit1"' in text or "subgraph cluster_unit1" in text
    image = svg(residual())
    assert "unit1: basic" in texts(image)
    assert "The &lt;first&gt; &amp; best." in image
    assert "A short documentation." in texts(image)
    assert "A second line." not in texts(image)


def test_categories_have_their_own_colours():
    assert len(set(PALETTE.values())) == len(PALETTE)
    text = drawing(lenet())
    for category in ("convolution", "pooling", "dense"):
        assert PALETTE[category] in text


def test_networks_stand_side_by_side():
    shown = texts(render(drawing(lenet(), alexnet()), "svg").decode())
    assert shown.count("image") == 2
    assert {"LeNet", "AlexNet"} <= set(shown)


def test_the_same_network_gives_the_same_bytes():
    for format in ("svg", "png", "pdf"):
        assert render(drawing(residual()), format) == render(drawing(residual()), format)


@pytest.mark.parametrize("graph", [lenet(), alexnet(), residual()], ids=lambda g: g.name)
def test_text_fits_its_box(graph):
    measured = 0
    for group in ET.fromstring(svg(graph)).iter(f"{SVG}g"):
        if group.get("class") != "node":
            continue
        (outline,) = [e for e in group.iter() if e.tag in (f"{SVG}path", f"{SVG}polygon")][:1]
        points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", outline.get("d") or outline.get("points"))
        left, right = (end(float(x) for x, _ in points) for end in (min, max))
        top, bottom = (end(float(y) for _, y in points) for end in (min, max))
        for text in group.iter(f"{SVG}text"):
            measured += 1
            font = "Helvetica-Bold" if text.get("font-weight") == "bold" else "Helvetica"
            width = stringWidth(text.text, font, float(text.get("font-size")))
            start = float(text.get("x")) - (width / 2 if text.get("text-anchor") == "middle" else 0)
            assert left <= start, text.text
            assert start + width <= right, text.text
            assert top <= float(text.get("y")) <= bottom, text.text
    assert measured > len(graph.nodes) // 2


@pytest.mark.parametrize(
    ("format", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"di")]
)
def test_every_format(format, magic):
    assert render(drawing(lenet()), format).startswith(magic)


def test_the_format_goes_by_the_extension():
    assert format_of(Path("a/b.SVG")) == "svg"
    for name in ("x.gif", "x", "svg"):
        with pytest.raises(CompileError, match="E520"):
            format_of(Path(name))


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_systems_dot_is_preferred(tmp_path, monkeypatch):
    executable(tmp_path / "dot", 'echo "drawn as $1"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert render("digraph {}", "pdf") == b"drawn as -Tpdf\n"


def test_without_graphviz_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(rendering.shutil, "which", lambda name: None)
    monkeypatch.setattr(rendering, "_pure", lambda: None)
    with pytest.raises(CompileError, match=r"(?s)E521.*pip install graphviz-pure"):
        render("digraph {}", "png")
    assert render("digraph {}", "dot") == b"digraph {}"


def test_a_failing_graphviz_is_told(tmp_path, monkeypatch):
    executable(tmp_path / "dot", "echo 'out of ink' >&2; exit 3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"E522.*out of ink"):
        render("digraph {}", "svg")


def test_the_pip_shipped_command_need_not_be_on_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert render("digraph {}", "svg").startswith(b"<?xml")
