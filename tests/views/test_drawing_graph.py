"""Graphs: what is in them, that text fits its box, and that any Graphviz will do."""

import os
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from built import Net, alexnet, lenet
from drawings import NAMES, SVG, outline_frame, text_frame, texts, zoo

import convdsl
from convdsl.diagnostics import CompileError
from convdsl.graph import Scope
from convdsl.views.drawing import AMOUNTS, Options, draw, format_of, rendering
from convdsl.views.drawing.diagram import diagram
from convdsl.views.drawing.graph import row_text, shown
from convdsl.views.drawing.theme import DARK, LIGHT
from convdsl.views.summary import summarise


def residual():
    net = Net(2, 6, 6)
    path = (Scope("unit1", "basic"),)
    x = net.at
    net.conv(2, 3, 3, name="unit1.conv1", pad=1, path=path, documentation="The <first> & best.")
    net.apply("relu", path=path, statement="unit1.conv1")
    net.conv(2, 3, 3, name="unit1.conv2", pad=1, path=path)
    net.builder.prefix = ""
    net.combine(net.at, x, name="sum")
    return net.graph("Residual", documentation="A short documentation.\nA second line.")


def svg(*graphs, **options):
    return draw(graphs, "svg", Options(**options)).decode()


def dot(*graphs, **options):
    return draw(graphs, "dot", Options(**options)).decode()


# -- the zoo ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_box_edge_and_shape_is_drawn_and_text_fits(name):
    graph = zoo(name)
    found = diagram(summarise(graph))
    image = svg(graph)
    boxes, edges, measured = [], [], 0
    for group in ET.fromstring(image).iter(f"{SVG}g"):
        if group.get("class") == "edge":
            edges.append(group.find(f"{SVG}title").text)
        if group.get("class") == "node":
            boxes.append([(t.text or "").strip() for t in group.iter(f"{SVG}text")])
            measured += check_fits(group)
    ends = len(graph.inputs) + len(graph.outputs)
    assert len(boxes) == len(found.boxes) + ends
    assert len(edges) == len(set(edges)) == len(found.edges) + len(graph.outputs)
    assert measured >= len(boxes)
    for box in found.boxes:
        text = row_text(box.rows[0]) if box.symbol else str(box.head.caption)
        assert any(text in " ".join(lines) for lines in boxes), text
    every = texts(image)
    assert graph.name in every
    for value in (*graph.inputs, *(value for _, value in graph.outputs)):
        assert any(shown(value.type) in text for text in every)
    for edge in found.edges:
        tail = found.by_name.get(edge.tail)
        if tail and edge.type not in found.types_into[tail.name]:
            assert shown(edge.type) in every
    for depth, scope in {(len(b.path), b.path[-1]) for b in found.boxes if b.path}:
        assert any(text.startswith(scope.name) for text in every), (depth, scope)


def check_fits(group):
    """All text of a node lies in the middle of its outline; returns how much was measured."""
    outline = next(e for e in group.iter() if e.tag in (f"{SVG}path", f"{SVG}polygon"))
    lines = [text for text in group.iter(f"{SVG}text") if (text.text or "").strip()]
    for text in lines:
        place, frame = outline_frame(outline), text_frame(text)
        assert place.holds(frame), text.text
        assert place.left + place.right == pytest.approx(frame.left + frame.right, abs=0.05)
    return len(lines)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_amounts_are_written_and_fit(amount):
    graph = zoo("ResNet18")
    image = svg(graph, show=amount)
    for group in ET.fromstring(image).iter(f"{SVG}g"):
        if group.get("class") == "node":
            check_fits(group)
    found = diagram(summarise(graph))
    numbers = [AMOUNTS[amount].shown(AMOUNTS[amount].of(box)) for box in found.boxes]
    assert len(set(numbers)) > 4
    assert set(numbers) <= set(texts(image))
    colours = set(re.findall(r'fill="(#\w+)"', image.lower()))
    assert {LIGHT.heat[-1].lower(), LIGHT.heat[-2].lower()} <= colours


