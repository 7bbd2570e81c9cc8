"""Every augmentation keeps what its paper promises, and depends on seed, epoch and image alone."""

import re

import numpy as np
import pytest

from convdsl.diagnostics import CompileError
from convdsl.runtime.inputs import InputSpec, View
from convdsl.training.augment import (
    AUGMENTATIONS,
    Affine,
    Colour,
    Crop,
    Cutout,
    Draws,
    Flip,
    Frame,
    Mixup,
    PixelMean,
    ScaleJitter,
    fit,
    input_mean,
    learned,
    make,
    restored,
)
from convdsl.training.data import from_arrays
from convdsl.training.resampling import resampled

COLOUR = InputSpec("image", (3, 9, 11), {"range": (-1.0, 1.0)})
FRAME = Frame.of(COLOUR)
BLACK = -1.0
N = 400
INDICES = np.random.default_rng(1).permutation(10_000)[:N]


def draws(epoch=0, indices=INDICES, seed=5) -> Draws:
    return Draws(seed, epoch, 0, indices)


def images(count=N, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, 9, 11)).astype(np.float32)


def fitted(kind):
    data = from_arrays(images(), np.arange(N) % 10, COLOUR, 10)
    (made,) = fit([kind()], data, np.arange(N))
    return made


def test_draws_are_even_and_independent():
    u = draws().uniform(50)
    assert u.shape == (N, 50)
    assert (u >= 0).all()
    assert (u < 1).all()
    # Deviations of a mean of 20,000 even draws, and of a correlation of 400.
    assert u.mean() == pytest.approx(0.5, abs=5 * 0.29 / 20_000**0.5)
    assert np.abs(np.corrcoef(u.T) - np.eye(50)).max() < 5 / N**0.5
    other = Draws(5, 0, 1, INDICES).uniform(50)
    assert np.abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) < 5 / 20_000**0.5
    z = draws().normal(50)
    assert (z.mean(), z.std()) == pytest.approx((0, 1), abs=0.04)


MOVING = [Crop(pad=3), Flip(), Affine(), fitted(Colour), Cutout(size=4)]


@pytest.mark.parametrize("augmentation", MOVING, ids=lambda a: a.name)
def test_an_image_is_varied_the_same_whatever_batch_it_is_in(augmentation):
    whole = augmentation.apply(images(), draws(), FRAME)
    part = augmentation.apply(images()[17:25], draws(indices=INDICES[17:25]), FRAME)
    assert (whole[17:25] == part).all()
    for other in (draws(epoch=1), draws(seed=6)):
        assert (augmentation.apply(images(), other, FRAME) != whole).any()


@pytest.mark.parametrize("augmentation", MOVING, ids=lambda a: a.name)
def test_shape_and_type_stay(augmentation):
    varied = augmentation.apply(images(), draws(), FRAME)
    assert (varied.shape, varied.dtype) == (images().shape, np.float32)
    assert (varied != images()).any()


def test_a_crop_moves_by_up_to_the_padding_and_fills_with_black():
    x = images()
    moved = Crop(pad=2).apply(x.copy(), draws(), FRAME)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=BLACK)
    seen = set()
    for image, source in zip(moved, padded, strict=True):
        places = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if (source[:, i : i + 9, j : j + 11] == image).all()
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 25


@pytest.mark.parametrize("shape", [(2, 30), (1, 5, 6, 7)], ids=["1D", "3D"])
def test_crops_of_series_and_volumes(shape):
    x = np.random.default_rng(0).uniform(1, 2, (50, *shape)).astype(np.float32)
    frame = Frame.of(InputSpec("x", shape))
    moved = Crop(pad=6).apply(x, draws(indices=INDICES[:50]), frame)
    kept = moved != 0
    assert 0 < kept.mean() < 0.9
    assert np.isin(moved[kept], x).all()


def test_a_crop_of_what_the_input_declares_is_anywhere():
    views = Crop().views([View(resize=300)] * N, draws())
    places = np.array([v.at for v in views])
    assert {v.resize for v in views} == {300}
    assert places.min() < 0.02
    assert places.max() > 0.98


