"""Compiling in several processes: the same kernels come out, whatever happens on the way."""

import io
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from small_kernels import kernel, outcome

from convdsl.diagnostics import CompileError
from convdsl.runtime import cache, compilation, processor

pytestmark = pytest.mark.usefixtures("folder")

KERNELS = [kernel(factor) for factor in (2, 3, 4)]


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    """Workers may be started, even where tests run in several processes."""
    monkeypatch.setattr(compilation, "MOST_WORKERS", 2)


def outcomes():
    return [outcome(cache.compiled(k)) for k in KERNELS]


@pytest.fixture
def workers(monkeypatch):
    """The workers that are started; there are cores for one or two."""
    started = []
    original = compilation._Worker

    def start(*arguments):
        started.append(original(*arguments))
        return started[-1]

    monkeypatch.setattr(compilation, "_Worker", start)
    monkeypatch.setattr(processor, "cores", lambda: 2)
    return started


def ended(workers):
    return all(w._process.returncode is not None and not w._thread.is_alive() for w in workers)


@pytest.fixture
def idle(monkeypatch):
    """This process leaves all work to its workers, as long as they live."""
    monkeypatch.setattr(compilation._Jobs, "take", _take_in_worker)


_take = compilation._Jobs.take


def _take_in_worker(jobs):
    if threading.current_thread() is not threading.main_thread():
        return _take(jobs)
    while any(t.name.endswith("(_serve)") for t in threading.enumerate()):
        time.sleep(0.01)
    return _take(jobs)


@pytest.mark.usefixtures("idle")
def test_workers_compile_what_this_process_loads(workers, compilations):
    compilation.load(KERNELS, 2)
    assert outcomes() == [2, 3, 4]
    assert len(compilations) < len(KERNELS)
    assert len(workers) == 1
    assert ended(workers)


def test_both_share_the_work(workers):
    compilation.load(KERNELS, 2)
    assert outcomes() == [2, 3, 4]
    assert all(map(cache.is_stored, KERNELS))
    assert ended(workers)


@pytest.mark.usefixtures("idle")
def test_workers_find_the_temporary_folder(workers, compilations, forget, monkeypatch):
    monkeypatch.setenv("CONVDSL_CACHE_DIR", "/dev/null")
    forget()
    # The temporary folder may hold those of other tests.
    kernels = [kernel(factor) for factor in (12, 13, 14)]
    with pytest.warns(RuntimeWarning, match="the cache cannot be used"):
        compilation.load(kernels, 2)
    assert [outcome(cache.compiled(k)) for k in kernels] == [12, 13, 14]
    # On a busy machine this process compiles along, but never all of it.
    assert len(compilations) < len(KERNELS)
    assert len(workers) == 1


def test_nothing_is_started_where_it_would_not_pay(workers, forget):
    compilation.load(KERNELS, 1)
    compilation.load(KERNELS, 2)  # they are loaded
    forget()
    compilation.load([*KERNELS, kernel(5), kernel(6)], 2)  # two are missing
    assert not workers


@pytest.mark.parametrize("executable", ["", None, "/usr/bin/blender"])
def test_only_an_interpreter_is_started(executable, workers, monkeypatch):
    monkeypatch.setattr(sys, "executable", executable)
    compilation.load(KERNELS, 2)
    assert outcomes() == [2, 3, 4]
    assert not workers


def broken(path, script):
    """Something in the place of the interpreter."""
    file = path / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o700)
    return str(file)


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo gibberish",
        'echo \'{"ready": "elsewhere"}\'',
        'echo "{\\"ready\\": \\"$CONVDSL_CACHE_DIR/%s\\"}"; read kernel',
        'echo "{\\"ready\\": \\"$CONVDSL_CACHE_DIR/%s\\"}"; read kernel; echo \'{"stored": null}\'',
    ],
    ids=["fails", "talks gibberish", "has another version", "dies at work", "cannot store"],
)
@pytest.mark.usefixtures("idle")
def test_this_process_does_what_a_worker_does_not(script, workers, folder, tmp_path, monkeypatch):
    program = broken(tmp_path, script.replace("%s", folder.name))
    monkeypatch.setattr(sys, "executable", program)
    compilation.load(KERNELS, 2)
    assert outcomes() == [2, 3, 4]
    assert ended(workers)
    assert len(workers) == 1