# -- edges -----------------------------------------------------------------------------------


def kinds(found):
    return {(e.tail, e.head): e.kind for e in found.edges if e.kind != "flow"}


def test_an_identity_is_a_skip_round_the_side():
    found = diagram(summarise(residual()))
    assert kinds(found) == {("image", "sum"): "skip"}
    text = dot(zoo("ResNet18"), block="conv2.basic2")
    (line,) = [line for line in text.splitlines() if re.search(r"in -> .*add1", line)]
    assert "headport=ne" in line
    assert "tailport=e" in line
    assert "identity" in line


def test_projections_are_dotted():
    found = diagram(summarise(zoo("ResNet18")))
    projections = {ends for ends, kind in kinds(found).items() if kind == "projection"}
    assert projections == {
        link
        for stage in (3, 4, 5)
        for link in (
            (f"conv{stage - 1}.basic2.add1", f"conv{stage}.basic1.projection1.conv1"),
            (f"conv{stage}.basic1.projection1.conv1", f"conv{stage}.basic1.add1"),
        )
    }
    text = dot(zoo("ResNet18"))
    assert len(re.findall("style=dotted", text)) == 6
    assert len([kind for kind in kinds(found).values() if kind == "skip"]) == 5


def test_gated_units_have_projections_too():
    found = diagram(summarise(zoo("SE_ResNet50")), depth=9)
    assert list(kinds(found).values()).count("projection") == 8
    assert list(kinds(found).values()).count("skip") == 12 + 16  # identities, and what is gated


def test_maps_carried_over_are_skips_and_branches_are_not():
    assert list(kinds(diagram(summarise(zoo("UNet")))).values()) == ["skip"] * 8
    assert kinds(diagram(summarise(zoo("GoogLeNet")))) == {}


# -- repeats ---------------------------------------------------------------------------------


def copies(name, depth):
    found = diagram(summarise(zoo(name)), depth)
    return [f"{b.scope.block} × {b.copies}" for b in found.boxes if b.scope]


def test_closed_blocks_that_repeat_share_a_box():
    assert copies("ResNet34", 0) == ["stage × 1"] * 4
    assert copies("ResNet34", 1) == [
        *("basic × 3", "basic × 1", "basic × 3", "basic × 1", "basic × 5", "basic × 1", "basic × 2")
    ]
    assert copies("ResNet34", 2) == []
    assert "basic × 5" in texts(svg(zoo("ResNet34"), depth=1))
    assert copies("DenseNet121", 1) == [f"dense_layer × {n}" for n in (6, 12, 24, 16)]


def test_without_a_depth_as_much_is_opened_as_stays_legible():
    assert len(diagram(summarise(zoo("ResNet34"))).boxes) > 50
    assert len(diagram(summarise(zoo("ResNet152"))).boxes) < 20
    assert "shortcut: 1×1 conv, 256, BN" in texts(svg(zoo("ResNet152")))


def test_a_thousand_layers_are_folded():
    net = convdsl.load_source(
        "net Deep { input 4@8x8\n for i in 0..500 { conv 4@3 pad=1 -> relu\n conv 4@1 -> tanh }\n"
        " dense 3 }"
    )
    found = diagram(summarise(net.graph))
    assert [(len(b.rows), b.copies) for b in found.boxes] == [(2, 500), (1, 1)]
    assert "repeated × 500" in texts(svg(net.graph))


def test_what_is_read_from_between_is_not_folded():
    text = (
        "net Read { input 4@8x8\n a = in -> unit()\n b = a -> unit()\n yield a + b -> dense 3 }\n"
        "block unit() { conv 4@3 pad=1 -> relu\n conv 4@3 pad=1 -> relu }"
    )
    found = diagram(summarise(convdsl.load_source(text).graph), depth=0)
    assert [box.copies for box in found.boxes] == [1, 1, 1, 1]


