"""Data of every kind is read as it was written, on demand, and what is wrong with it is told."""

import gc
import tracemalloc

import numpy as np
import pytest
from datasets import digits, idx_bytes, idx_files, image_folder
from PIL import Image

from convdsl import load_source
from convdsl.diagnostics import CompileError
from convdsl.runtime import inputs
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import has_test_part, open_data, split

DIGIT = InputSpec("image", (1, 32, 32), {"pad": 2, "range": (-0.1, 1.175)})
PHOTO = InputSpec("image", (3, 6, 8))


def codes(error) -> list[str]:
    return [d.code for d in error.value.diagnostics]


# -- idx -------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_idx_images_are_what_run_makes_of_them(tmp_path, packed):
    images, labels = digits(30)
    data = open_data(idx_files(tmp_path / "d", images, labels, packed=packed), DIGIT, 10)
    assert len(data) == 30
    assert (data.labels == labels).all()
    assert data.classes == tuple("0123456789")
    expected = inputs.from_image(Image.fromarray(images[7]), DIGIT)
    assert (data.read([3, 7])[1] == expected).all()


def test_idx_images_are_resized_and_coloured_where_the_input_says_so(tmp_path):
    images, labels = digits(5)
    spec = InputSpec("image", (3, 16, 16), {"resize": 16, "order": "bgr", "mean": (0.5, 0, 0)})
    data = open_data(idx_files(tmp_path / "d", images, labels), spec, 10)
    expected = inputs.from_image(Image.fromarray(images[4]), spec)
    assert (data.read([4])[0] == expected).all()


def test_idx_series_and_volumes(tmp_path):
    volumes = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
    spec = InputSpec("x", (1, 4, 5, 3), {"mean": (0.5,)})
    data = open_data(idx_files(tmp_path / "v", volumes, np.arange(6) % 2), spec, 2)
    np.testing.assert_allclose(data.read([2])[0, 0], volumes[2] / 255 - 0.5, atol=1e-6)
    series = np.random.default_rng(0).standard_normal((6, 50)).astype(np.float32)
    data = open_data(idx_files(tmp_path / "s", series, np.arange(6) % 2), InputSpec("x", (1, 50)))
    assert (data.read([5])[0, 0] == series[5]).all()
    assert data.classes == ("0", "1")


def test_the_test_part_is_apart(tmp_path):
    images, labels = digits(20)
    idx_files(tmp_path, images[:15], labels[:15])
    assert not has_test_part(tmp_path)
    idx_files(tmp_path, images[15:], labels[15:], part="t10k", packed=True)
    assert has_test_part(tmp_path)
    assert (open_data(tmp_path, DIGIT, 10, "test").labels == labels[15:]).all()
    assert len(open_data(tmp_path, DIGIT, 10)) == 15


def test_damaged_idx_files_are_told(tmp_path):
    images, labels = digits(10)
    whole = idx_bytes(images)
    wrong = {
        "ends within its head": whole[:6],
        "does not begin as one": b"\x89PNG" + whole,
        "announces 7,840 bytes, 7,839 follow": whole[:-1],
    }
    for told, content in wrong.items():
        folder = idx_files(tmp_path, images, labels)
        (folder / "train-images-idx3-ubyte").write_bytes(content)
        with pytest.raises(CompileError, match=told) as error:
            open_data(folder, DIGIT, 10)
        assert codes(error) == ["E560"]
    packed = idx_files(tmp_path / "gz", images, labels, packed=True)
    path = packed / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CompileError, match="E560"):
        open_data(packed, DIGIT, 10)


def test_two_data_sets_in_a_folder_are_told(tmp_path):
    images, labels = digits(10)
    idx_files(tmp_path, images, labels)
    (tmp_path / "emnist-train-images-idx3-ubyte").write_bytes(idx_bytes(images))
    with pytest.raises(CompileError, match="two data sets"):
        open_data(tmp_path, DIGIT, 10)


