"""What training tells a person: a bar where there is a terminal, lines where there is none."""

import io
from types import SimpleNamespace

import pytest

from convdsl.cli import progress
from convdsl.training.checkpoints import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Time that passes when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return Clock(monkeypatch)


def training(epoch=1, batch=50):
    """A stand-in for a trainer, half-way through the second of four epochs of 100 batches."""
    at = Progress(epoch=epoch, batch=batch, loss=0.5 * batch, right=0.75 * batch)
    recipe = SimpleNamespace(batch=64, epochs=4)
    return SimpleNamespace(progress=at, recipe=recipe, batches=100)


def steps(view, clock, count, seconds, **where):
    for _ in range(count):
        view.step(training(**where), 9.0)
        clock.now += seconds


METRICS = {"epoch": 2, "loss": 0.5, "accuracy": 0.75, "seconds": 10.0}


def test_on_a_terminal_a_bar_has_loss_accuracy_speed_and_time_left(clock):
    lines, bar = io.StringIO(), Terminal()
    view = progress.View(lines, bar)
    steps(view, clock, 20, 0.5)
    *_, shown = bar.getvalue().split("\r\x1b[K")
    told = "loss 0.5000, 75.00% right, 128 images/s, 2:05 left"
    assert shown == f"epoch 2/4 {'█' * 10}{'░' * 10} {told}"
    assert lines.getvalue() == ""


def test_the_bar_is_drawn_ten_times_a_second_and_fits_the_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    bar = Terminal()
    steps(progress.View(io.StringIO(), bar), clock, 1001, 0.01)
    drawn = bar.getvalue().split("\r\x1b[K")[1:]
    assert 80 <= len(drawn) <= 100
    assert {len(line) for line in drawn} == {39}


def test_without_a_terminal_there_is_a_line_now_and_then_and_for_every_epoch(clock):
    lines, bar = io.StringIO(), io.StringIO()
    view = progress.View(lines, bar)
    steps(view, clock, 70, 1.0)
    view.epoch(training(epoch=2, batch=0), METRICS | {"val_loss": 0.25, "val_accuracy": 0.875})
    *within, last = lines.getvalue().splitlines()
    assert within == [
        f"epoch 2/4 50% loss 0.5000, 75.00% right, 64 images/s, {left} left"
        for left in ("4:10", "4:10")
    ]
    assert last == (
        "epoch 2/4: loss 0.5000, 75.00% right, validation loss 0.2500, 87.50% right, "
        "640 images/s, 3:22 left"
    )
    assert bar.getvalue() == ""


def test_the_last_epoch_has_no_time_left(clock):
    lines = io.StringIO()
    view = progress.View(lines, io.StringIO())
    steps(view, clock, 2, 1.0)
    view.epoch(training(epoch=4, batch=0), METRICS)
    assert lines.getvalue() == "epoch 2/4: loss 0.5000, 75.00% right, 640 images/s\n"


def test_hours_are_shown_where_there_are_some(clock):
    lines = io.StringIO()
    steps(progress.View(lines, io.StringIO()), clock, 3, 40.0)
    assert "2:46:40 left" in lines.getvalue()
