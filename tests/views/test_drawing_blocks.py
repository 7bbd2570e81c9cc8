"""Tables of configurations: the papers' tables, and text that fits its cell."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations

import pytest
from drawings import NAMES, SVG, check_on_page, text_frame, texts, zoo

from convdsl import load_source
from convdsl.views.drawing import Options, draw
from convdsl.views.drawing.captions import counted
from convdsl.views.drawing.configurations import configuration
from convdsl.views.drawing.tables import Entry, table
from convdsl.views.summary import summarise


def svg(*names, **options):
    graphs = [zoo(name) for name in names]
    return draw(graphs, "svg", Options(style="blocks", **options)).decode()


def markdown(*names):
    return draw([zoo(name) for name in names], "md", Options(style="blocks")).decode()


def cells(*names):
    """The rows of the body, as text."""
    found = table([summarise(zoo(name)) for name in names])
    return [
        [[(entry.lines, entry.copies) for entry in cell] for cell in row.cells]
        for row in found.rows
        if row.kind == "body"
    ]


@pytest.mark.parametrize("name", NAMES)
def test_all_lines_are_drawn_and_no_text_meets_another(name):
    image = svg(name)
    written = texts(image)
    for cell in (cell for row in cells(name) for cell in row):
        for lines, copies in cell:
            assert set(lines) <= set(written)
            assert copies < 2 or f"× {copies}" in written
    total = summarise(zoo(name)).total
    assert {name, counted(total.parameters), counted(total.macs)} <= set(written)
    frames = [text_frame(text) for text in ET.fromstring(image).iter(f"{SVG}text")]
    assert not [pair for pair in combinations(frames, 2) if pair[0].meets(pair[1])]
    check_on_page(image)
    check_in_columns(image)


@pytest.mark.parametrize("names", [("VGG11", "VGG19"), ("ResNet18", "ResNet152", "LeNet5")])
def test_networks_side_by_side_fit_their_columns(names):
    image = svg(*names)
    check_on_page(image)
    check_in_columns(image)


def check_in_columns(image):
    """Lines between cells cross no text."""
    root = ET.fromstring(image)
    measured = 0
    for group in root.iter(f"{SVG}g"):
        frames = [text_frame(text) for text in group.iter(f"{SVG}text")]
        for path in group.iter(f"{SVG}path"):
            points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d"))
            xs = {float(x) for x, _ in points}
            if len(points) == 2 and len(xs) == 1:
                measured += 1
                assert not any(frame.left < x < frame.right for frame in frames for x in xs)
    assert measured > 3


def test_the_residual_networks_are_those_of_their_papers_table():
    units = [
        [cell[0] for cell in row]
        for row in cells("ResNet18", "ResNet34", "ResNet50", "ResNet101", "ResNet152")
        if len(row) > 1
    ]
    assert [[copies for _, copies in row] for row in units] == [
        [2, 3, 3, 3, 3],
        [2, 4, 4, 4, 8],
        [2, 6, 6, 23, 36],
        [2, 3, 3, 3, 3],
    ]
    assert units[1][1][0] == ("3×3, 128", "3×3, 128")
    assert units[2][4][0] == ("1×1, 256", "3×3, 256", "1×1, 1024")


def test_the_plain_twin_has_the_same_units():
    plain = [cell for row in cells("Plain34") for cell in row]
    residual = [cell for row in cells("ResNet34") for cell in row]
    assert plain == residual


def test_layers_with_weights_give_the_networks_their_names():
    for name in NAMES:
        number = re.fullmatch(r"(?:VGG|ResNet|Plain|DenseNet)(\d+).*", name)
        if number and name != "VGG16_1x1":
            assert configuration(summarise(zoo(name))).weight_layers == int(number[1]), name


def test_what_all_have_spans_and_what_is_new_is_bold():
    names = ["VGG11", "VGG11_LRN", "VGG13", "VGG16_1x1", "VGG16", "VGG19"]
    text = markdown(*names)
    assert "| 224×224 | conv3-64 | conv3-64<br>**LRN** | conv3-64<br>**conv3-64** |" in text
    assert "conv3-256<br>conv3-256<br>**conv1-256**" in text
    assert texts(svg(*names)).count("FC-4096") == 2
    assert texts(svg(*names)).count("2×2 max pool, /2") == 5


def test_branches_are_lines_and_what_comes_before_them_is_above():
    units = [entry for row in cells("GoogLeNet") for cell in row for entry in cell if entry[1]]
    assert units[0] == (
        ("1×1, 64", "1×1, 96 → 3×3, 128", "1×1, 16 → 5×5, 32", "3×3 max pool → 1×1, 32"),
        1,
    )
    fire = [entry for row in cells("SqueezeNet") for cell in row for entry in cell if entry[1]]
    assert fire[0] == (("1×1, 16", "1×1, 64", "3×3, 64"), 2)


def test_very_many_lines_are_folded():
    text = (
        "net D { input 4@8x8\n for i in 0..90 { conv 4@3 pad=1\n conv 8@1\n conv 4@1 }\n dense 3 }"
    )
    (row, *_) = (r for r in table([summarise(load_source(text).graph)]).rows if r.kind == "body")
    assert row.cells == ((Entry(("conv3-4", "conv1-8", "conv1-4"), 90),),)


def test_stages_of_all_networks_come_in_order_of_size():
    sizes = [row.size for row in table([summarise(zoo(n)) for n in ("VGG11", "ZFNet")]).rows]
    areas = [int(size.split("×")[0]) for size in sizes if "×" in size]
    assert areas == sorted(areas, reverse=True)
    assert {224, 110, 55} <= set(areas)


@pytest.mark.parametrize(("format", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_every_format_is_the_same_every_time(format, magic):
    first = draw([zoo("ResNet18")], format, Options(style="blocks"))
    assert first.startswith(magic)
    assert draw([zoo("ResNet18")], format, Options(style="blocks")) == first
