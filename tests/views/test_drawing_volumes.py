"""Volumes: every value and link, text that meets no other text, bodies to scale."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from drawings import NAMES, SVG, check_on_page, outline_frame, text_frame, texts, zoo

import convdsl
from convdsl.views.drawing import Options, draw
from convdsl.views.drawing.captions import shown
from convdsl.views.drawing.diagram import diagram
from convdsl.views.drawing.flow import Flow
from convdsl.views.drawing.solids import Scale
from convdsl.views.drawing.volumes import LEGIBLE
from convdsl.views.summary import summarise


def svg(*graphs, **options):
    return draw(graphs, "svg", Options(style="volumes", **options)).decode()


def flow(graph, depth=None):
    return Flow(diagram(summarise(graph), depth, LEGIBLE))


def groups(image, kind):
    return [g for g in ET.fromstring(image).iter(f"{SVG}g") if g.get("class") == kind]


@pytest.mark.parametrize("name", NAMES)
def test_every_value_and_link_is_drawn_and_no_text_meets_another(name):
    graph = zoo(name)
    image = svg(graph)
    found = flow(graph)
    assert len(groups(image, "volume")) == len(found.steps)
    links = [group.find(f"{SVG}title").text for group in groups(image, "link")]
    assert sorted(links) == sorted(f"{tail.name} to {head.name}" for tail, head in found.links)
    every = texts(image)
    assert graph.name in every
    for step in found.steps:
        if not step.is_join:
            assert shown(step.type) in every
    frames = [text_frame(t) for t in ET.fromstring(image).iter(f"{SVG}text")]
    assert len(frames) >= len(found.steps)
    assert not [pair for pair in combinations(frames, 2) if pair[0].meets(pair[1])]
    check_on_page(image)


@pytest.mark.parametrize("name", NAMES)
def test_bodies_keep_off_each_other_and_off_text(name):
    image = svg(zoo(name))
    bodies = []
    for group in groups(image, "volume"):
        shapes = [e for tag in ("rect", "polygon") for e in group.iter(f"{SVG}{tag}")]
        bodies.append(([outline_frame(e) for e in shapes], list(group.iter(f"{SVG}text"))))
    for (one, _), (other, _) in combinations(bodies, 2):
        assert not any(a.meets(b) for a in one for b in other)
    for shapes, _ in bodies:
        for _, labels in bodies:
            assert not any(a.meets(text_frame(t)) for a in shapes for t in labels)


def test_few_channels_are_drawn_map_by_map():
    c1 = groups(svg(zoo("LeNet5")), "volume")[1]
    maps = [outline_frame(rect) for rect in c1.iter(f"{SVG}rect")]
    image = outline_frame(next(groups(svg(zoo("LeNet5")), "volume")[0].iter(f"{SVG}rect")))
    assert len(maps) == 6
    for frame in maps:
        assert (frame.right - frame.left) / (image.right - image.left) == pytest.approx(
            28 / 32, abs=0.001
        )


def test_windows_are_drawn_to_scale():
    first = groups(svg(zoo("LeNet5")), "link")[0]
    window = outline_frame(first.find(f"{SVG}polygon"))
    image = outline_frame(next(groups(svg(zoo("LeNet5")), "volume")[0].iter(f"{SVG}rect")))
    share = (window.right - window.left) / (image.right - image.left)
    assert share == pytest.approx(5 / 32, abs=0.001)
    assert len(list(first.iter(f"{SVG}path"))) == 4


def test_a_network_of_any_rank_is_drawn_as_what_it_is():
    series = groups(svg(zoo("M5")), "volume")[1]
    assert len(list(series.iter(f"{SVG}rect"))) == 1
    assert not list(series.iter(f"{SVG}polygon"))
    video = groups(svg(zoo("C3D")), "volume")[0]
    assert len(list(video.iter(f"{SVG}rect"))) == 3  # its channels, a body each


def test_lanes_hold_branches_and_the_longest_way_stays_in_the_first():
    steps = {step.name: step for step in flow(zoo("GoogLeNet")).steps}
    assert all(step.lane == 0 for name, step in steps.items() if "classifier" not in name)
    assert [step.lane for name, step in steps.items() if "classifier" in name] == [1, 1]
    inside = flow(zoo("GoogLeNet"), depth=9)
    assert {step.lane for step in inside.steps if step.name.startswith("i3a.")} == {0, 1, 2, 3}


def test_skips_are_led_over_what_they_skip_at_levels_of_their_own():
    text = (
        "net Nested { input 4@9x9\n a = in -> conv 4@3 pad=1\n b = a -> conv 4@3 pad=1\n"
        " c = b -> conv 4@3 pad=1\n d = c + b\n yield d + a -> dense 3 }"
    )
    found = flow(convdsl.load_source(text).graph)
    assert sorted(found.levels.values()) == [0, 1]
    assert {step.lane for step in found.steps} == {0}


def test_projections_are_dashed():
    image = svg(zoo("ResNet18"))
    dashed = [
        group.find(f"{SVG}title").text
        for group in groups(image, "link")
        if any(path.get("stroke-dasharray") == "2,2" for path in group.iter(f"{SVG}path"))
    ]
    assert len(dashed) == 6
    assert all("projection" in link for link in dashed)


def test_the_scale_is_told():
    assert "sides and channels on a logarithmic scale" in texts(svg(zoo("AlexNet")))
    assert not [text for text in texts(svg(zoo("LeNet5"))) if "scale" in text]
    scale = Scale.over([1, 100], 50)
    assert scale.logarithmic
    assert scale.of(100) == 50
    linear = Scale.over([20, 100], 50)
    assert linear.of(20) == 10


def test_dark_and_several_networks():
    image = svg(zoo("LeNet5"), zoo("AlexNet"), theme="dark")
    assert {"LeNet5", "AlexNet"} <= set(texts(image))
    assert re.search(r'<rect [^>]*fill="#1B1E23"', image)


@pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_every_format_is_the_same_every_time(format, magic):
    options = Options(style="volumes")
    first = draw([zoo("LeNet5")], format, options)
    assert first.startswith(magic)
    assert draw([zoo("LeNet5")], format, options) == first
