"""The training loop: epochs of steps, evaluated, kept in checkpoints, watched by callbacks."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from convdsl.diagnostics import CompileError, Diagnostic, problem
from convdsl.network import Network
from convdsl.passes import AVERAGE
from convdsl.runtime import parameters
from convdsl.runtime.program import Program
from convdsl.training import augment, checkpoints, divergence
from convdsl.training.checkpoints import Checkpoint, Progress
from convdsl.training.data import Data
from convdsl.training.evaluation import class_count, evaluate, share_right
from convdsl.training.interruption import as_a_whole
from convdsl.training.loading import batches
from convdsl.training.recipe import Recipe
from convdsl.views.drawing.curves import curves

Array = np.ndarray
SAVE_EVERY = 30.0
"""Seconds after which a checkpoint is written within an epoch."""


class Diverged(CompileError):
    """A loss is not finite."""


class Watcher:
    """Is told how a training goes; to be extended."""

    def step(self, trainer: Trainer, loss: float) -> None:
        """A step was taken, whose loss this is."""

    def epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """An epoch is done."""

    def end(self, trainer: Trainer) -> None:
        """All epochs are done; called again where a training is killed meanwhile and resumed."""


class Trainer:
    """Trains a network on data by a recipe.

    ``training`` and ``validation`` are indices into ``data``. With a ``folder`` everything is kept
    there, and `fit` goes on from the checkpoint that it holds: on the same number of ``threads`` to
    the bit-identical result. ``target``, ``precision`` and ``accuracy`` are those of
    `Network.compile`; on the GPU the next batch travels while one is in use, and in fp16 the loss
    is scaled by a factor that checkpoints keep. Raises CompileError E571 where the checkpoint is of
    another training, E572 where network or data cannot be trained on, E512 where there is no GPU to
    train on.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        data: Data,
        training: Array,
        validation: Array,
        folder: Path | None = None,
        threads: int | None = None,
        watchers: Sequence[Watcher] = (),
        save_every: float = SAVE_EVERY,
        accuracy: str = "fast",
        target: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        class_count(network)
        self.batches = len(training) // recipe.batch
        if not self.batches:
            raise problem(
                "E572", f"{len(training)} examples are less than a batch of {recipe.batch}"
            )
        self.network, self.recipe, self.data, self.folder = network, recipe, data, folder
        self.training, self.validation, self.watchers = training, validation, watchers
        self.save_every = save_every
        options: dict[str, Any] = {"target": target, "batch": recipe.batch, "threads": threads}
        options |= {"accuracy": accuracy, "precision": precision, "seed": recipe.seed}
        self.precision = precision
        self.program = network.compile(
            train=True, loss=recipe.loss, optimizer=recipe.optimizer, **options
        )
        self._options = options
        self.progress = Progress(recipe=self._identity())
        self.augmentations = recipe.augment
        self._saved = 0
        kept = checkpoints.read(folder) if folder else None
        if kept is not None:
            self._restore(kept)
        else:
            self.augmentations = augment.fit(recipe.augment, data, training)

    @cached_property
    def inference(self) -> Program:
        """The network compiled for evaluating, with whatever weights it was given last."""
        return self.network.compile(**self._options)

    def _identity(self) -> dict[str, str]:
        """What has to be the same for a training to go on."""
        recipe = self.recipe
        told = {name: str(value) for name, value in vars(recipe).items()}
        told["augment"] = ", ".join(map(str, recipe.augment))
        told |= {"network": self.network.to_text(), "examples": str(len(self.training))}
        return {**told, "precision": self.precision}

    def _restore(self, kept: Checkpoint) -> None:
        # Before there were others, all were trained in float32.
        before, now = {"precision": "fp32", **kept.progress.recipe}, self.progress.recipe
        differ = [name for name in now if before.get(name) != now[name]]
        if differ:
            raise problem(
                "E571",
                f"{self.folder} holds a training with another `{differ[0]}`",
                "give another folder with `--out`, or what the training was begun with",
            )
        self.progress = kept.progress
        self._saved = kept.progress.steps
        self.program.update(kept.weights)
        self.program.resume(kept.state, kept.progress.steps)
        self.augmentations = augment.restored(self.recipe.augment, kept.learned)

    # -- the loop ----------------------------------------------------------------------------
    def fit(self) -> None:
        """Train to the end. What stops it, Ctrl-C too, loses no step that was taken.

        Raises CompileError E573 for a loss that is not finite, E563 for an example that is lost.
        """
        if self.folder:
            checkpoints.clean(self.folder)
            self._write_reports()
        try:
            while self.progress.epoch < self.recipe.epochs:
                self._epoch()
            for watcher in self.watchers:
                watcher.end(self)
        except Diverged:
            raise
        except (KeyboardInterrupt, CompileError):
            self.save()
            raise
        self.progress = replace(self.progress, finished=True)
        self.save()

    def _epoch(self) -> None:
        at = self.progress
        since = saved = time.monotonic()
        given = batches(
            self.data,
            self.training,
            self.recipe.batch,
            self.augmentations,
            self.recipe.seed,
            at.epoch,
            at.batch,
        )
        # Where it stops early no thread goes on.
        with closing(given), closing(self.program.prefetch(given)) as ahead:
            for number, (x, target) in enumerate(ahead, at.batch):
                loss = self._step(number, x, target, since)
                since = time.monotonic()
                for watcher in self.watchers:
                    watcher.step(self, loss)
                if since - saved >= self.save_every:
                    self.save()
                    saved = time.monotonic()
        self._end_epoch()

    def _step(self, number: int, x: Array, target: Array, since: float) -> float:
        """Take the step of the epoch's batch of that number and note it, both or neither.

        Its time counts from ``since``, when the step before it was done.
        """
        rate = self.recipe.rate(self.progress.epoch + number / self.batches)
        with as_a_whole():
            loss = self.program.step(x, target, lr=rate)
            if not math.isfinite(loss):
                raise self._diverged(np.asarray(x))
            self.progress = replace(
                self.progress,
                batch=number + 1,
                loss=self.progress.loss + loss,
                right=self.progress.right
                + share_right(self.program.prediction, np.asarray(target)),
                seconds=self.progress.seconds + time.monotonic() - since,
                steps=self.program.steps_taken,
            )
        return loss

    def _end_epoch(self) -> None:
        at = self.progress
        weights = self.weights()
        metrics: dict[str, Any] = {
            "epoch": at.epoch + 1,
            "step": at.steps,
            "lr": self.recipe.rate(at.epoch + 1 - 1 / self.batches),
            "loss": at.loss / self.batches,
            "accuracy": at.right / self.batches,
        }
        if len(self.validation):
            self.inference.update(weights)
            found = evaluate(self.inference, self.data, self.validation)
            metrics |= {"val_loss": found.loss, "val_accuracy": found.accuracy}
        value = metrics.get("val_accuracy", -metrics["loss"])
        better = at.best is None or value > at.best
        metrics["seconds"] = round(at.seconds, 3)
        if self.folder and better:  # before this counts as the best, for it may be stopped here
            parameters.write(self.folder / checkpoints.BEST, weights)
        self.progress = replace(
            at,
            epoch=at.epoch + 1,
            batch=0,
            loss=0.0,
            right=0.0,
            seconds=0.0,
            best=value if better else at.best,
            history=(*at.history, metrics),
        )
        if self.folder:
            self.save()
            self._write_reports()
        for watcher in self.watchers:
            watcher.epoch(self, metrics)

    def _diverged(self, x: Array) -> Diverged:
        step = self.program.steps_taken + 1
        cause = divergence.cause(self.program, x)
        where = ""
        if self.folder and self.folder.joinpath(checkpoints.STATE).exists():
            where = f"; {self.folder} holds the last good checkpoint, of step {self._saved}"
        return Diverged(
            Diagnostic(
                "E573",
                f"the loss of step {step} is not finite: {cause}{where}",
                help=("a lower learning rate, `clip=1` or `warmup=1` may help",),
            )
        )

    # -- what is kept ------------------------------------------------------------------------
    def weights(self) -> dict[str, Array]:
        """Copies of the weights to evaluate with: those of now, or their moving average.

        A mean that the augmentation `pixel_mean` takes off is among them, as in weights files.
        """
        state = self.program.state
        now = {**self.program.parameters, **self.program.buffers}
        weights = {name: np.array(state.get(name + AVERAGE, now[name])) for name in now}
        mean = augment.input_mean(self.augmentations)
        return weights if mean is None else {**weights, parameters.INPUT_MEAN: mean}

    def save(self) -> None:
        """Write checkpoint and weights, unless these went wrong. Raises CompileError E504."""
        program = self.program
        weights = {**program.parameters, **program.buffers}
        if not self.folder or not all(np.isfinite(a).all() for a in weights.values()):
            return
        parameters.write(self.folder / checkpoints.LAST, self.weights())
        learned = augment.learned(self.augmentations)
        self._saved = self.progress.steps
        checkpoints.write(self.folder, Checkpoint(self.progress, weights, program.state, learned))

    def _write_reports(self) -> None:
        assert self.folder is not None
        history = self.progress.history
        lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
        parameters.write_text(self.folder / checkpoints.METRICS, lines)
        if history:
            text = curves(history, self.network.name)
            parameters.write_text(self.folder / checkpoints.CURVES, text)
