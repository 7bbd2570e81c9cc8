"""Plots of summaries: a bar for every number, to scale, and text that meets no other."""

import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from drawings import NAMES, SVG, check_on_page, outline_frame, text_frame, texts, zoo

from convdsl.views.drawing.captions import counted
from convdsl.views.drawing.plots import PANELS, plot
from convdsl.views.summary import rows, summarise


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_bar_to_scale(name):
    summary = summarise(zoo(name))
    image = plot(summary)
    table = rows(summary.layers)
    panels = [g for g in ET.fromstring(image).iter(f"{SVG}g") if g.get("class") == "panel"]
    assert [panel.find(f"{SVG}title").text for panel in panels] == [p.title for p in PANELS]
    for panel, group in zip(PANELS, panels, strict=True):
        amounts = [sum(panel.of(layer.costs) for layer in row) for row in table]
        bars = [outline_frame(rect) for rect in group.iter(f"{SVG}rect")]
        lengths = [bar.right - bar.left for bar in bars]
        largest = max(amounts)
        wanted = [amount / largest * max(lengths) for amount in amounts if amount]
        assert lengths == pytest.approx(wanted, abs=0.011)
        written = [(text.text or "") for text in group.iter(f"{SVG}text")]
        assert written == [panel.title, *(panel.shown(a) for a in amounts if a)]
    check_on_page(image)


@pytest.mark.parametrize("name", ["LeNet5", "ResNet50", "GoogLeNet", "C3D"])
def test_no_text_meets_another_or_a_bar(name):
    root = ET.fromstring(plot(summarise(zoo(name))))
    frames = [text_frame(text) for text in root.iter(f"{SVG}text")]
    assert not [pair for pair in combinations(frames, 2) if pair[0].meets(pair[1])]
    bars = [outline_frame(rect) for rect in list(root.iter(f"{SVG}rect"))[1:]]
    assert len(bars) > 10
    assert not [1 for bar in bars for frame in frames if bar.meets(frame)]


def test_layers_are_named():
    shown = texts(plot(summarise(zoo("LeNet5"))))
    assert "C1: 5×5 conv, 6, tanh" in shown
    assert counted(48_120) in shown
