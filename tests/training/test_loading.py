"""Batches come in one order whatever prepares them, and failures reach the caller."""

import threading
import time

import numpy as np
import pytest
from datasets import digits, idx_files, image_folder

from convdsl import load_source
from convdsl.diagnostics import CompileError
from convdsl.runtime.inputs import InputSpec
from convdsl.training.augment import Affine, Crop, Cutout, Flip, Mixup, ScaleJitter
from convdsl.training.data import from_arrays, open_data
from convdsl.training.loading import Shard, batches, evaluation_batches, order

DIGIT = InputSpec("image", (1, 32, 32), {"pad": 2})
SOME = (Affine(), Flip(), Cutout(size=6))


@pytest.fixture
def data(tmp_path):
    images, labels = digits(50)
    return open_data(idx_files(tmp_path / "digits", images, labels), DIGIT, 10)


def same(left, right) -> bool:
    left, right = list(left), list(right)
    return len(left) == len(right) > 0 and all(
        (a == b).all() for pair in zip(left, right, strict=True) for a, b in zip(*pair, strict=True)
    )


def test_an_epoch_sees_every_example_once_but_for_the_last_short_batch(data):
    by_image = {data.read([i]).tobytes(): i for i in range(50)}
    seen = []
    for x, target in batches(data, range(5, 50), 8, seed=1, epoch=2):
        assert (x.shape, x.dtype) == ((8, 1, 32, 32), np.float32)
        assert target.dtype == np.int64
        found = [by_image[image[None].tobytes()] for image in x]
        assert (data.labels[found] == target).all()
        seen += found
    assert seen == order(range(5, 50), 1, 2)[:40].tolist()
    assert len(set(seen)) == 40


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_change_nothing(data, workers):
    def run(workers):
        return batches(data, range(50), 8, (*SOME, Mixup()), 1, 2, workers=workers)

    assert same(run(0), run(workers))


def test_resuming_goes_on_where_it_stopped(data):
    whole = list(batches(data, range(50), 8, SOME, 1, 2))
    assert same(whole[3:], batches(data, range(50), 8, SOME, 1, 2, first_batch=3))
    assert not same(whole, batches(data, range(50), 8, SOME, 1, 3))


@pytest.mark.parametrize("augmentations", [SOME, (*SOME, Mixup())], ids=["plain", "mixed"])
def test_shards_together_are_the_batch(data, augmentations):
    def run(shard):
        return list(batches(data, range(50), 8, augmentations, 1, 2, shard=shard))

    whole, parts = run(Shard()), [run(Shard(rank, 2)) for rank in (0, 1)]
    for (x, target), *shards in zip(whole, *parts, strict=True):
        assert (np.concatenate([s[0] for s in shards]) == x).all()
        assert (np.concatenate([s[1] for s in shards]) == target).all()


def test_evaluation_is_in_order_and_padded_with_a_count(data):
    found = list(evaluation_batches(data, range(50), 16))
    assert [count for *_, count in found] == [16, 16, 16, 2]
    assert {x.shape for x, *_ in found} == {(16, 1, 32, 32)}
    x = np.concatenate([x[:count] for x, _, count in found])
    np.testing.assert_array_equal(x, data.read(range(50)))
    labels = np.concatenate([t[:count] for _, t, count in found])
    assert (labels == data.labels).all()
    assert (found[-1][0][2:] == found[-1][0][1]).all()


def test_mixed_targets_are_shares_of_classes(data):
    _, target = next(batches(data, range(50), 8, (Mixup(),)))
    assert (target.shape, target.dtype) == ((8, 10), np.float32)
    assert target.sum(axis=1) == pytest.approx(1, abs=1e-6)


def test_images_of_folders_are_looked_at_in_random_ways(tmp_path):
    spec = InputSpec("image", (3, 8, 8), {"resize": 8, "crop": 8})
    data = open_data(image_folder(tmp_path / "d", 8), spec, 2)
    (x, _), *_ = batches(data, range(16), 16, (ScaleJitter(9, 20), Crop()))
    assert x.shape == (16, 3, 8, 8)
    np.testing.assert_allclose(np.ptp(x, axis=(2, 3)), 0, atol=1e-6)  # each is of one colour


def test_a_failure_reaches_the_caller_when_its_batch_is_due(tmp_path):
    folder = image_folder(tmp_path / "d", 20)
    data = open_data(folder, InputSpec("image", (3, 6, 8)), 2)
    victim = order(range(40), 0, 0)[17]
    data.paths[victim].unlink()
    running = batches(data, range(40), 8)
    assert next(running) is not None
    assert next(running) is not None
    with pytest.raises(CompileError, match=data.paths[victim].name) as error:
        next(running)
    assert error.value.diagnostics[0].code == "E563"


def test_stopping_early_leaves_no_thread_behind(data):
    running = batches(data, range(50), 2, workers=2)
    next(running)
    running.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("convdsl-data")]


def test_only_so_much_is_prepared_ahead():
    made = []
    spec = InputSpec("x", (1,))
    data = from_arrays(np.zeros((100, 1)), np.zeros(100, int), spec, 1)
    read = data.read
    data.read = lambda *given: made.append(1) or read(*given)
    running = batches(data, range(100), 1, workers=2)
    for _ in range(10):
        next(running)
    time.sleep(0.1)
    assert len(made) <= 15
    running.close()


def test_mixed_batches_are_what_the_loss_takes(data):
    """The loss of a mixed target is the mixture of its two classes' losses."""
    net = load_source("net T { input 1@32x32\n dense 10 }")
    x, target = next(batches(data, range(50), 8, (Mixup(alpha=1.0),)))
    assert 0 < target.max(axis=1).min() < 1
    soft = net.compile(train=True, batch=8, loss="soft_cross_entropy")
    hard = net.compile(train=True, batch=8)
    found, _ = soft.value_and_grad(x, target)
    expected = sum(
        shares[label] * hard.value_and_grad(x[[i] * 8], np.full(8, label))[0]
        for i, shares in enumerate(target)
        for label in np.flatnonzero(shares)
    )
    assert found == pytest.approx(expected / 8, rel=1e-5)
