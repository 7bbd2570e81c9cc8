"""Tables of what was computed."""

import numpy as np
import pytest

from convdsl.views import results


def test_probabilities_are_softmax_and_stable():
    found = results.probabilities(np.array([[1000.0, 1000.0, -1000.0]], np.float32))
    assert found == pytest.approx(np.array([[0.5, 0.5, 0.0]]))


def test_probabilities_are_not_taken_twice():
    given = np.array([[0.25, 0.75]], np.float32)
    assert (results.probabilities(given) == given).all()


def test_one_image_has_a_line_per_class():
    text = results.predictions(np.array([[0.0, 3.0, 1.0]]), ("cat", "dog", "cow"), top=2)
    assert text.splitlines()[2:] == ["dog         84.38%", "cow         11.42%"]


def test_several_images_have_a_line_each_and_an_accuracy():
    logits = np.array([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0]])
    text = results.predictions(logits, true=np.array([0, 1, 1]), top=1)
    assert "    1  1      0                99.33%" in text
    assert text.endswith("2 of 3 right: accuracy 66.7%")


def test_long_tables_are_cut_short():
    text = results.predictions(np.eye(50), top=1)
    assert text.endswith("and 10 more images")


def test_gradients_have_norms():
    text = results.gradients(0.5, {"a.weight": np.array([[3.0, -4.0]])})
    assert text.splitlines()[0] == "loss 0.500000"
    assert text.splitlines()[-1].split() == ["a.weight", "1x2", "5", "4"]


def test_a_profile_has_shares_and_a_total():
    lines = results.profile([("a", "k", 0.003), ("b", "k", 0.001)], 4).splitlines()
    assert lines[2].split() == ["a", "k", "3", "ms", "75.0%"]
    assert lines[5].split() == ["total", "4", "ms"]
    assert lines[-1] == "median times, 1 ms for each of 4"


def test_maps_are_told_by_their_spread():
    assert results.values({"y": np.array([[1.0, 3.0]])}).splitlines()[-1].split() == [
        "y", "1x2", "1", "2", "3",
    ]  # fmt: skip
