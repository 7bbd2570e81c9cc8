"""Contact sheets of mistakes: images as they are, series as plots, volumes by their middle."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convdsl.views.drawing.mistakes import MARGIN, SERIES, SIDE, Mistake, contact_sheet
from convdsl.views.drawing.sheets import TITLE

TOP = MARGIN + TITLE + 14
"""Where the tiles of the first line begin."""


def page(*values, said="cat", true="dog"):
    made = [Mistake(v, said, true, 0.5) for v in values]
    return np.asarray(Image.open(BytesIO(contact_sheet("Title", made))))


def test_images_are_grey_or_in_colour():
    grey, colour = np.zeros((1, 4, 4)), np.zeros((3, 4, 4))
    grey[0, :2], colour[0] = 1, 1
    shown = page(grey, colour)
    tile = shown[TOP : TOP + SIDE, MARGIN : MARGIN + SIDE]
    assert (tile[: SIDE // 2] == 255).all()
    assert (tile[SIDE // 2 :] == 0).all()
    second = shown[TOP : TOP + SIDE, MARGIN + SIDE + 14 : MARGIN + 2 * SIDE + 14]
    assert (second == [255, 0, 0]).all()


def test_of_volumes_the_middle_slice_is_shown():
    volume = np.zeros((1, 5, 4, 4))
    volume[0, 2] = 1
    tile = page(volume)[TOP : TOP + SIDE, MARGIN : MARGIN + SIDE]
    assert (tile == 255).all()


@pytest.mark.parametrize("shape", [(50,), (1, 50), (3, 500)])
def test_series_and_vectors_are_plots(shape):
    values = np.broadcast_to(np.linspace(0, 1, shape[-1]), shape)
    tile = page(values)[TOP : TOP + SERIES[1], MARGIN : MARGIN + SERIES[0]]
    inked = (tile != 0xEE).any(axis=-1)
    assert inked.any(axis=0).all()
    heights = inked.argmax(axis=0)
    assert heights[0] > 0.9 * SERIES[1]
    assert heights[-1] == 0


def test_names_are_cut_and_lines_have_six():
    long = "a name that is far longer than an image is wide"
    few, many = page(*[np.zeros((1, 2, 2))] * 6), page(*[np.zeros((1, 2, 2))] * 7, true=long)
    assert few.shape[1] == many.shape[1]
    assert many.shape[0] > few.shape[0] + SIDE
    assert (many[:, -MARGIN:] == 255).all()


def test_a_sheet_without_mistakes_has_its_title():
    shown = page()
    assert (shown[MARGIN : MARGIN + TITLE] < 128).any()