def test_flips_are_as_frequent_as_they_say():
    x = images()
    flipped = Flip(p=0.25).apply(x.copy(), draws(), FRAME)
    turned = (flipped == x[..., ::-1]).all(axis=(1, 2, 3))
    assert ((flipped == x).all(axis=(1, 2, 3)) ^ turned).all()
    assert turned.mean() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / N) ** 0.5)


def test_scales_are_drawn_evenly_with_both_ends():
    views = ScaleJitter(low=20, high=24).views([View()] * N, draws())
    counts = np.bincount([v.resize for v in views])
    assert set(np.flatnonzero(counts)) == set(range(20, 25))
    assert counts[20:].min() > N / 5 / 2


def test_affine_maps_at_rest_change_nothing_and_whole_pixels_move_exactly():
    x = images()
    still = Affine(translate=0, scale=0, squeeze=0, shear=0)
    np.testing.assert_allclose(still.apply(x.copy(), draws(), FRAME), x, atol=1e-6)
    down_two = np.tile(np.array([[1, 0, -2], [0, 1, 0.0]]), (N, 1, 1))
    moved = resampled(x, down_two, FRAME.black)
    np.testing.assert_allclose(moved[:, :, 2:], x[:, :, :-2], atol=1e-6)
    assert (moved[:, :, :2] == BLACK).all()


