"""`mpiexec -n K convdsl train`: as one process, resumed with any K, and ended together."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from convdsl.cli import main
from convdsl.training import checkpoints, launchers
from convdsl.training.evaluation import joined
from convdsl.training.jobs import Job

MPIEXEC = Path(sys.executable).parent / "mpiexec"
TINY = """cnn 1
net Tiny {
  input 1@8x8
  C1: conv 4@3x3 bias=off -> bn -> relu
  max 2x2 -> dropout 0.2 -> dense 3
  train {
    epochs=4, batch=16, lr=0.05, schedule=cosine, seed=3
    optimizer=sgd(nesterov=on), weight_decay=1e-3, spare_vectors=on
    clip=5, average=0.9, augment=[crop(pad=1), pixel_mean, mixup], val=0.2
  }
}
"""
RESIDUAL = """cnn 1
net Residual {
  input 1@8x8
  entry = conv 4@3x3 pad=1 bias=off -> bn -> relu
  conv 4@3x3 pad=1 bias=off -> bn momentum=0.3 -> add(entry) -> relu
  max 2x2 -> bn affine=off -> dense 3
  train { epochs=4, batch=16, lr=0.02, clip=1, average=0.9, augment=[flip], val=0.2 }
}
"""
# The command, in which something happens to a rank behind a step. Losses are kept as they are told.
COMMAND = """
import os, signal, sys
from pathlib import Path
from convdsl.cli import main, train
from convdsl.diagnostics import problem

what, where, at, *line = sys.argv[1:]
rank = int(os.environ.get("PMI_RANK", "0"))

def happen(trainer):
    if what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "lost":
        raise problem("E563", "cat.png was there when training began")
    if what == "broken":
        raise RuntimeError("out of order")
    if what == "interrupted twice":
        save = trainer.save
        trainer.save = lambda: (os.kill(os.getpid(), signal.SIGINT), save())
    if what.startswith("interrupted"):
        raise KeyboardInterrupt

class Ending(train.Ending):
    def step(self, trainer, loss):
        with open(f"{line[-1]}.{rank}", "a") as file:
            print(loss, trainer.progress.right, file=file)
        if trainer.progress.steps == int(at) and rank == int(where):
            happen(trainer)

train.Ending = Ending
sys.exit(main(["train", *line]))
"""


def trained(ranks, out, line, what="nothing", where=0, at=0):
    """What became of the command in so many processes, alone where there is one."""
    command = [sys.executable, "-c", COMMAND, what, str(where), str(at), *map(str, line)]
    launcher = [str(MPIEXEC), "-n", str(ranks)] if ranks > 1 else []
    command = [*launcher, *command, "--threads", "1", "--resume", "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def losses(out, rank=0):
    """Per step the loss, and the share told right so far of the epoch's batches."""
    return np.loadtxt(f"{out}.{rank}")


def assert_same(first, second):
    """Two folders hold the same training, bit by bit."""
    for name in (checkpoints.LAST, checkpoints.BEST):
        expected, found = load_file(first / name), load_file(second / name)
        assert expected.keys() == found.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)
    ours, theirs = checkpoints.read(first), checkpoints.read(second)
    assert ours.state.keys() == theirs.state.keys()
    for key, array in ours.state.items():
        np.testing.assert_array_equal(theirs.state[key], array)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The arguments that name a program and its data."""
    folder = tmp_path_factory.mktemp("tiny")
    program, data = folder / "tiny.cnn", folder / "data.npz"
    program.write_text(TINY)
    generator = np.random.default_rng(0)
    y = np.arange(200) % 3
    x = generator.standard_normal((200, 1, 8, 8)).astype(np.float32) * 0.5
    for image, label in zip(x, y, strict=True):
        image[0, 1 + 2 * label : 3 + 2 * label] += 1
    np.savez(data, x=x, y=y)
    return [program, "--data", data]


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """The folder of a training in two processes that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = trained(2, out, tiny)
    assert done.returncode == 0, done.stderr
    return out


