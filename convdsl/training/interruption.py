"""Ctrl-C at the right moment: what belongs together is done as a whole before it takes effect."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruptions:
    """Ctrl-C where it is allowed; anywhere else it is held back until the next such place.

    Python raises KeyboardInterrupt between any two instructions of the main thread: most probably
    right behind a long native call, before what was computed is noted.
    """

    def __init__(self) -> None:
        self._open = self._pressed = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Within, KeyboardInterrupt is raised where it is `allowed` alone, else behind it.

        Where something else stops it, Ctrl-C has nothing more to do. Only the main thread can be
        interrupted, and only where Ctrl-C is not ignored.
        """
        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        except BaseException:
            self._pressed = False
            raise
        finally:
            signal.signal(signal.SIGINT, before)
        if self._pressed:
            self._press()

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Within, Ctrl-C takes effect at once, as what was held back does now."""
        try:
            self._open = True
            if self._pressed:
                self._press()
            yield
        finally:
            self._open = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._pressed = True
        if self._open:
            self._press()

    def _press(self) -> None:
        # Closed at once: a second one shall not interrupt what is done about the first.
        self._open = self._pressed = False
        raise KeyboardInterrupt