def test_idx_files_are_not_held_in_memory(tmp_path):
    """The images are 30 MB, and reading all of them takes what the batches take."""
    images, labels = np.zeros((3000, 100, 100), np.uint8), np.zeros(3000, np.uint8)
    for packed in (False, True):
        folder = idx_files(tmp_path / str(packed), images, labels, packed=packed)
        gc.collect()
        tracemalloc.start()
        data = open_data(folder, InputSpec("image", (1, 100, 100)), 10)
        for start in range(0, 3000, 10):
            data.read(np.arange(start, start + 10))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8e6


# -- arrays ----------------------------------------------------------------------------------


def test_arrays_are_taken_as_they_are(tmp_path):
    x = np.random.default_rng(0).standard_normal((6, 2, 40))
    y = np.array([0, 1, 2, 0, 1, 2])
    spec = InputSpec("x", (2, 40), {"mean": (5.0,)})
    np.savez(tmp_path / "a.npz", x=x, y=y, x_test=x[:2], y_test=y[:2])
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    for path in (tmp_path / "a.npz", tmp_path):
        data = open_data(path, spec, 3)
        assert data.read([4, 0]).dtype == np.float32
        assert (data.read([4, 0]) == x[[4, 0]].astype(np.float32)).all()
        assert data.labels.tolist() == y.tolist()
    assert has_test_part(tmp_path / "a.npz")
    assert len(open_data(tmp_path / "a.npz", spec, 3, "test")) == 2
    assert not has_test_part(tmp_path)


def test_what_is_not_finite_is_told_when_it_is_read(tmp_path):
    x = np.zeros((4, 3))
    x[2, 1] = np.nan
    np.savez(tmp_path / "a.npz", x=x, y=np.zeros(4, int))
    data = open_data(tmp_path / "a.npz", InputSpec("x", (3,)), 1)
    data.read([0, 1])
    with pytest.raises(CompileError, match="example 2 holds NaN"):
        data.read([0, 2])


@pytest.mark.parametrize(
    ("arrays", "code", "told"),
    [
        ({"x": np.zeros((4, 3))}, "E560", "no array `y`; its arrays are x"),
        ({"x": np.zeros((4, 5)), "y": np.zeros(4, int)}, "E561", r"shape \[4, 5\].*\[N, 3\]"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(3, int)}, "E561", "3 labels for 4 examples"),
        ({"x": np.zeros((4, 3)), "y": np.full(4, 10)}, "E561", "classes are 0 to 9"),
        ({"x": np.zeros((4, 3)), "y": np.full(4, -1)}, "E561", "labels from -1"),
        ({"x": np.zeros((4, 3)), "y": np.zeros(4)}, "E561", "whole numbers"),
        ({"x": np.full((4, 3), "a"), "y": np.zeros(4, int)}, "E561", "takes numbers"),
        ({"x": np.array([{}]), "y": np.zeros(1, int)}, "E560", "cannot be read"),
        ({"x": np.zeros((0, 3)), "y": np.zeros(0, int)}, "E560", "has no examples"),
    ],
)
def test_wrong_archives_are_told(tmp_path, arrays, code, told):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(CompileError, match=told) as error:
        open_data(tmp_path / "a.npz", InputSpec("x", (3,)), 10)
    assert codes(error) == [code]


def test_what_is_no_data_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("?")
    (tmp_path / "a.npz").write_text("?")
    (tmp_path / "empty").mkdir()
    for name in ("a.txt", "a.npz", "missing", "empty"):
        with pytest.raises(CompileError) as error:
            open_data(tmp_path / name, DIGIT, 10)
        assert codes(error) == ["E560"]


# -- folders ---------------------------------------------------------------------------------


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    data = open_data(image_folder(tmp_path / "d", 3, ("dog", "cat")), PHOTO, 2)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    np.testing.assert_allclose(data.read([1])[0, :, 0, 0] * 255, [40, 100, 200], atol=1e-4)


def test_declared_labels_order_the_folders(tmp_path):
    spec = InputSpec("image", (3, 6, 8), labels=("wolf", "dog", "cat"))
    data = open_data(image_folder(tmp_path / "d", 2), spec, 3)
    assert data.classes == ("wolf", "dog", "cat")
    assert sorted(data.labels.tolist()) == [1, 1, 2, 2]


