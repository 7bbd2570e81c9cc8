"""Ctrl-C at the right moment: what belongs together is done as a whole before it takes effect."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def as_a_whole() -> Iterator[None]:
    """What is done within is not interrupted; KeyboardInterrupt is raised after it where due.

    Python raises it between any two instructions of the main thread: most probably right behind a
    long native call, before what was computed is noted.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
