"""Confusion matrices: every number in its place, readable for few classes and for many."""

import re

import numpy as np
import pytest
from drawings import texts

from convdsl.views.drawing import converted
from convdsl.views.drawing.confusion import confusion


def made(classes, count, seed=0, right=0.7):
    """Labels and predictions of which about that share are right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    others = (labels + random.integers(1, max(classes, 2), count)) % classes
    return labels, np.where(random.random(count) < right, labels, others)


def hovered(svg):
    """What the cells say when they are pointed at."""
    found = re.findall(r'<g class="cell">\n<title>(.*?) taken for (.*?): (\d+) of (\d+)</ti', svg)
    return {(row, column): (int(n), int(total)) for row, column, n, total in found}


@pytest.mark.parametrize("count", [2, 10, 100])
def test_every_pair_that_occurs_has_its_number(count):
    names = [f"class {i}" for i in range(count)]
    labels, predicted = made(count, 30 * count)
    expected = {}
    for label in range(count):
        of_class = predicted[labels == label]
        for other in np.unique(of_class).tolist():
            number = int((of_class == other).sum())
            expected[names[label], names[other]] = (number, len(of_class))
    svg = confusion(labels, predicted, names, "Title")
    assert hovered(svg) == expected
    written = texts(svg)
    assert all(written.count(name) == 2 for name in names)
    assert sum(t.isdigit() for t in written) >= len(expected)
    share = (labels == predicted).mean()
    assert f"{share:.2%} of {30 * count:,} examples are told right" in written
    sizes = [float(s) for s in re.findall(r'font-size="([\d.]+)"', svg)]
    assert min(sizes) >= 5


def test_of_very_many_classes_those_with_most_mistakes_are_shown():
    names = [f"class {i}" for i in range(1000)]
    labels, predicted = np.arange(20_000) % 1000, np.arange(20_000) % 1000
    poor = np.arange(300, 400)
    predicted[np.isin(labels, poor) & (np.arange(20_000) >= 15_000)] = 301
    predicted[np.isin(labels, poor) & (np.arange(20_000) < 1_000)] = 7
    svg = confusion(labels, predicted, names, "Title")
    cells = hovered(svg)
    assert {row for row, _ in cells} == {names[i] for i in poor}
    assert cells["class 300", "others"] == (1, 20)
    assert cells["class 300", "class 301"] == (5, 20)
    assert cells["class 300", "class 300"] == (14, 20)
    assert any("shown are the 100 of 1,000 classes" in t for t in texts(svg))


def test_one_class_and_classes_without_examples():
    svg = confusion(np.zeros(4, int), np.zeros(4, int), ["only"], "Title")
    assert hovered(svg) == {("only", "only"): (4, 4)}
    svg = confusion(np.array([0]), np.array([1]), ["a", "b"], "Title")
    assert [t for t in texts(svg) if t.endswith("%") or t == "–"] == ["0.0%", "–"]


def test_long_names_are_turned_and_shortened_and_it_becomes_a_picture():
    names = ["a class whose name goes on and on and on and on", "b & <c>"]
    svg = confusion(*made(2, 50), names, "Title")
    assert svg.count("rotate(-90 ") == 2
    assert any(t.startswith("a class whose") and t.endswith("…") for t in texts(svg))
    assert "b & <c>" in texts(svg)
    assert converted(svg, "png").startswith(b"\x89PNG")
    assert 'transform="rotate' not in confusion(*made(2, 50), ["0", "1"], "Title")