def test_folders_of_parts(tmp_path):
    image_folder(tmp_path / "d" / "train", 3)
    image_folder(tmp_path / "d" / "test", 2)
    assert has_test_part(tmp_path / "d")
    assert len(open_data(tmp_path / "d", PHOTO, 2)) == 6
    assert len(open_data(tmp_path / "d", PHOTO, 2, "test")) == 4


def test_damaged_images_are_named_and_skipped(tmp_path):
    folder = image_folder(tmp_path / "d", 30)
    cut = folder / "cat" / "004.png"
    cut.write_bytes(cut.read_bytes()[:-6])
    (folder / "dog" / "005.png").write_bytes(b"no image")
    (folder / "dog" / "notes.txt").write_text("not an image, and not meant to be one")
    data = open_data(folder, PHOTO, 2)
    assert len(data) == 58
    assert [name for name, _ in data.skipped] == [str(cut), str(folder / "dog" / "005.png")]
    assert "ends too early" in data.skipped[0][1]


def test_too_many_damaged_images_are_an_error(tmp_path):
    folder = image_folder(tmp_path / "d", 10)
    for i in range(2):
        (folder / "cat" / f"{i:03}.png").write_bytes(b"")
    with pytest.raises(CompileError, match="2 of 20 images cannot be read"):
        open_data(folder, PHOTO, 2)


def test_damage_found_while_decoding_has_a_stand_in(tmp_path):
    """Always the same one: the next whole image of the class."""
    folder = image_folder(tmp_path / "d", 30)
    data = open_data(folder, PHOTO, 2)
    path = folder / "cat" / "029.png"
    content = bytearray(path.read_bytes())
    content[45:55] = b"\xff" * 10  # within the compressed pixels; head and end are whole
    path.write_bytes(bytes(content))
    for _ in range(2):
        assert (data.read([29]) == data.read([0])).all()
        assert [name for name, _ in data.skipped] == [str(path)]


def test_an_image_that_is_gone_stops_the_reading_and_can_come_back(tmp_path):
    folder = image_folder(tmp_path / "d", 3)
    data = open_data(folder, PHOTO, 2)
    before = data.read([4])
    path = folder / "dog" / "001.png"
    path.rename(tmp_path / "away.png")
    with pytest.raises(CompileError, match=r"dog/001\.png was there when training began") as error:
        data.read([4])
    assert codes(error) == ["E563"]
    assert data.skipped == []
    (tmp_path / "away.png").rename(path)
    assert (data.read([4]) == before).all()


def test_folders_that_do_not_fit_are_told(tmp_path):
    folder = image_folder(tmp_path / "d", 3)
    with pytest.raises(CompileError, match="has 2 folders of images, the network has 10 outputs"):
        open_data(folder, PHOTO, 10)
    with pytest.raises(CompileError, match=r"is 6x8, `image` .* takes 32x32"):
        open_data(folder, InputSpec("image", (3, 32, 32)), 2)
    (folder / "mouse").mkdir()
    with pytest.raises(CompileError, match="mouse has no images"):
        open_data(folder, PHOTO, 3)


def test_an_input_is_that_of_a_network(tmp_path):
    net = load_source("cnn 1\nnet A {\n input 3@4x4 resize=5 crop=4 std=0.5\n dense 2\n}\n")
    (variable,) = net.graph.inputs
    data = open_data(image_folder(tmp_path / "d", 3), InputSpec.of(variable), 2)
    np.testing.assert_allclose(data.read([0])[0, :, 0, 0] * 127.5, [0, 100, 200], atol=1e-3)


# -- splitting -------------------------------------------------------------------------------


def test_a_split_is_stratified_and_a_function_of_its_seed(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((101, 1)), y=np.array([0] * 80 + [1] * 20 + [2]))
    data = open_data(tmp_path / "a.npz", InputSpec("x", (1,)), 3)
    train, validation = split(data, 0.1, seed=3)
    assert sorted([*train, *validation]) == list(range(101))
    assert np.bincount(data.labels[validation]).tolist() == [8, 2]
    assert (split(data, 0.1, seed=3)[1] == validation).all()
    assert (split(data, 0.1, seed=4)[1] != validation).any()
    assert len(split(data, 0.0, seed=3)[1]) == 0
