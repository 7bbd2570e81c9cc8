"""Inputs: images through their declared preprocessing, arrays as they are, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convdsl.diagnostics import CompileError
from convdsl.runtime import inputs
from convdsl.runtime.inputs import InputSpec

GREY = InputSpec("image", (1, 4, 4))


def grey(values, mode="L") -> Image.Image:
    return Image.fromarray(np.asarray(values, np.uint8), mode)


GRADIENT = np.arange(16).reshape(4, 4) * 17


def test_black_and_white_become_zero_and_one():
    array = inputs.from_image(grey(GRADIENT), GREY)
    assert array.dtype == np.float32
    assert array.shape == (1, 4, 4)
    assert array[0] == pytest.approx(GRADIENT / 255)


def spec(shape=(1, 4, 4), **preprocessing) -> InputSpec:
    return InputSpec("image", shape, preprocessing)


def test_range_maps_black_and_white_to_its_ends():
    """LeNet-5's background is -0.1 and its foreground 1.175."""
    array = inputs.from_image(grey(GRADIENT), spec(range=(-0.1, 1.175)))
    assert (array.min(), array.max()) == pytest.approx((-0.1, 1.175))


def test_padding_is_black_after_inversion_and_before_the_range():
    array = inputs.from_image(
        grey(np.full((4, 4), 255)), spec((1, 8, 8), pad=2, invert=True, range=(-1.0, 1.0))
    )
    assert (array == -1).all()
    array = inputs.from_image(grey(np.zeros((4, 4))), spec((1, 8, 6), pad=(2, 1), invert=True))
    assert array.sum() == 16


def test_mean_and_deviation_are_per_channel_in_the_order_declared():
    rgb = Image.new("RGB", (2, 2), (255, 0, 51))
    array = inputs.from_image(
        rgb, spec((3, 2, 2), order="bgr", mean=(0.2, 0.0, 0.5), std=(1.0, 1.0, 0.5))
    )
    assert array[:, 0, 0] == pytest.approx([0, 0, 1], abs=1e-6)


def test_resize_takes_the_shorter_side_and_crop_the_middle():
    wide = Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (12, 1)))  # 12x24
    array = inputs.from_image(wide, spec((1, 4, 4), resize=6, crop=4))
    assert array.shape == (1, 4, 4)
    middle = inputs.from_image(wide, spec((1, 6, 12), resize=6))[:, 1:5, 4:8]
    assert (array == middle).all()
    assert inputs.from_image(wide, spec((1, 5, 7), resize=(5, 7))).shape == (1, 5, 7)


def test_colours_become_grey_and_grey_colours():
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    assert inputs.from_image(red, GREY).max() == pytest.approx(0.298, abs=2e-3)
    assert inputs.from_image(grey(GRADIENT), spec((3, 4, 4))).shape == (3, 4, 4)


def test_what_is_transparent_is_white():
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert (inputs.from_image(clear, GREY) == 1).all()


def test_sixteen_bits_are_not_cut_off():
    deep = Image.fromarray(np.full((4, 4), 0x8000, np.uint16))
    assert inputs.from_image(deep, GREY) == pytest.approx(np.full((1, 4, 4), 0.5), abs=0.01)


def save(path: Path, array) -> Path:
    np.save(path, array)
    return path


def test_arrays_are_taken_as_they_are_with_or_without_a_batch(tmp_path):
    array = np.random.default_rng(0).standard_normal((3, 1, 4, 4))
    (many,) = inputs.read(save(tmp_path / "a.npy", array), [spec(range=(-5.0, 5.0))])
    assert many.dtype == np.float32
    assert many == pytest.approx(array, rel=1e-6)
    (one,) = inputs.read(save(tmp_path / "b.npy", array[0]), [GREY])
    assert one.shape == (1, 1, 4, 4)


