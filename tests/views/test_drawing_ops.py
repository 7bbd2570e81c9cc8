"""Every op is drawn in every style: its caption is there, and text and shapes lie on the page."""

import xml.etree.ElementTree as ET

import pytest
from drawings import SVG, check_on_page, outline_frame, text_frame, texts
from helpers import sample_network

from convdsl.ops import registry
from convdsl.views.drawing import Options, draw
from convdsl.views.drawing.captions import shown

SAMPLES = [(kind, sample) for kind, op in registry().items() for sample in op.samples]


@pytest.mark.parametrize(
    ("kind", "sample"), SAMPLES, ids=[f"{kind}-{sample.text}" for kind, sample in SAMPLES]
)
def test_an_op_is_drawn_in_every_style(kind, sample):
    graph = sample_network(sample).graph
    (node,) = [node for node in graph.nodes if node.op.kind == kind][:1]
    caption = node.op.caption(*(value.type for value in node.data))
    assert str(caption)
    image = draw([graph], "svg").decode()
    assert any((caption.symbol or str(caption)) in text for text in texts(image))
    for group in ET.fromstring(image).iter(f"{SVG}g"):
        if group.get("class") == "node":
            outline = next(e for e in group.iter() if e.tag in (f"{SVG}path", f"{SVG}polygon"))
            for text in group.iter(f"{SVG}text"):
                assert outline_frame(outline).holds(text_frame(text)), text.text
    for style in ("volumes", "blocks"):
        image = draw([graph], "svg", Options(style=style)).decode()
        check_on_page(image)
        assert any(shown(value.type) in text for text in texts(image) for value in graph.inputs)


def test_captions_say_what_papers_say():
    found = {}
    for kind, sample in SAMPLES:
        graph = sample_network(sample).graph
        node = next(node for node in graph.nodes if node.op.kind == kind)
        found[sample.text] = str(node.op.caption(*(value.type for value in node.data)))
    assert found["conv 6@3x2 /2x1 pad=same"] == "3×2 conv, 6, /2×1"
    assert found["conv 4@3 dilation=2 bias=off"] == "conv 3, 4, dilation 2"
    assert found["conv 6@3x3 groups=3 pad=[(0, 1), (2, 1)]"] == "3×3 depthwise conv, 6"
    assert found["max 3x3 /2 pad=1"] == "3×3 max pool, /2"
    assert found["avg global"] == "global avg pool"
    assert found["dense 10"] == "fc, 10"
    assert found["deconv 4@3 groups=2 bias=off"] == "up-conv 3, 4, 2 groups"
    assert found["deconv 3@2x2 /2"] == "2×2 up-conv, 3, /2"
