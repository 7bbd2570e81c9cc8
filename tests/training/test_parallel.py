"""Ranks of an MPI job train as one process does, and end together when one of them fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

import convdsl
from convdsl.compiler import compile
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import from_arrays
from convdsl.training.loading import batches
from convdsl.training.parallel import buckets, means

MPIEXEC = Path(sys.executable).parent / "mpiexec"
PROGRAM = """
import os, signal, sys
import numpy as np
import convdsl
from convdsl.diagnostics import problem
from convdsl.runtime.inputs import InputSpec
from convdsl.training.data import from_arrays
from convdsl.training.loading import batches
from convdsl.training.ranks import job

def end(how, rank):
    if rank == 1 and how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 1 and how == "failed":
        raise problem("E563", "cat.png was there when training began")

with job() as ranks:
    how, out = sys.argv[1:]
    x = np.random.default_rng(0).standard_normal((256, 1, 32, 32)).astype(np.float32)
    spec = InputSpec("image", (1, 32, 32))
    data = from_arrays(x, np.arange(256) % 10, spec, 10)
    # Ranks start from different values, and go on with those of rank 0.
    net = convdsl.load("lenet")
    optimizer = convdsl.SGD(momentum=0.9)
    seed = 3 + ranks.shard.rank
    program = net.compile(
        train=True,
        batch=16 // ranks.shard.ranks,
        optimizer=optimizer,
        threads=1,
        seed=seed,
    )
    training = ranks.parallel(program, 100_000)
    losses = []
    for epoch in range(7):
        given = batches(data, range(256), 16, epoch=epoch, shard=ranks.shard)
        losses += [training.step(x, target, lr=0.01) for x, target in given]
        end(how, ranks.shard.rank)
    np.savez(f"{out}/{ranks.shard.rank}.npz", losses=losses, **program.parameters)
"""


def mpi(tmp_path, how: str, ranks: int = 2) -> subprocess.CompletedProcess:
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-c", PROGRAM, how, str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_two_ranks_compute_what_one_process_does(tmp_path):
    """Over 112 steps; sums of gradients round differently, and no more.

    The rate is low because noise is learned here, whose steps magnify rounding at higher ones, and
    for the same reason convolutions are sums of products alone.
    """
    done = mpi(tmp_path, "whole")
    assert done.returncode == 0, done.stderr
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert all((first[name] == second[name]).all() for name in first.files)

    x = np.random.default_rng(0).standard_normal((256, 1, 32, 32)).astype(np.float32)
    data = from_arrays(x, np.arange(256) % 10, InputSpec("image", (1, 32, 32)), 10)
    optimizer = convdsl.SGD(momentum=0.9)
    alone = convdsl.load("lenet").compile(
        train=True, batch=16, optimizer=optimizer, threads=1, seed=3
    )
    losses = [
        alone.step(x, target, lr=0.01)
        for epoch in range(7)
        for x, target in batches(data, range(256), 16, epoch=epoch)
    ]
    assert len(losses) > 100
    np.testing.assert_allclose(first["losses"], losses, rtol=0, atol=1e-5)


STATISTICS = """
import sys, time
import numpy as np
import convdsl
from convdsl.training.ranks import job

SOURCE = "net Tiny {\\n  input 1@8x8\\n  C1: conv 4@3x3 bias=off -> bn -> relu\\n  dense 3\\n}"

with job() as ranks:
    net = convdsl.load_source(SOURCE)
    rule = convdsl.Refined(convdsl.SGD(), average=0.9)
    program = net.compile(train=True, batch=8, optimizer=rule, threads=ranks.threads(1))
    training = ranks.parallel(program)
    x = np.random.default_rng(0).standard_normal((3, 16, 1, 8, 8)).astype(np.float32)
    mine = slice(8 * ranks.shard.rank, 8 * ranks.shard.rank + 8)
    for batch in x:
        training.step(batch[mine], np.arange(8) % 3, lr=1e-6)
    kept = {**program.buffers, **{n: a for n, a in program.state.items() if "average" in n}}
    kept["w"] = program.parameters["C1.weight"]
    turn = ranks.in_turn(lambda: [time.monotonic(), time.sleep(0.1), time.monotonic()])
    np.save(f"{sys.argv[1]}/turn{ranks.rank}.npy", turn[::2])
    np.savez(f"{sys.argv[1]}/{ranks.shard.rank}.npz", x=x, threads=ranks.threads(), **kept)
