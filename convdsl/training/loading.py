"""Batches in order, read and augmented in the background while the kernels work.

The background is threads: decoding, resampling and the kernels themselves let go of the
interpreter's lock, so that threads overlap as processes would and share memory with the program.
Order and content of batches are functions of seed and epoch alone, not of the number of threads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from convdsl.runtime.inputs import View
from convdsl.training.augment import Augmentation, Draws, Frame
from convdsl.training.data import Data

Array = np.ndarray
T = TypeVar("T")

AHEAD = 2
"""Batches that are ready or being made, beyond one per thread."""
ORDER = 0x6F72646572
"""Tells the generator of the order from others of the same seed."""


@dataclass(frozen=True)
class Shard:
    """Which part of every batch this process takes: the ``rank``-th of ``ranks`` equal ones."""

    rank: int = 0
    ranks: int = 1

    def places(self, batch: int) -> slice:
        """Where in a batch of so many examples its part is."""
        share = batch // self.ranks
        return slice(self.rank * share, (self.rank + 1) * share)


ALONE = Shard()


def order(indices: Sequence[int] | Array, seed: int, epoch: int) -> Array:
    """The indices as this epoch goes through them."""
    return np.random.default_rng([ORDER, seed, epoch]).permutation(np.asarray(indices))


def batches(
    data: Data,
    indices: Sequence[int] | Array,
    batch: int,
    augmentations: Sequence[Augmentation] = (),
    seed: int = 0,
    epoch: int = 0,
    first_batch: int = 0,
    workers: int = 1,
    shard: Shard = ALONE,
) -> Generator[tuple[Array, Array], None, None]:
    """The batches of an epoch from ``first_batch`` on, shuffled, as (x, target).

    ``x`` is float32 N×C×spatial. ``target`` is int64 N, or where an augmentation mixes images
    float32 N×classes, the shares of the classes. What is left over when batches are full is left
    out of this epoch. ``workers`` threads prepare batches; with 0 the caller's does. With a shard,
    ``batch`` is of all processes together, and N is this one's part of it.

    Raises CompileError where an example cannot be read, when its batch is due.
    """
    shuffled = order(indices, seed, epoch)
    starts = range(first_batch * batch, len(shuffled) - batch + 1, batch)
    chosen = [shuffled[start : start + batch] for start in starts]
    makers = (partial(_training, data, c, augmentations, seed, epoch, shard) for c in chosen)
    return _in_background(makers, workers)


def evaluation_batches(
    data: Data,
    indices: Sequence[int] | Array,
    batch: int,
    workers: int = 1,
) -> Iterator[tuple[Array, Array, int]]:
    """All examples in their order as (x, target, count): the first ``count`` of a batch are real.

    The last batch is filled up by repeating its last example.
    """
    given = np.asarray(indices)
    chosen = [given[start : start + batch] for start in range(0, len(given), batch)]
    makers = (partial(_evaluation, data, c, batch) for c in chosen)
    return _in_background(makers, workers)


# -- one batch -------------------------------------------------------------------------------


def _training(
    data: Data,
    batch: Array,
    augmentations: Sequence[Augmentation],
    seed: int,
    epoch: int,
    shard: Shard,
) -> tuple[Array, Array]:
    """The shard's part of the batch of these indices."""
    own = shard.places(len(batch))
    mixed = any(a.mixes for a in augmentations)
    # What is mixed is made as a whole: the other image may belong to another process.
    indices = batch if mixed else batch[own]
    frame = Frame.of(data.spec)
    draws = [Draws(seed, epoch, purpose, indices) for purpose in range(len(augmentations))]
    steps = list(zip(augmentations, draws, strict=True))
    views: list[View] | None = None
    if any(a.moves for a in augmentations):
        views = [View()] * len(indices)
        for augmentation, drawn in steps:
            views = augmentation.views(views, drawn)
    x = data.read(indices, views)
    for augmentation, drawn in steps:
        x = augmentation.apply(x, drawn, frame)
    target = data.labels[indices]
    if not mixed:
        return x, target
    target = np.eye(len(data.classes), dtype=np.float32)[target]
    for augmentation, drawn in steps:
        x, target = augmentation.mix(x, target, drawn)
    return x[own], target[own]


def _evaluation(data: Data, indices: Array, batch: int) -> tuple[Array, Array, int]:
    x = data.read(indices)
    filled = np.minimum(np.arange(batch), len(indices) - 1)
    return x[filled], data.labels[indices[filled]], len(indices)


# -- the background --------------------------------------------------------------------------


def _in_background(makers: Iterator[Callable[[], T]], workers: int) -> Generator[T, None, None]:
    """What the makers return, in their order; some of them run ahead on threads."""
    if not workers:
        for make in makers:
            yield make()
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="convdsl-data")
    waiting: deque[Future[T]] = deque()
    try:
        for make in makers:
            waiting.append(pool.submit(make))
            if len(waiting) > workers + AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where the caller stops early, or a batch fails
        pool.shutdown(wait=True, cancel_futures=True)