def disc(count):
    """A white disc on black: its mass, middle and moments tell how it was distorted."""
    y, x = np.mgrid[-24:25, -24:25]
    one = np.clip(10.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    return np.tile(one, (count, 1, 1, 1))


GREY = InputSpec("image", (1, 49, 49))


def moments(x):
    y, z = np.mgrid[-24:25, -24:25]
    mass = x.sum(axis=(1, 2, 3))
    along = [(x[:, 0] * a).sum(axis=(1, 2)) / mass for a in (y, z, y * y, z * z, y * z)]
    return mass, *along


@pytest.mark.parametrize("name", ["translate", "scale", "squeeze", "shear"])
def test_affine_distortions_are_the_ones_named(name):
    """Measured on a disc by its mass and moments: each changes its own and leaves the others."""
    amounts = dict.fromkeys(("translate", "scale", "squeeze", "shear"), 0.0)
    amounts[name] = {"translate": 3.0, "scale": 0.3, "squeeze": 0.3, "shear": 0.4}[name]
    x = disc(N)
    (mass0, *_, round0, _, _) = moments(x)
    varied = Affine(**amounts).apply(x, draws(), Frame.of(GREY))
    mass, y, z, yy, zz, yz = moments(varied)
    moved = np.maximum(np.abs(y), np.abs(z))
    area = mass / mass0
    tall = yy - y * y - (zz - z * z)
    slant = (yz - y * z) / round0
    change = {"translate": moved, "scale": np.abs(area - 1), "squeeze": np.abs(tall) / round0}
    change["shear"] = np.abs(slant)
    expected = {"translate": 3.0, "scale": 1.3**2 - 1, "squeeze": 1.3**2 - 1.3**-2, "shear": 0.4}
    assert change[name].max() == pytest.approx(expected[name], rel=0.05)
    alone = {"squeeze": "shear", "shear": "scale"}.get(name, "squeeze")
    assert change[alone].max() < 0.02
    assert (change["translate"].max() < 0.02) == (name != "translate")


def test_colours_move_along_the_principal_components():
    """All pixels of an image alike, with the deviations of the components times sigma."""
    random = np.random.default_rng(0)
    main = np.array([1, 2, 2]) / 3
    grey = 0.5 + 0.2 * random.standard_normal((N, 1, 9, 11)) * main[:, None, None]
    x = (2 * (grey + 0.01 * random.standard_normal((N, 3, 9, 11))) - 1).astype(np.float32)
    (made,) = fit([Colour(sigma=0.5)], from_arrays(x, np.zeros(N, int), COLOUR, 1), np.arange(N))
    shift = made.apply(x.copy(), draws(), FRAME) - x
    assert np.ptp(shift, axis=(2, 3)).max() < 1e-6
    shift = shift[:, :, 0, 0] / 2  # from -1..1 to 0..1
    assert (shift @ main).std() == pytest.approx(0.5 * 0.2**2, rel=0.2)
    across = shift - np.outer(shift @ main, main)
    assert np.abs(across).max() < 0.05 * np.abs(shift).max()


def test_the_pixel_mean_is_that_of_the_training_images():
    x = images()
    data = from_arrays(x, np.zeros(N, int), COLOUR, 1)
    (made,) = fit([PixelMean()], data, np.arange(100))
    np.testing.assert_allclose(
        made.apply(x.copy(), draws(), FRAME), x - x[:100].mean(axis=0), atol=1e-6
    )
    (again,) = restored([PixelMean()], learned([made]))
    assert (again.mean == made.mean).all()
    assert input_mean([Flip()]) is None
    assert (input_mean([Flip(), made]) == made.mean).all()


def test_cutout_cuts_one_square_which_may_reach_over_the_edge():
    x = images() + 3
    cut = Cutout(size=4).apply(x.copy(), draws(), FRAME) == 0
    assert (cut.all(axis=1) == cut.any(axis=1)).all()
    sizes = cut[:, 0].sum(axis=(1, 2))
    assert sizes.max() == 16
    assert 4 <= sizes.min() < 16
    rows, columns = cut[:, 0].any(axis=2).sum(axis=1), cut[:, 0].any(axis=1).sum(axis=1)
    assert (rows * columns == sizes).all()


def test_mixup_mixes_images_and_targets_alike():
    x, shares = images(), np.eye(N, dtype=np.float32)
    mixed, target = Mixup(alpha=1.0).mix(x, shares, draws())
    np.testing.assert_allclose(target.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(mixed, np.tensordot(target, x, 1), atol=1e-4)
    # Beta(1, 1) is even.
    own = np.diag(target)[np.count_nonzero(target, axis=1) == 2]
    assert np.quantile(own, [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.1)


# -- from a recipe ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_names_its_paper_and_its_parameters(name):
    kind = AUGMENTATIONS[name]
    assert any(year in kind.__doc__ for year in map(str, range(1998, 2030)))
    for field in kind.__dataclass_fields__.values():
        if field.metadata:
            assert f"``{field.name}``" in kind.__doc__
            assert field.metadata["unit"]


def test_a_recipe_makes_augmentations():
    assert make("crop", {"pad": 4}, COLOUR) == Crop(pad=4)
    assert make("flip", {"p": 1}, COLOUR) == Flip(p=1.0)
    assert str(make("crop", {"pad": 4}, COLOUR)) == "crop(pad=4)"
    declared = InputSpec("image", (3, 224, 224), {"resize": 256, "crop": 224})
    assert make("scale_jitter", {}, declared) == ScaleJitter(256, 512)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("flop", {}, "no augmentation called `flop`"),
        ("crop", {}, "needs `pad=`"),
        ("crop", {"pad": 2.5}, "a whole number from 0 to 512 .pixels., not 2.5"),
        ("crop", {"size": 2}, "no parameter `size`"),
        ("flip", {"p": 1.5}, "a number from 0 to 1 .probability., not 1.5"),
        ("flip", {"p": True}, "not True"),
        ("flip", {"p": float("nan")}, "not nan"),
        ("pixel_mean", {"mean": 1}, "its parameters are none"),
        ("scale_jitter", {}, "declares a `crop`"),
    ],
)
def test_what_is_wrong_with_a_recipe_is_told(name, given, told):
    with pytest.raises(CompileError) as error:
        make(name, given, COLOUR)
    assert error.value.diagnostics[0].code == "E564"
    told_all = "\n".join([error.value.diagnostics[0].message, *error.value.diagnostics[0].help])
    assert re.search(told, told_all)


@pytest.mark.parametrize("name", ["affine", "crop", "flip", "colour", "cutout"])
def test_vectors_are_no_images(name):
    with pytest.raises(CompileError, match="E564"):
        make(name, {"pad": 1} if name == "crop" else {}, InputSpec("x", (1,)))