# -- what is written on them -----------------------------------------------------------------


def test_documentation_is_caption_and_tooltip():
    image = svg(residual())
    assert "unit1: basic" in texts(image)
    assert "The &lt;first&gt; &amp; best." in image
    assert "A short documentation." in texts(image)
    assert "A second line." not in texts(image)
    assert "60,850 parameters, 326,520 MACs" in texts(svg(zoo("LeNet5")))


def test_categories_have_their_own_colours():
    assert len(set(LIGHT.fills.values())) == len(LIGHT.fills)
    text = dot(lenet())
    for category in ("convolution", "pooling", "dense"):
        assert LIGHT.fill(category) in text


def test_the_ground_and_the_direction():
    text = dot(lenet(), theme="dark", direction="right")
    assert f'bgcolor="{DARK.ground}"' in text
    assert "rankdir=LR" in text
    assert "rankdir=TB" in dot(lenet())


def test_networks_stand_side_by_side():
    image = svg(lenet(), alexnet())
    shown = texts(image)
    assert shown.count("image") == 2
    assert {"LeNet", "AlexNet"} <= set(shown)
    identifiers = re.findall(r' id="([^"]+)"', image)
    assert len(identifiers) == len(set(identifiers)) > 20
    assert "0/C1" in dot(lenet(), alexnet())


def test_a_block_instance_alone():
    image = svg(zoo("ResNet18"), block="conv3.basic1")
    shown = texts(image)
    assert "conv3.basic1: basic" in shown
    assert "in" in shown
    assert "230,144 parameters, 179,830,784 MACs" in shown
    assert "1×1 conv, 128, /2" in shown
    with pytest.raises(CompileError, match=r"(?s)E523.*conv3.basic1"):
        svg(zoo("ResNet18"), block="conv3.basic")


# -- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "magic"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF"), ("dot", b"di")]
)
def test_every_format_is_the_same_every_time(format, magic):
    first = draw([residual(), lenet()], format)
    assert first.startswith(magic)
    assert draw([residual(), lenet()], format) == first


def test_the_format_goes_by_the_extension():
    assert format_of(Path("a/b.SVG")) == "svg"
    for name in ("x.gif", "x", "svg", "x.md"):
        with pytest.raises(CompileError, match="E520"):
            format_of(Path(name))


def test_a_notebook_shows_the_graph():
    assert "LeNet5" in texts(convdsl.load("lenet5")._repr_svg_())


def executable(path: Path, script: str) -> Path:
    path.write_text(f"#!{shutil.which('sh')}\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_systems_dot_is_preferred(tmp_path, monkeypatch):
    executable(tmp_path / "dot", 'echo "drawn as $1"')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert rendering.laid_out("digraph {}") == "drawn as -Tsvg\n"


def test_without_graphviz_the_message_says_what_to_do(monkeypatch):
    monkeypatch.setattr(rendering.shutil, "which", lambda name: None)
    monkeypatch.setattr(rendering, "_pure", lambda: None)
    with pytest.raises(CompileError, match=r"(?s)E521.*pip install graphviz-pure"):
        draw([lenet()], "png")
    assert draw([lenet()], "dot").startswith(b"digraph")


def test_a_failing_graphviz_is_told(tmp_path, monkeypatch):
    executable(tmp_path / "dot", "echo 'out of ink' >&2; exit 3")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CompileError, match=r"E522.*out of ink"):
        draw([lenet()], "svg")


def test_the_pip_shipped_command_need_not_be_on_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert draw([lenet()], "svg").startswith(b"<?xml")


def test_a_png_has_two_pixels_to_a_point():
    from io import BytesIO

    from PIL import Image

    page = ET.fromstring(draw([lenet()], "svg"))
    size = [float(page.get(side).removesuffix("pt")) for side in ("width", "height")]
    assert Image.open(BytesIO(draw([lenet()], "png"))).size == pytest.approx(
        [2 * s for s in size], abs=2
    )