def test_two_processes_train_as_one_does(tmp_path):
    """Over 112 steps of LeNet; sums of gradients round differently, and no more.

    Noise is learned, at a low rate: at higher ones its steps magnify rounding.
    """
    generator = np.random.default_rng(0)
    x = generator.standard_normal((320, 1, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(320) % 10)
    line = ["lenet", "--data", tmp_path / "data.npz", "--accuracy", "exact"]
    line += ["--batch", 16, "--epochs", 7, "--lr", 0.01, "--val", 0.2, "--augment", "[affine]"]
    outs = {ranks: tmp_path / f"in-{ranks}" for ranks in (1, 2)}
    for ranks, out in outs.items():
        done = trained(ranks, out, line)
        assert done.returncode == 0, done.stderr
        # What is said is said once.
        assert done.stdout.count("epoch 7/7") == 1
        assert done.stdout.count("validation: 60 examples") == 1
    alone, together = (losses(out) for out in outs.values())
    assert len(alone) == 112
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(losses(outs[2], 1), together)
    ours, theirs = (
        json.loads((out / "state.json").read_text())["history"] for out in outs.values()
    )
    for metrics, others in zip(ours, theirs, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            assert others[name] == pytest.approx(metrics[name], abs=1e-5)


def test_synchronised_batch_norm_is_that_of_one_process(tiny, tmp_path):
    """Losses and all that is kept, running statistics too; local statistics are others."""
    program = tmp_path / "residual.cnn"
    program.write_text(RESIDUAL)
    line = [program, *tiny[1:], "--accuracy", "exact", "--batch-norm"]
    outs = ((1, "synchronised"), (2, "synchronised"), (2, "local"))
    for ranks, kind in outs:
        done = trained(ranks, tmp_path / f"{kind}-{ranks}", [*line, kind])
        assert done.returncode == 0, done.stderr
    alone, together, local = (tmp_path / f"{kind}-{ranks}" for ranks, kind in outs)
    assert len(losses(alone)) == 40
    np.testing.assert_allclose(losses(together), losses(alone), rtol=0, atol=1e-5)
    assert abs(losses(local) - losses(alone)).max() > 1e-3
    expected, found = (checkpoints.read(out).weights for out in (alone, together))
    assert sum(name.endswith(".variance") for name in expected) == 3
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("where", [0, 1])
def test_a_process_that_is_killed_ends_all_and_nothing_is_lost(tiny, whole, tmp_path, where):
    out = tmp_path / "out"
    done = trained(2, out, tiny, "killed", where, 14)
    assert done.returncode == signal.SIGKILL
    assert done.stderr.count("error[E575]: the training has ended") == 1
    assert f"{out} holds the checkpoint of step 10; `--resume` goes on" in done.stderr
    assert trained(2, out, tiny).returncode == 0
    assert_same(whole, out)


@pytest.mark.parametrize(("what", "where"), [("interrupted", 1), ("interrupted twice", 0)])
def test_ctrl_c_in_one_process_interrupts_all(tiny, whole, tmp_path, what, where):
    """All of them get it, but not at the same moment."""
    out = tmp_path / "out"
    done = trained(2, out, tiny, what, where, 14)
    assert done.returncode == 130
    told = f"interrupted after step 14, which {out} keeps; `--resume` goes on from there\n"
    assert done.stderr.count(told) == 1
    assert "E575" not in done.stderr
    assert checkpoints.read(out).progress.steps == 14
    assert trained(2, out, tiny).returncode == 0
    assert_same(whole, out)


def test_ctrl_c_for_mpiexec_is_one_for_all(tiny, tmp_path):
    out = tmp_path / "out"
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "convdsl", "train", *tiny]
    command += ["--threads", "1", "--epochs", "1000", "--out", out]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(list(map(str, command)), **pipes)
    while not process.stdout.readline().startswith("epoch 2/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    steps = checkpoints.read(out).progress.steps
    assert steps >= 20
    assert f"interrupted after step {steps:,}, which {out} keeps; `--resume`" in told
    assert "failed" not in told


def test_a_checkpoint_goes_on_in_any_number_of_processes(tiny, tmp_path):
    out = tmp_path / "out"
    for ranks, at in ((1, 7), (4, 18)):
        assert trained(ranks, out, tiny, "interrupted", 0, at).returncode == 130
        assert checkpoints.read(out).progress.steps == at
    assert trained(1, out, tiny).returncode == 0
    kept = checkpoints.read(out).progress
    assert kept.finished
    assert kept.steps == 40
    assert kept.history[-1]["val_accuracy"] > 0.9
    done = trained(2, out, tiny)
    assert done.returncode == 0
    assert done.stdout.count("finished, 4 epochs are done") == 1


@pytest.mark.parametrize("where", [0, 1])
def test_what_one_process_fails_with_is_told_once_and_nothing_is_lost(tiny, tmp_path, where):
    out = tmp_path / "out"
    done = trained(2, out, tiny, "lost", where, 14)
    assert done.returncode == 1
    assert done.stderr.count("error[E563]: cat.png was there when training began") == 1
    assert "E575" not in done.stderr
    assert "Traceback" not in done.stderr
    assert checkpoints.read(out).progress.steps == 14


def test_a_fault_in_one_process_ends_all(tiny, tmp_path):
    out = tmp_path / "out"
    done = trained(2, out, tiny, "broken", 1, 14)
    assert done.returncode == 1
    assert "RuntimeError: out of order" in done.stderr
    assert "rank 1 of 2 failed" in done.stderr
    assert checkpoints.read(out).progress.steps == 10


WRONG = {
    "E574": (["--batch", 15], "a batch of 15 does not divide into equal parts for 2 processes"),
    "E560": (["--data", "nowhere"], "there is no file or folder nowhere"),
    "E512": (["--target", "cuda"], ""),
}


def test_what_is_wrong_is_told_once(tiny, tmp_path):
    for number, (code, (flags, message)) in enumerate(WRONG.items()):
        done = trained(2, tmp_path / f"out{number}", [*tiny, *flags])
        assert done.returncode == 1, done.stderr
        assert done.stderr.count("error[") == 1
        assert f"error[{code}]: " in done.stderr
        assert message in done.stderr
        assert "E575" not in done.stderr


def test_what_the_system_refuses_is_told_once(tiny):
    program = tiny[0]
    done = trained(2, program / "out", tiny)
    assert done.returncode == 1
    assert done.stderr == f"error[E500]: {program / 'out'}: Not a directory\n\n"


def test_a_loss_that_is_not_finite_is_so_for_all(tiny, tmp_path):
    program, *rest = tmp_path / "hopeless.cnn", *tiny[1:]
    hopeless = TINY.replace("lr=0.05", "lr=1e18").replace("-> bn ", "").replace("clip=5, ", "")
    program.write_text(hopeless)
    done = trained(2, tmp_path / "out", [program, *rest])
    assert done.returncode == 1
    assert done.stderr.count("error[") == 1
    assert "error[E573]: the loss of step 3 is not finite: `C1." in done.stderr


@pytest.mark.parametrize("launcher", launchers.SIZES)
def test_other_commands_are_for_one_process(launcher, monkeypatch, capsys):
    monkeypatch.setenv(launcher, "2")
    assert main(["summary", "lenet"]) == 1
    told = "error[E570]: `summary` is for one process, and 2 were started"
    assert told in capsys.readouterr().err
    monkeypatch.setenv(launcher, "1")
    assert main(["summary", "lenet"]) == 0


def test_one_process_needs_no_mpi(tiny, tmp_path):
    code = (
        "import sys; sys.modules['mpi4py'] = None; from convdsl.cli import main; sys.exit(main())"
    )
    environment = {**os.environ, "PMI_SIZE": "1", "PMI_RANK": "0"}
    line = [*map(str, tiny), "--epochs", "1", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", code, "train", *line]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    environment["PMI_SIZE"] = "2"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "error[E570]: training in several processes needs mpi4py" in done.stderr


def test_a_process_without_examples_evaluates_none():
    assert Job().part(np.arange(3)).tolist() == [0, 1, 2]
    assert joined([]).samples == 0
    assert joined([]).labels.dtype == np.int64
