"""The training loop: killed and resumed, watched, stopped by what cannot go on, by commands."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from datasets import image_folder
from safetensors.numpy import load_file

import convdsl
from convdsl.cli import main
from convdsl.language import recipe as settings
from convdsl.runtime import parameters
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints
from convdsl.training.data import from_arrays, open_data, split
from convdsl.training.evaluation import share_right
from convdsl.training.interruption import Interruptions
from convdsl.training.loading import order
from convdsl.training.recipe import Recipe, resolve
from convdsl.training.schedules import Cosine, MultiStep, OneCycle, Step
from convdsl.training.trainer import FORMERLY, Trainer, Watcher

PROGRAM = """cnn 1
net Tiny {
  input 1@8x8
  C1: conv 4@3x3 bias=off -> bn -> relu
  max 2x2 -> dropout 0.2 -> dense 3
  train {
    epochs=4, batch=16, lr=0.05, schedule=cosine, seed=3
    optimizer=sgd(nesterov=on), weight_decay=1e-3, spare_vectors=on
    clip=5, average=0.9, augment=[crop(pad=1)], val=0.2
  }
}
"""


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C interrupts, even where the suite runs in the background, which would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def examples(count=200):
    """Images of three classes: a bright row at a height that is the class's."""
    generator = np.random.default_rng(0)
    y = np.arange(count) % 3
    x = generator.standard_normal((count, 1, 8, 8)).astype(np.float32) * 0.5
    for row, label in enumerate(y):
        x[row, 0, 1 + 2 * label : 3 + 2 * label] += 1
    return x, y


@pytest.fixture
def given(tmp_path):
    """A program and its data as files."""
    program, data = tmp_path / "tiny.cnn", tmp_path / "data.npz"
    program.write_text(PROGRAM)
    x, y = examples()
    np.savez(data, x=x, y=y)
    return program, data


def trainer(folder=None, program=PROGRAM, **more):
    net = convdsl.load_source(program)
    spec = InputSpec.of(net.graph.inputs[0])
    data = from_arrays(*examples(), spec, 3)
    recipe = resolve(net.recipe, (), spec)
    parts = split(data, recipe.val, recipe.seed)
    return Trainer(net, recipe, data, *parts, folder, threads=1, **more)


def test_it_learns_and_the_average_is_what_is_kept(tmp_path):
    made = trainer(tmp_path)
    made.fit()
    history = made.progress.history
    assert [m["epoch"] for m in history] == [1, 2, 3, 4]
    assert history[-1]["loss"] < 0.7 * history[0]["loss"]
    assert history[-1]["val_accuracy"] > 0.9
    kept = load_file(tmp_path / "last.safetensors")
    np.testing.assert_array_equal(kept["C1.weight"], made.program.state["C1.weight.average"])
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]
    assert (tmp_path / "curves.svg").read_text().count("<path") == 4


class Shares(Watcher):
    """Counts for itself how many of an epoch's examples were told right."""

    def __init__(self):
        self.order = iter(())
        self.right = self.seen = 0

    def step(self, trainer, loss):
        if trainer.progress.epoch == 0:
            for scores in trainer.program.prediction:
                self.right += int(np.argmax(scores)) == next(self.order) % 3
                self.seen += 1


def test_training_accuracy_is_the_share_told_right_over_the_epoch():
    shares = Shares()
    made = trainer(watchers=[shares])
    shares.order = iter(order(made.training, 3, 0))
    made.fit()
    assert shares.seen == 160
    assert made.progress.history[0]["accuracy"] == pytest.approx(shares.right / shares.seen)
    assert 0.3 < made.progress.history[0]["accuracy"] < made.progress.history[-1]["accuracy"]


def test_of_shares_of_classes_the_largest_counts():
    scores = np.array([[2.0, 1.0, 0.0], [0.0, 1.0, 3.0], [0.0, 5.0, 1.0], [1.0, 0.0, 0.0]])
    assert share_right(scores, np.array([0, 1, 1, 0])) == 0.75
    shares = np.array([[0.4, 0.6, 0.0], [0.0, 0.1, 0.9], [0.0, 1.0, 0.0], [0.6, 0.2, 0.2]])
    assert share_right(scores, shares) == 0.75


class Stop(Watcher):
    """Presses Ctrl-C at a step."""

    def __init__(self, at):
        self.at = at

    def step(self, trainer, loss):
        if trainer.progress.steps == self.at:
            raise KeyboardInterrupt