def test_a_process_that_cannot_be_started_is_done_without(monkeypatch, tmp_path):
    monkeypatch.setattr(processor, "cores", lambda: 2)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    compilation.load(KERNELS, 2)
    assert outcomes() == [2, 3, 4]


def test_an_interrupt_ends_the_workers(workers, folder, monkeypatch):
    def interrupt(kernel):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(cache, "compiled", interrupt)
        with pytest.raises(KeyboardInterrupt):
            compilation.load(KERNELS, 2)
    assert len(workers) == 1
    assert ended(workers)
    compilation.load(KERNELS, 1)
    assert outcomes() == [2, 3, 4]


@pytest.mark.usefixtures("idle")
def test_a_kernel_that_cannot_be_compiled_is_told_here(workers):
    from numba.core.errors import NumbaError

    with pytest.raises(NumbaError, match="nowhere"):
        compilation.load([*KERNELS, kernel("nowhere")], 2)
    assert ended(workers)


KILLED = """
import os, signal, sys
from small_kernels import kernel
from convdsl.runtime import cache, compilation
cache.folder()
worker = compilation._Worker(compilation._Jobs([]), compilation._Progress(1))
print(worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(*arguments, **options):
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        **options,
    )


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
def test_a_killed_process_leaves_no_workers():
    pid = int(python("-c", KILLED).stdout)
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            break
        if state == "Z":  # nobody asks how it ended
            break
        time.sleep(0.05)


# A script as people write them: nothing guards its statements from being imported again.
SCRIPT = """
from small_kernels import kernel, outcome
from convdsl.runtime import cache, compilation
print("begins")
kernels = [kernel(factor) for factor in (2, 3, 4)]
jobs = compilation._Jobs(kernels)
worker = compilation._Worker(jobs, compilation._Progress(3))
worker._thread.join()
worker.kill()
print([cache.is_stored(k) for k in kernels])
"""


def test_workers_import_neither_the_script_nor_what_lies_about(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    around = tmp_path / "around"
    around.mkdir()
    for name in ("random", "numba", "convdsl"):
        (around / f"{name}.py").write_text("raise SystemExit")
    done = python(str(tmp_path / "script.py"), cwd=around)
    assert (done.stdout, done.stderr) == ("begins\n[True, True, True]\n", "")


def test_the_cache_is_pruned_after_compiling_alone(monkeypatch):
    limits = []
    monkeypatch.setattr(cache, "prune", limits.append)
    monkeypatch.setenv("CONVDSL_CACHE_SIZE", "5M")
    for _ in range(2):
        compilation.load(KERNELS[:1], 1)
    assert limits == [5 * 2**20]


def test_a_wrong_size_is_told_even_if_nothing_is_missing(monkeypatch):
    compilation.load([], 1)
    monkeypatch.setenv("CONVDSL_CACHE_SIZE", "large")
    with pytest.raises(CompileError, match="E511"):
        compilation.load([], 1)


# -- progress --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_on_a_terminal_and_cleared(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = compilation._Progress(3)
    progress.advance()
    assert sys.stderr.getvalue() == ""  # it may not take long
    progress._show()
    progress.advance()
    progress.clear()
    progress._show()  # too late
    assert sys.stderr.getvalue().split("\r") == [
        "",
        "compiling kernels [##########--------------------] 1/3",
        "compiling kernels [####################----------] 2/3",
        "\x1b[K",
    ]


@pytest.mark.parametrize("columns", [10, 50])
def test_progress_fits_a_narrow_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = compilation._Progress(200)
    progress._show()
    progress.clear()
    assert len(sys.stderr.getvalue().split("\r")[1]) < max(columns, 30)


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["a file", "nothing"])
def test_progress_is_shown_on_nothing_else(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(compilation, "SHOWN_AFTER", 0.0)
    compilation.load(KERNELS[:1], 1)
    assert stream is None or stream.getvalue() == ""


def test_slow_compiling_is_shown(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(compilation, "SHOWN_AFTER", 0.0)
    compilation.load(KERNELS, 1)
    shown = sys.stderr.getvalue()
    assert "/3" in shown
    assert shown.endswith("\r\x1b[K")