"""


def test_running_statistics_are_those_of_all_ranks(tmp_path):
    """The weights hardly move, so that the means of a whole batch are known."""
    command = [MPIEXEC, "-n", "2", sys.executable, "-c", STATISTICS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in (0, 1))
    assert all((first[name] == second[name]).all() for name in first.files)
    (mean,) = (n for n in first.files if n.endswith(".mean"))
    windows = np.lib.stride_tricks.sliding_window_view(first["x"][:, :, 0], (3, 3), axis=(2, 3))
    y = np.einsum("snijuv,fuv->sfnij", windows, first["w"][:, 0])
    running = np.zeros(4)
    for batch in y:
        running = 0.9 * running + 0.1 * batch.mean((1, 2, 3))
    np.testing.assert_allclose(first[mean], running, rtol=1e-3, atol=1e-4)
    assert any(name.endswith("mean.average") for name in first.files)

    assert first["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    # What is made in turn is made by the first rank of a machine before the others begin.
    (_, end), (begin, _) = (np.load(tmp_path / f"turn{rank}.npy") for rank in (0, 1))
    assert end <= begin


def test_an_mpiexec_of_another_mpi_is_told():
    code = "from convdsl.training.ranks import job\nwith job():\n    pass\n"
    environment = {**os.environ, "OMPI_COMM_WORLD_SIZE": "2"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error[E570]: mpiexec started 2 processes" in done.stderr


def test_a_rank_that_fails_ends_the_job_with_its_message(tmp_path):
    done = mpi(tmp_path, "failed")
    assert done.returncode != 0
    assert "error[E563]: cat.png was there when training began" in done.stderr
    assert "rank 1 of 2 failed" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_rank_that_is_killed_ends_the_job(tmp_path):
    done = mpi(tmp_path, "killed")
    assert done.returncode == signal.SIGKILL
    assert "signal 9" in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


def test_buckets_have_every_gradient_once_and_are_complete_where_they_say():
    net = convdsl.load("lenet")
    program = net.compile(train=True, batch=8, optimizer=convdsl.SGD())
    found = buckets(program.plan, 50_000)
    assert len(found) > 1
    names = [port.name for _, ports in found for port in ports]
    assert sorted(names) == sorted(f"gradient of {name}" for name in program.parameters)
    for after, ports in found:
        later = program.plan.steps[after : program.plan.shared]
        assert not {port.buffer for port in ports} & {step.buffers[-1] for step in later}
    ends = [after for after, _ in found]
    assert ends == sorted(ends)
    assert ends[0] < program.plan.shared


def test_means_are_exchanged_once_before_they_are_used():
    source = "net T { input 1@8x8\n conv 4@3x3 -> bn -> relu -> conv 4@3x3 -> bn -> dense 3 }"
    options = {"optimizer": convdsl.SGD(), "processes": 2, "ready": False}
    plan = compile(convdsl.load_source(source).graph, "cpu", 8, "cross_entropy", **options).plan
    groups = buckets(plan, 100)
    due = {after for after, _ in groups}
    found = list(means(plan, due))
    exchanged = {n: step.buffers[-1] for n, step in enumerate(plan.steps) if step.exchanged}
    assert len(exchanged) == 8
    assert sum(len(together) for _, together in found) == 8
    assert len(found) < 8
    for written, buffer in exchanged.items():
        after = min(n for n, together in found if buffer in together and n > written)
        between = plan.steps[written + 1 : after]
        assert not any(buffer in step.buffers for step in between)
        assert not any(written < n < after for n in due)


def test_without_mpi_it_is_told():
    code = (
        "import os, sys; sys.modules['mpi4py'] = None; os.environ['PMI_RANK'] = '0'\n"
        "from convdsl.diagnostics import CompileError\n"
        "from convdsl.training.ranks import job\n"
        "try:\n    job().__enter__()\n"
        "except CompileError as error:\n    assert error.diagnostics[0].code == 'E570'\n"
        "else:\n    sys.exit('nothing told')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
