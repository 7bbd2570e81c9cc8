"""Which threads are active: branches, loops and returns narrow a mask over all that run together.

A mask is an array of bool with an element per thread, or None where all are active. Masks are never
changed in place, so that the same object means the same threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray
Mask = Array | None

UNSET = type("Unset", (), {"__repr__": lambda self: "a variable that nothing was assigned to"})()
"""The value of a variable before the first assignment."""
POISON = {"f": np.nan, "i": -(2**62), "u": 0xFFFFFFFF, "b": False}
"""What a variable holds in threads that did not assign it: neither a number nor an index."""


class Branch:
    """An ``if`` that is being executed: its condition, and the mask to go back to."""

    def __init__(self, mask: Mask, test: Any) -> None:
        self.mask = mask
        self.test = test

    def lose(self, lost: Array) -> None:
        """Take threads out that left by ``break``, ``continue`` or ``return``."""
        self.mask = without(self.mask, lost)


class Loop(Branch):
    """A loop that is being executed; ``inside`` are the threads that have not left it."""

    def __init__(self, activity: Activity) -> None:
        super().__init__(activity.mask, True)
        self.inside = activity.mask
        self.depth = len(activity.frames)
        self._activity = activity

    def lose(self, lost: Array) -> None:
        super().lose(lost)
        self.release(lost)

    def release(self, lost: Array) -> None:
        """Let threads leave the loop."""
        self.inside = without(self.inside, lost)

    def range(self, *bounds: Any) -> Iterator[Any]:
        """The index of every iteration: a number where all threads agree on the bounds."""
        start, stop, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        if not any(isinstance(bound, Array) for bound in (start, stop, step)):
            for index in range(start, stop, step):
                if not self.again():
                    return
                yield index
            return
        index = np.broadcast_to(start, self._activity.threads).astype(np.int64)
        while self.again() and self.goes_on(np.where(step > 0, index < stop, index > stop)):
            yield index
            index = index + step

    def again(self) -> bool:
        """Begin an iteration with all threads that are still inside, if there are any."""
        del self._activity.frames[self.depth + 1 :]
        self._activity.mask = self.inside
        return self.inside is None or bool(self.inside.any())

    def goes_on(self, test: Any) -> bool:
        """Keep the threads for which the condition holds; whether there are any."""
        inside = self._activity.narrowed(self.inside, test)
        if inside is NOBODY:
            return False
        self.inside = self._activity.mask = inside
        return True


NOBODY = np.zeros(0, bool)
"""In place of a mask that is False everywhere."""


class Activity:
    """The mask of the threads that run side by side, and the branches and loops they are in.

    ``live`` are the threads that have not returned.
    """

    def __init__(self, threads: int, live: Mask) -> None:
        self.threads = threads
        self.live = live
        self.mask = live
        self.frames: list[Branch] = []

    def active(self, mask: Mask) -> Array:
        """The mask as an array."""
        return np.ones(self.threads, bool) if mask is None else mask

    def narrowed(self, mask: Mask, test: Any) -> Mask:
        """The threads of a mask for which a condition holds: `NOBODY`, the same mask, or fewer."""
        if not isinstance(test, Array):
            return mask if test else NOBODY
        test = test if test.dtype == bool else test != 0
        inside = test if mask is None else mask & test
        count = np.count_nonzero(inside)
        if count == 0:
            return NOBODY
        everybody = self.threads if mask is None else np.count_nonzero(mask)
        return mask if count == everybody else inside

    # -- branches ------------------------------------------------------------------------------
    def branch(self, test: Any) -> Branch:
        """Begin an ``if``."""
        self.frames.append(Branch(self.mask, test))
        return self.frames[-1]

    def then(self, branch: Branch) -> bool:
        """Go on with the threads for which the condition holds, if there are any."""
        return self._enter(branch.mask, branch.test)

    def otherwise(self, branch: Branch) -> bool:
        """Go on with the threads for which it does not hold, if there are any."""
        return self._enter(branch.mask, negated(branch.test))

    def _enter(self, mask: Mask, test: Any) -> bool:
        inside = self.narrowed(mask, test)
        if inside is NOBODY:
            return False
        self.mask = inside
        return True

    def join(self, branch: Branch) -> None:
        """End an ``if``: all threads that came to it, but those that left meanwhile."""
        self.frames.pop()
        self.mask = branch.mask

    # -- loops ---------------------------------------------------------------------------------
    def loop(self) -> Loop:
        """Begin a loop."""
        loop = Loop(self)
        self.frames.append(loop)
        return loop

    def end(self, loop: Loop) -> None:
        """End a loop: all threads that came to it, but those that returned meanwhile."""
        del self.frames[loop.depth :]
        self.mask = loop.mask

    def leave(self, loop: Loop) -> bool:
        """``break``: whether no thread is left in the iteration."""
        lost = self.active(self.mask)
        loop.release(lost)
        return self._skip(loop, lost)

    def proceed(self, loop: Loop) -> bool:
        """``continue``: whether no thread is left in the iteration."""
        return self._skip(loop, self.active(self.mask))

    def _skip(self, loop: Loop, lost: Array) -> bool:
        """Take threads out of the iteration; whether nobody is left in it."""
        branches = self.frames[loop.depth + 1 :]
        for branch in branches:
            branch.lose(lost)
        self.mask = np.zeros(self.threads, bool)
        return not branches or not branches[0].mask.any()

    # -- functions -----------------------------------------------------------------------------
    def retire(self) -> bool:
        """``return`` from the kernel: whether all threads have."""
        before, lost = self.live, self.active(self.mask)
        self.live = without(before, lost)
        for frame in self.frames:
            # The same object for the same threads: see `assign`.
            outer = frame.mask is before
            frame.lose(lost)
            if outer:
                frame.mask = self.live
        self.mask = np.zeros(self.threads, bool)
        return not self.live.any()

    # -- variables -----------------------------------------------------------------------------
    def assign(self, old: Any, new: Any, home: Mask) -> Any:
        """What a variable holds after an assignment by the active threads.

        ``home`` are all the threads that may ever read it: where all of them assign it, nobody
        asks for what it held before.
        """
        return new if self.mask is home else self.merge(old, new)

    def merge(self, old: Any, new: Any) -> Any:
        """The new value in active threads, the old one in the others."""
        mask = self.mask
        if mask is None:
            return new
        if isinstance(new, tuple):
            olds = old if isinstance(old, tuple) else (old,) * len(new)
            return tuple(self.merge(o, n) for o, n in zip(olds, new, strict=True))
        if not isinstance(new, (Array, np.generic, int, float)):
            return new  # a pointer, which is the same in all threads
        if old is UNSET:
            old = poison(new)
        return np.where(mask, new, old)


def without(mask: Mask, lost: Array) -> Array:
    return ~lost if mask is None else mask & ~lost


def negated(test: Any) -> Any:
    """``not`` of a condition, whether threads agree on it or not."""
    return ~truth(test) if isinstance(test, Array) else not test


def truth(test: Array) -> Array:
    """Numbers as conditions."""
    return test if test.dtype == bool else test != 0


def poison(like: Any) -> Any:
    """What stands for no value, in the type of another one."""
    dtype = np.asarray(like).dtype
    return dtype.type(POISON[dtype.kind])
