"""Sheets of feature maps and filters: the right values in the right pixels."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

import convdsl
from convdsl import inspection
from convdsl.diagnostics import CompileError
from convdsl.views.drawing import sheets


def pixels(tile):
    return np.asarray(tile)[..., 0]


def test_maps_are_grey_from_their_least_to_their_largest():
    values = np.stack([np.full((4, 4), -1.0), np.arange(16.0).reshape(4, 4)])
    section = sheets.maps("C1", values)
    assert section.heading == "C1   -1 to 15"
    assert [tile.size for tile in section.tiles] == [(64, 64)] * 2
    assert pixels(section.tiles[0]).max() == 0
    shown = pixels(section.tiles[1])[8::16, 8::16]
    np.testing.assert_array_equal(shown, np.round((values[1] + 1) / 16 * 255))


def test_of_many_maps_the_first_are_shown():
    section = sheets.maps("C1", np.random.default_rng(0).random((40, 3, 5)))
    assert len(section.tiles) == 16
    assert section.heading.endswith("the first 16 of 40")
    assert section.tiles[0].size == (64, 38)


def test_volumes_and_vectors():
    random = np.random.default_rng(0)
    volume = random.random((1, 5, 4, 4))
    (middle,) = sheets.maps("x", volume).tiles
    scaled = (volume[0, 2] - volume.min()) / (volume.max() - volume.min())
    np.testing.assert_array_equal(pixels(middle)[8::16, 8::16], np.round(scaled * 255))
    for values in (random.random(300), random.random((300, 1, 1))):
        (vector,) = sheets.maps("x", values).tiles
        assert vector.size == (128 * 4, 3 * 12)


@pytest.mark.parametrize("length", [40, 160, 1000])
def test_series_are_curves(length):
    wave = np.sin(np.linspace(0, 2 * np.pi, length))
    (tile,) = sheets.maps("x", wave[None]).tiles
    assert tile.size == (160, 40)
    inked = pixels(tile) == 0
    assert inked.any(axis=0).all()
    heights = inked.argmax(axis=0)
    assert (heights[40], heights[120]) == (0, 39)
    assert abs(int(heights[80]) - 19) <= 2


def test_zero_is_in_the_middle_of_filters():
    weights = np.zeros((2, 1, 3, 3))
    weights[0, 0, 0, 0], weights[1, 0, 2, 2] = 2, -1
    first, second = sheets.filters("C1", weights).tiles
    assert (pixels(first)[1, 1], pixels(first)[-1, -1]) == (255, 128)
    assert pixels(second)[-1, -1] == 64


def test_filters_of_three_channels_are_in_colour():
    weights = np.zeros((1, 3, 2, 2))
    weights[0, 0] = 1
    (tile,) = sheets.filters("C1", weights).tiles
    assert tile.getpixel((10, 10)) == (255, 128, 128)


def test_a_sheet_holds_all_sections():
    sections = [sheets.maps("one", np.ones((3, 2, 2))), sheets.maps("two", np.ones(5))]
    data = sheets.sheet("Title", sections)
    assert data == sheets.sheet("Title", sections)
    page = Image.open(BytesIO(data))
    assert page.format == "PNG"
    assert page.width >= 3 * 64 + 2 * 16
    assert page.height >= 64 + 12 + 17


def test_activations_are_those_of_the_network(monkeypatch):
    text = "net T { input 2@6x6\n C1: conv 3@3x3 -> relu\n S2: avg 2x2\n F3: dense 4 }"
    net = convdsl.load_source(text)
    program = net.compile(batch=2, seed=3)
    x = np.random.default_rng(0).standard_normal((2, 2, 6, 6)).astype(np.float32)
    seen = []
    drawn = sheets.maps
    monkeypatch.setattr(sheets, "maps", lambda *a: seen.append(a) or drawn(*a))
    data = inspection.activation_sheet(program, net.graph, [x])
    assert data.startswith(b"\x89PNG")
    assert [heading.split()[0] for heading, _ in seen] == ["image", "C1", "S2", "F3"]
    (_, image), (heading, c1), (_, s2), (_, f3) = seen
    assert heading == "C1   3@4×4   3×3 conv, 3, relu"
    np.testing.assert_array_equal(image, x[0])
    assert c1.min() == 0
    means = c1.reshape(3, 2, 2, 2, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(s2, means, rtol=1e-5)  # float32, another order of summing
    np.testing.assert_allclose(f3, program(x)[0], rtol=1e-4, atol=1e-6)


def test_filters_are_those_of_the_first_layer_with_a_window(monkeypatch):
    text = 'net T { input 2@6x6\n bn\n max 2x2\n C1: conv 2@2x2 connect="X. .X"\n dense 3 }'
    net = convdsl.load_source(text)
    seen = []
    drawn = sheets.filters
    monkeypatch.setattr(sheets, "filters", lambda *a: seen.append(a) or drawn(*a))
    program = net.compile()
    assert inspection.filter_sheet(program, net.graph).startswith(b"\x89PNG")
    ((heading, weights),) = seen
    assert heading.startswith("C1.weight")
    np.testing.assert_array_equal(weights[:, 0], program.parameters["C1.weight"])


def test_without_filters_it_is_said():
    net = convdsl.load_source("net T { input 5\n dense 3 }")
    with pytest.raises(CompileError, match="E524"):
        inspection.filter_sheet(net.compile(), net.graph)