def test_several_inputs_come_from_one_archive(tmp_path):
    np.savez(tmp_path / "x.npz", b=np.zeros((2, 3)), a=np.ones((2, 1, 4, 4)))
    specs = [InputSpec("a", (1, 4, 4)), InputSpec("b", (3,))]
    a, b = inputs.read(tmp_path / "x.npz", specs)
    assert (a.mean(), b.mean()) == (1, 0)


def test_the_only_array_of_an_archive_needs_no_name(tmp_path):
    np.savez(tmp_path / "x.npz", whatever=np.ones((1, 4, 4)))
    assert inputs.read(tmp_path / "x.npz", [GREY])[0].shape == (1, 1, 4, 4)


def wrong_files(folder: Path):
    random = np.random.default_rng(0)
    (folder / "garbage.png").write_bytes(random.bytes(500))
    (folder / "garbage.npy").write_bytes(b"\x93NUMPY\x01\x00" + random.bytes(60))
    (folder / "empty.npy").touch()
    (folder / "cut.png").write_bytes(png(folder)[:60])
    np.save(folder / "objects.npy", np.array([{}], object), allow_pickle=True)
    np.save(folder / "text.npy", np.array(["a"]))
    np.save(folder / "rank.npy", np.zeros((4, 4)))
    np.save(folder / "none.npy", np.zeros((0, 1, 4, 4)))
    np.save(folder / "nan.npy", np.full((1, 4, 4), np.nan))
    np.savez(folder / "names.npz", a=np.zeros(3), b=np.zeros(3))
    grey(np.zeros((5, 7))).save(folder / "size.png")
    return folder


def png(folder: Path) -> bytes:
    grey(GRADIENT).save(folder / "right.png")
    return (folder / "right.png").read_bytes()


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("missing.png", "E530", "there is no file"),
        ("", "E530", "is a directory"),
        ("garbage.png", "E530", "not an image"),
        ("cut.png", "E530", "cannot be read as an image"),
        ("garbage.npy", "E530", "cannot be read as an array"),
        ("empty.npy", "E530", "cannot be read as an array"),
        ("objects.npy", "E530", "Python objects"),
        ("text.npy", "E531", "takes numbers"),
        ("rank.npy", "E531", r"has shape \[4, 4\], `image` \(1@4x4\) takes \[N, 1, 4, 4\]"),
        ("none.npy", "E531", r"has shape \[0, 1, 4, 4\]"),
        ("nan.npy", "E532", r"holds nan at \[0, 0, 0, 0\]"),
        ("names.npz", "E531", "no array `image`; its arrays are a, b"),
        ("size.png", "E531", "is 5x7, `image` .* takes 4x4"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path, name, code, told):
    with pytest.raises(CompileError, match=told) as caught:
        inputs.read(wrong_files(tmp_path) / name, [GREY])
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_images_are_for_networks_that_take_images():
    with pytest.raises(CompileError, match="E531"):
        inputs.from_image(grey(GRADIENT), InputSpec("x", (16,)))
    with pytest.raises(CompileError, match="smaller than the 5x5 cut out of it"):
        inputs.from_image(grey(GRADIENT), spec((1, 5, 5), crop=5))


def test_digits_fit_networks_for_them_and_no_others():
    images, labels = inputs.digits(spec((1, 32, 32), pad=2))
    assert images.shape == (40, 1, 32, 32)
    assert labels[:10].tolist() == list(range(10))
    assert inputs.digits(spec((1, 32, 32))) is None
    assert inputs.digits(spec((3, 28, 28))) is None
    assert inputs.digits(InputSpec("x", (784,))) is None


def test_random_inputs_are_seeded():
    (a,), (b,), (c,) = (inputs.random([GREY], 2, seed) for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_batches_cover_every_image_once(count):
    x = np.arange(count, dtype=np.float32)[:, None]

    def double(batch):
        assert batch.shape == (3, 1)
        return 2 * batch

    (y,) = inputs.in_batches(double, [x], 3)
    assert (y == 2 * x).all()
