"""Compiles the kernels of a program at once, in several processes, and shows how far that is.

Numba compiles one function at a time in a process, whatever its threads. The processes here are
plain interpreters that run this module: they import no program of the user's, take kernels as lines
of JSON and leave machine code in the cache. What they do not get done, for whatever reason, this
process does.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from convdsl.plan.model import Kernel
from convdsl.runtime import cache, processor

FEWEST = 3
"""Missing kernels below which another process starts more slowly than it helps."""
MOST_WORKERS = 15
"""However many cores there are: each takes some 200 MB."""
PATIENCE = 600.0
"""Seconds that a single kernel may take a worker before this process compiles it, too."""
SHOWN_AFTER = 2.0
"""Seconds of compiling after which a person is told."""

_lock = threading.RLock()


def load(kernels: Sequence[Kernel], most: int) -> None:
    """Have the kernels ready to run: from the cache, compiled where missing.

    Compiles on at most so many cores. Raises CompileError E511 where the cache's size limit is
    none.
    """
    limit = cache.size_limit()
    with _lock:
        missing = [kernel for kernel in kernels if not cache.is_loaded(kernel)]
        if missing:
            _compile(missing, min(most, processor.cores()))
            cache.prune(limit)
        for kernel in kernels:
            cache.compiled(kernel)


def _compile(missing: Sequence[Kernel], cores: int) -> None:
    """Compile the kernels."""
    progress = _Progress(len(missing))
    # The longest ones first, so that none of them is still running when all others are done.
    jobs = _Jobs(sorted(missing, key=lambda kernel: -len(kernel.source)))
    workers = _workers(cores, len(missing), jobs, progress)
    try:
        while kernel := jobs.take():
            cache.compiled(kernel)
            progress.advance()
        for worker in workers:
            worker.finish()
    finally:
        for worker in workers:
            worker.kill()
        progress.clear()


@contextmanager
def uncollected() -> Iterator[None]:
    """Python looks for no garbage meanwhile: a compiler makes many objects, and drops them late."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Jobs:
    """The kernels that nobody has begun to compile."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._left: queue.SimpleQueue[Kernel] = queue.SimpleQueue()
        for kernel in kernels:
            self._left.put(kernel)

    def take(self) -> Kernel | None:
        """The next one, which the caller compiles; None where there is none left."""
        try:
            return self._left.get_nowait()
        except queue.Empty:
            return None


# -- workers ---------------------------------------------------------------------------------


def _workers(cores: int, missing: int, jobs: _Jobs, progress: _Progress) -> list[_Worker]:
    """The processes that help this one, already at work; none where they would not pay."""
    # A worker's start takes as long as a kernel or two.
    count = min(cores - 1, missing // 2, MOST_WORKERS)
    if missing < FEWEST or not _is_python(sys.executable) or not cache.folder().is_dir():
        return []
    workers: list[_Worker] = []
    try:
        with suppress(OSError):  # no more processes are allowed
            for _ in range(count):
                workers.append(_Worker(jobs, progress))
    except BaseException:  # such as Ctrl-C
        for worker in workers:
            worker.kill()
        raise
    return workers


def _is_python(executable: str | None) -> bool:
    """Whether it is an interpreter, and not a program that Python is a part of."""
    return "python" in Path(executable or "").name.lower() and not hasattr(sys, "frozen")


class _Worker:
    """A process that compiles, and the thread that hands it one kernel after the other."""

    def __init__(self, jobs: _Jobs, progress: _Progress) -> None:
        self._jobs = jobs
        self._progress = progress
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            # -P: nothing is imported from the folder that the user happens to be in.
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=worker_environment(),
            process_group=0,  # Ctrl-C reaches this process, which ends the worker
        )
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the kernel that it is compiling, if it has begun with any."""
        if self._ready.is_set():
            self._thread.join(PATIENCE)

    def kill(self) -> None:
        """End the process, which leaves no file half written."""
        self._process.kill()
        self._process.wait()
        self._thread.join(1.0)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):
                pipe.close()

    def _serve(self) -> None:
        with suppress(OSError, ValueError):  # it died, or talks gibberish
            if not self._answers({"ready": str(cache.folder())}):
                return
            self._ready.set()
            while kernel := self._jobs.take():
                self._send(asdict(kernel))
                if not self._answers({"stored": kernel.key}):
                    return
                self._progress.advance()

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        print(json.dumps(message), file=self._process.stdin, flush=True)

    def _answers(self, expected: dict[str, Any]) -> bool:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return bool(line) and json.loads(line) == expected


def worker_environment() -> dict[str, str]:
    """What makes a worker find the same modules and the same cache, and use one core."""
    single = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    modules = os.pathsep.join(path or os.getcwd() for path in sys.path)
    where = {"CONVDSL_CACHE_DIR": str(cache.folder().parent), "PYTHONPATH": modules}
    return {**os.environ, **single, **where}


def _work() -> None:
    """The worker's side: kernels come in by lines, and leave by the cache."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    print(json.dumps({"ready": str(cache.folder())}), file=answers, flush=True)
    while True:
        kernel = kernel_of(lines.get())
        with suppress(Exception):  # the parent will meet it, too, and tell
            cache.compiled(kernel)
        stored = kernel.key if cache.is_stored(kernel) else None
        print(json.dumps({"stored": stored}), file=answers, flush=True)


def _read(lines: queue.SimpleQueue[str]) -> None:
    """Pass on what comes in, and end the process when nothing can come any more."""
    for line in sys.stdin:
        lines.put(line)
    # Even in the middle of a kernel: the parent is gone.
    os._exit(0)


def kernel_of(line: str) -> Kernel:
    return Kernel(**{name: _tuples(value) for name, value in json.loads(line).items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


# -- progress --------------------------------------------------------------------------------


class _Progress:
    """A line on the terminal, once the work has taken some time; nothing on anything else."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown = False
        self._lock = threading.Lock()
        self._timer = threading.Timer(SHOWN_AFTER, self._show)
        self._timer.daemon = True
        if _is_terminal(sys.stderr):
            self._timer.start()

    def advance(self) -> None:
        """One more is done."""
        with self._lock:
            self._done += 1
            if self._shown:
                self._draw()

    def clear(self) -> None:
        """Leave the terminal as it was."""
        self._timer.cancel()
        with self._lock:
            if self._shown:
                _put("\r\x1b[K")
            self._shown = False

    def _show(self) -> None:
        with self._lock:
            if not self._timer.finished.is_set():  # not cleared meanwhile
                self._shown = True
                self._draw()

    def _draw(self) -> None:
        count = f"{self._done}/{self._total}"
        width = max(1, min(30, shutil.get_terminal_size().columns - len(count) - 22))
        full = width * self._done // self._total
        _put(f"\rcompiling kernels [{'#' * full}{'-' * (width - full)}] {count}")


def _is_terminal(stream: TextIO | None) -> bool:
    with suppress(ValueError):  # it is closed
        return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    return False


def _put(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


if __name__ == "__main__":
    _work()
