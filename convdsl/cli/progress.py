"""What a person sees of a training: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, TextIO

from convdsl.training.trainer import Trainer, Watcher

BAR = 20
"""The length of the bar, in characters."""
REDRAWN, TOLD = 0.1, 30.0
"""Seconds after which the bar is drawn again, and within an epoch a plain line is printed."""


class View(Watcher):
    """Lines for epochs; for the steps a bar on a terminal, now and then a line elsewhere.

    Loss and accuracy are those of the epoch so far.
    """

    def __init__(self, lines: TextIO | None = None, bar: TextIO | None = None) -> None:
        self.lines, self.bar = lines or sys.stdout, bar or sys.stderr
        self.steps = 0
        self.start = self.shown = 0.0

    def step(self, trainer: Trainer, loss: float) -> None:
        now = time.monotonic()
        if not self.steps:  # what was before the first step, compiling, says nothing of the rest
            self.start = self.shown = now
        self.steps += 1
        drawn = self.bar.isatty()
        if now - self.shown < (REDRAWN if drawn else TOLD):
            return
        self.shown = now
        text = self._told(trainer, now)
        if drawn:
            columns = shutil.get_terminal_size().columns
            print(f"\r\x1b[K{text[: columns - 1]}", end="", file=self.bar, flush=True)
        else:
            print(text, file=self.lines, flush=True)

    def epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        self.clear()
        speed = trainer.batches * trainer.recipe.batch / max(metrics["seconds"], 1e-9)
        told = [
            f"epoch {metrics['epoch']}/{trainer.recipe.epochs}: loss {metrics['loss']:.4f}",
            f"{metrics['accuracy']:.2%} right",
        ]
        if "val_loss" in metrics:
            told.append(f"validation loss {metrics['val_loss']:.4f}")
            told.append(f"{metrics['val_accuracy']:.2%} right")
        told.append(f"{speed:,.0f} images/s")
        left = self._left(trainer, time.monotonic())
        if left:
            told.append(f"{_minutes(left)} left")
        print(", ".join(told), file=self.lines, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self.bar.isatty():
            print("\r\x1b[K", end="", file=self.bar, flush=True)

    def _told(self, trainer: Trainer, now: float) -> str:
        at = trainer.progress
        share = at.batch / trainer.batches
        bar = ("█" * round(BAR * share)).ljust(BAR, "░") if self.bar.isatty() else f"{share:.0%}"
        rate = (self.steps - 1) / (now - self.start)
        return (
            f"epoch {at.epoch + 1}/{trainer.recipe.epochs} {bar} loss {at.loss / at.batch:.4f}, "
            f"{at.right / at.batch:.2%} right, {rate * trainer.recipe.batch:,.0f} images/s, "
            f"{_minutes(self._left(trainer, now))} left"
        )

    def _left(self, trainer: Trainer, now: float) -> float:
        """Seconds until the end, at the pace of this process so far."""
        at = trainer.progress
        remaining = (trainer.recipe.epochs - at.epoch) * trainer.batches - at.batch
        return remaining * (now - self.start) / max(self.steps - 1, 1)


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    minutes = f"{hours}:{rest // 60:02}" if hours else f"{rest // 60}"
    return f"{minutes}:{rest % 60:02}"