def test_interrupted_within_an_epoch_it_goes_on_to_the_same_bits(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    trainer(whole).fit()
    for at in (3, 14, 20, 30):
        with pytest.raises(KeyboardInterrupt):
            trainer(parted, watchers=[Stop(at)]).fit()
        assert not [t for t in threading.enumerate() if t.name.startswith("convdsl-data")]
        assert checkpoints.read(parted).progress.steps == at
    trainer(parted).fit()
    assert_same(whole, parted)


def test_ctrl_c_in_the_middle_of_a_step_takes_effect_behind_it(tmp_path):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    trainer(whole).fit()
    for at in (3, 14, 20):
        made = trainer(parted)
        step = made.program.step

        def pressed(*arrays, lr, made=made, step=step, at=at):
            loss = step(*arrays, lr=lr)
            if made.program.steps_taken == at:
                os.kill(os.getpid(), signal.SIGINT)
                sum(range(1000))  # whatever comes next would be interrupted
            return loss

        made.program.step = pressed
        with pytest.raises(KeyboardInterrupt):
            made.fit()
        assert checkpoints.read(parted).progress.steps == at
    trainer(parted).fit()
    assert_same(whole, parted)


def test_ctrl_c_takes_effect_where_it_is_allowed_and_nothing_else_is_kept_back():
    done = []
    interruptions = Interruptions()

    def press(note):
        os.kill(os.getpid(), signal.SIGINT)
        done.append(note)

    def press_before_it_is_allowed():
        with interruptions.allowed():
            pass
        press("held back")
        with interruptions.allowed():
            done.append("never")

    def fail_when_pressed():
        press("of no effect")
        raise ValueError("mine")

    with pytest.raises(KeyboardInterrupt), interruptions.held_back():
        press("held back to the end")
    with pytest.raises(KeyboardInterrupt), interruptions.held_back():
        press_before_it_is_allowed()
    with pytest.raises(KeyboardInterrupt), interruptions.held_back(), interruptions.allowed():
        press("never")
    with pytest.raises(KeyboardInterrupt), interruptions.held_back(), interruptions.held_back():
        press_before_it_is_allowed()
    with pytest.raises(ValueError, match="mine"), interruptions.held_back():
        fail_when_pressed()
    with interruptions.held_back(), interruptions.allowed():
        pass
    with pytest.raises(KeyboardInterrupt):
        press("never")
    assert done == ["held back to the end", *["held back"] * 2, "of no effect"]
    with ThreadPoolExecutor() as pool:
        pool.submit(interruptions.held_back().__enter__).result()


def test_ctrl_c_tells_where_it_stopped_and_goes_on_to_the_same_bits(given, tmp_path):
    program, data = given
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    line = ["train", str(program), "--data", str(data), "--threads", "1", "--epochs", "100"]
    line += ["--resume", "--out"]
    command = [sys.executable, "-m", "convdsl", *line, parted]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **pipes)
    while not process.stdout.readline().startswith("epoch 2/"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    steps = checkpoints.read(parted).progress.steps
    assert told == f"interrupted after step {steps:,}, which {parted} keeps; " + (
        "`--resume` goes on from there\n"
    )
    assert 20 <= steps < 1000
    assert main([*line, str(parted)]) == 0
    assert main([*line, str(whole)]) == 0
    assert_same(whole, parted)


# Trains until a step, from which on no file can grow beyond 2,000 bytes: a disk that is full.
FULL = """
import resource, sys
from convdsl.cli import main
from convdsl.cli import train

class Full(train.View):
    def step(self, trainer, loss):
        if trainer.progress.steps == 14:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

train.View = Full
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_told_and_leaves_the_checkpoint_before(given, tmp_path):
    program, data = given
    whole, full = tmp_path / "whole", tmp_path / "full"
    line = ["train", str(program), "--data", str(data), "--threads", "1", "--resume", "--out"]
    assert main([*line, str(whole)]) == 0
    done = subprocess.run(
        [sys.executable, "-c", FULL, *line, str(full)], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "error[E504]" in done.stderr
    assert "File too large" in done.stderr
    assert checkpoints.read(full).progress.steps == 10
    assert not list(full.glob("*.tmp"))
    assert main([*line, str(full)]) == 0
    assert_same(whole, full)


class Losing(Watcher):
    """Moves a file away at a step."""

    def __init__(self, at, path):
        self.at, self.path = at, path

    def step(self, trainer, loss):
        if trainer.progress.steps == self.at:
            self.path.rename(self.path.with_suffix(".away"))


def test_a_file_that_goes_within_an_epoch_stops_it_and_nothing_is_lost(tmp_path):
    folder = image_folder(tmp_path / "data", 24)
    net = convdsl.load_source(
        "net Small {\n  input 3@6x8\n  conv 4@3x3 -> relu -> dense 2\n"
        "  train { epochs=2, batch=4, lr=0.01, augment=[flip] }\n}\n"
    )
    spec = InputSpec.of(net.graph.inputs[0])
    recipe = resolve(net.recipe, (), spec)

    def made(out, **more):
        data = open_data(folder, spec, 2)
        everything, nothing = np.arange(len(data)), np.arange(0)
        out.mkdir(exist_ok=True)
        return Trainer(net, recipe, data, everything, nothing, out, threads=1, **more)

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    made(whole).fit()
    last = order(np.arange(48), recipe.seed, 0)[-1]
    data = open_data(folder, spec, 2)
    lost = data.paths[last]
    with pytest.raises(convdsl.CompileError, match=f"E563.*{lost.name}"):
        made(parted, watchers=[Losing(2, lost)]).fit()
    assert checkpoints.read(parted).progress.steps == 11
    lost.with_suffix(".away").rename(lost)
    made(parted).fit()
    assert_same(whole, parted)


def assert_same(first, second):
    for name in (checkpoints.LAST, checkpoints.BEST):
        expected, found = load_file(first / name), load_file(second / name)
        assert expected.keys() == found.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(found[key], array)
    ours, theirs = checkpoints.read(first), checkpoints.read(second)
    for key, array in ours.state.items():
        np.testing.assert_array_equal(theirs.state[key], array)


def killed_and_resumed(given, tmp_path, kills):
    """Trains in processes that are killed, after one that was not; returns both folders."""
    program, data = given
    command = [sys.executable, "-m", "convdsl", "train", program, "--data", data, "--resume"]
    command += ["--threads", "1", "--epochs", "40"]
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    start = time.monotonic()
    subprocess.run([*command, "--out", whole], check=True, capture_output=True)
    took = time.monotonic() - start
    generator = random.Random(0)
    for _ in range(kills):
        process = subprocess.Popen([*command, "--out", parted], stdout=subprocess.DEVNULL)
        time.sleep(generator.uniform(0.2, 1) * took)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, "--out", parted], check=True, capture_output=True)
    return whole, parted


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_goes_on_to_the_same_bits(given, tmp_path, kills):
    whole, parted = killed_and_resumed(given, tmp_path, kills)
    assert_same(whole, parted)
    assert sorted(p.name for p in parted.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_when_the_state_is_written_all_else_is_there(tmp_path, monkeypatch):
    """A process that is killed behind it leaves nothing undone: `--resume` sees nothing to do."""
    honest, written = parameters.write_bytes, []

    def writing(path, content):
        honest(path, content)
        written.append(Path(path).name)

    monkeypatch.setattr(parameters, "write_bytes", writing)
    trainer(tmp_path).fit()
    assert checkpoints.read(tmp_path).progress.finished
    assert written[-1] == checkpoints.STATE
    assert set(written) == {p.name for p in tmp_path.iterdir()}


def test_a_loss_that_is_not_finite_names_step_and_cause(tmp_path):
    hopeless = PROGRAM.replace("lr=0.05", "lr=1e18").replace("-> bn ", "").replace("clip=5,", "")
    made = trainer(tmp_path, hopeless, save_every=0)
    with pytest.raises(convdsl.CompileError, match=r"E573.*step \d+ is not finite: `.*` ") as told:
        made.fit()
    assert str(tmp_path) in str(told.value)
    kept = checkpoints.read(tmp_path)
    assert 0 < kept.progress.steps <= made.program.steps_taken
    assert f"of step {kept.progress.steps}" in str(told.value)
    assert all(np.isfinite(a).all() for a in kept.weights.values())


def test_commands_train_resume_and_evaluate(given, tmp_path, capsys):
    program, data = given
    out = tmp_path / "out"
    line = ["train", str(program), "--data", str(data), "--out", str(out), "--threads", "1"]
    assert main([*line, "--epochs", "2", "--resume"]) == 0
    names = ["best.safetensors", "confusion.svg", "curves.svg", "last.safetensors"]
    names += ["metrics.jsonl", "mistakes.png", "state.json", "state.safetensors"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert main([*line, "--epochs", "2", "--resume"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(line) == 1
    assert "E571" in capsys.readouterr().err
    weights = ["--weights", str(out / "best.safetensors"), "--format", "json"]
    assert main(["evaluate", str(program), "--data", str(data), *weights]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == 200
    assert set(told) == {"samples", "loss", "accuracy"}
    assert 0 < told["accuracy"] <= 1


def test_the_seconds_of_an_epoch_are_those_of_all_that_trained_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, watchers=[Stop(3)]).fit()
    kept = checkpoints.read(tmp_path)
    assert kept.progress.seconds > 0
    longer = replace(kept.progress, seconds=kept.progress.seconds + 1000)
    checkpoints.write(tmp_path, replace(kept, progress=longer))
    made = trainer(tmp_path)
    made.fit()
    first, *others = [metrics["seconds"] for metrics in made.progress.history]
    assert first > 1000
    assert all(0 < seconds < 1000 for seconds in others)


def test_a_changed_recipe_is_no_resumption(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, watchers=[Stop(2)]).fit()
    with pytest.raises(convdsl.CompileError, match=r"E571.*`lr`"):
        trainer(tmp_path, PROGRAM.replace("lr=0.05", "lr=0.06"))


def test_a_checkpoint_from_before_a_setting_was_there_is_one_without_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, watchers=[Stop(2)]).fit()
    kept = checkpoints.read(tmp_path)
    told = {name: value for name, value in kept.progress.recipe.items() if name not in FORMERLY}
    assert len(told) == len(kept.progress.recipe) - len(FORMERLY)
    checkpoints.write(tmp_path, replace(kept, progress=replace(kept.progress, recipe=told)))
    with pytest.raises(convdsl.CompileError, match=r"E571.*`batch_norm`"):
        trainer(tmp_path, PROGRAM.replace("lr=0.05", "lr=0.05, batch_norm=synchronised"))
    assert trainer(tmp_path).progress.steps == 2


WRONG = {
    "optimizer=sdg": ("E101", "no optimiser called `sdg`"),
    "optimizer=adam(beta=0.9)": ("E103", "`adam` has no parameter `beta`"),
    "optimizer=adam, momentum=0.9": ("E103", "`adam` has no momentum"),
    "optimizer=sgd(nesterov=1)": ("E201", "`nesterov` of `sgd` takes `on` or `off`"),
    "schedule=step(every=0)": ("E201", "`every` takes a whole number of at least 1"),
    "schedule=multi_step(at=3)": ("E201", "`at` of `multi_step` takes a list of epochs"),
    "batch_norm=global": ("E101", "no batch normalisation called `global`"),
    "batch_norm=local(n=2)": ("E103", "`local` has no parameter `n`"),
    "batch_norm=2": ("E201", "`batch_norm` of `train` takes a name"),
    "loss=hinge": ("E101", "no loss called `hinge`"),
    "augment=[flap]": ("E564", "no augmentation called `flap`"),
}


@pytest.mark.parametrize("text", WRONG)
def test_what_a_recipe_cannot_have_is_told_with_its_place(text):
    code, message = WRONG[text]
    with pytest.raises(convdsl.CompileError) as raised:
        resolve((), settings(text, "--flags"), InputSpec("x", (1, 8, 8)))
    (found,) = raised.value.diagnostics
    assert found.code == code
    assert message in found.message
    assert found.span is not None


def test_check_holds_recipes_to_what_there_is(tmp_path, capsys):
    path = tmp_path / "t.cnn"
    path.write_text("net T {\n  input 4\n  dense 2\n  train { schedule=cosinus }\n}\n")
    assert main(["check", str(path)]) == 1
    out, err = capsys.readouterr()
    assert "E101" in err
    assert "t.cnn:4:20" in err
    assert out.endswith(": 1 error\n")


def test_schedules():
    assert Step(3, 0.5).factor(6.5, 10) == 0.25
    assert MultiStep((2, 4), 0.1).factor(4.0, 10) == pytest.approx(0.01)
    assert Cosine(0.2).factor(5, 10) == pytest.approx(0.6)
    cycle = OneCycle(0.1, 0.01, 0.5)
    assert [cycle.factor(e, 10) for e in (0, 5, 10)] == pytest.approx([0.1, 1.0, 0.01])
    warm = Recipe(lr=2.0, warmup=4)
    assert [warm.rate(e) for e in (0, 1, 8)] == [0.0, 0.5, 2.0]
