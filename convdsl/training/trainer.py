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
from typing import Any, NoReturn

import numpy as np

from convdsl.diagnostics import CompileError, Diagnostic, problem
from convdsl.network import Network
from convdsl.passes import AVERAGE
from convdsl.runtime import parameters
from convdsl.runtime.program import Program
from convdsl.training import augment, checkpoints, divergence
from convdsl.training.checkpoints import Checkpoint, Progress
from convdsl.training.data import Data
from convdsl.training.evaluation import Evaluation, class_count, evaluate, joined, share_right
from convdsl.training.jobs import Job
from convdsl.training.loading import batches
from convdsl.training.recipe import Recipe
from convdsl.views.drawing.curves import curves

Array = np.ndarray
SAVE_EVERY = 30.0
"""Seconds after which a checkpoint is written within an epoch."""
FORMERLY = {"precision": "fp32", "batch_norm": "local"}
"""How all were trained before there was anything else, and checkpoints told of it."""


class Diverged(CompileError):
    """A loss is not finite."""


class Watcher:
    """Is told how a training goes; to be extended.

    Where several processes train, each tells its own watchers.
    """

    def step(self, trainer: Trainer, loss: float) -> None:
        """A step was taken, whose loss this is."""

    def epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        """An epoch is done."""

    def end(self, trainer: Trainer) -> None:
        """All epochs are done; called again where a training is killed meanwhile and resumed.

        Here the processes of a job may do something with each other, `Trainer.evaluate` for one.
        """


class Trainer:
    """Trains a network on data by a recipe.

    ``training`` and ``validation`` are indices into ``data``. With a ``folder`` everything is kept
    there, and `fit` goes on from the checkpoint that it holds: on the same number of ``threads`` to
    the bit-identical result. ``target``, ``precision`` and ``accuracy`` are those of
    `Network.compile`; on the GPU the next batch travels while one is in use, and in fp16 the loss
    is scaled by a factor that checkpoints keep. Raises CompileError E571 where the checkpoint is of
    another training, E572 where network or data cannot be trained on, E512 where there is no GPU to
    train on.

    In a ``job`` of several processes each has a trainer, made with the same arguments; the batch is
    that of all together, the ``threads`` are those of each, and the first one alone reads and
    writes the ``folder``. Raises CompileError E574 where the batch does not divide among them.
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
        job: Job | None = None,
    ) -> None:
        self.job = job or Job()
        self.network, self.recipe, self.data = network, recipe, data
        self.folder = folder if self.job.writes else None
        self.training, self.validation, self.watchers = training, validation, watchers
        self.save_every = save_every
        self.precision = precision
        self.batches = len(training) // recipe.batch
        with self.job.together():
            self._check()
            share = self.job.share(recipe.batch)
        options = {"target": target, "batch": share, "threads": self.job.threads(threads)}
        options |= {"accuracy": accuracy, "precision": precision, "seed": recipe.seed}
        self._options: dict[str, Any] = options
        self.program = self.job.in_turn(self._compiled)
        self.progress = Progress(recipe=self._identity())
        kept = self.job.of_first(self._kept)
        self._saved = 0
        if kept is not None:
            self._restore(kept)
        else:
            self.augmentations = self.job.of_first(
                lambda: augment.fit(recipe.augment, data, training)
            )
        self._steps = self.job.parallel(self.program)

    def _check(self) -> None:
        class_count(self.network)
        if not self.batches:
            examples, batch = len(self.training), self.recipe.batch
            raise problem("E572", f"{examples} examples are less than a batch of {batch}")

    def _compiled(self) -> Program:
        recipe = self.recipe
        return self.network.compile(
            train=True,
            loss=recipe.loss,
            optimizer=recipe.optimizer,
            processes=self.job.size if recipe.batch_norm == "synchronised" else 1,
            **self._options,
        )

    @cached_property
    def inference(self) -> Program:
        """The network compiled for evaluating, with whatever weights it was given last.

        All processes of a job ask for it at the same time.
        """
        return self.job.in_turn(lambda: self.network.compile(**self._options))

    def evaluate(self, data: Data, indices: Array) -> Evaluation:
        """What `inference` gives for these examples of the data, in their order.

        All processes of a job evaluate a part of them, and get the whole.
        """
        program = self.inference
        with self.job.together():
            found = evaluate(program, data, self.job.part(indices))
        return joined(self.job.all_of(found))

    def _identity(self) -> dict[str, str]:
        """What has to be the same for a training to go on."""
        recipe = self.recipe
        told = {name: str(value) for name, value in vars(recipe).items()}
        told["augment"] = ", ".join(map(str, recipe.augment))
        told |= {"network": self.network.to_text(), "examples": str(len(self.training))}
        return {**told, "precision": self.precision}

    def _kept(self) -> Checkpoint | None:
        """The checkpoint to go on from, if any."""
        kept = checkpoints.read(self.folder) if self.folder else None
        if kept is None:
            return None
        before, now = {**FORMERLY, **kept.progress.recipe}, self.progress.recipe
        differ = [name for name in now if before.get(name) != now[name]]
        if differ:
            raise problem(
                "E571",
                f"{self.folder} holds a training with another `{differ[0]}`",
                "give another folder with `--out`, or what the training was begun with",
            )
        return kept

    def _restore(self, kept: Checkpoint) -> None:
        self.progress = kept.progress
        self._is_kept()
        self.program.update(kept.weights)
        self.program.resume(kept.state, kept.progress.steps)
        self.augmentations = augment.restored(self.recipe.augment, kept.learned)

    # -- the loop ----------------------------------------------------------------------------
    def fit(self) -> None:
        """Train to the end. What stops it, Ctrl-C too, loses no step that was taken.

        Raises CompileError E573 for a loss that is not finite, E563 for an example that is lost.
        """
        with self.job.held_back():
            with self.job.together():
                self._tidy()
            try:
                while self.progress.epoch < self.recipe.epochs:
                    self._epoch()
                for watcher in self.watchers:
                    watcher.end(self)
            except Diverged:
                raise
            except (KeyboardInterrupt, CompileError):
                with self.job.together(interruptible=False):
                    self.save()
                raise
            self.progress = replace(self.progress, finished=True)
            with self.job.together(interruptible=False):
                self.save()

    def _tidy(self) -> None:
        """The folder as the checkpoint has it, without what a killed process left there."""
        if self.folder:
            checkpoints.clean(self.folder)
            self._write_reports()

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
            shard=self.job.shard,
        )
        # Where it stops early no thread goes on.
        with closing(given), closing(self.program.prefetch(given)) as ahead:
            for number in range(at.batch, self.batches):
                with self.job.together():
                    x, target = next(ahead)
                loss = self._step(number, x, target, since)
                since = time.monotonic()
                with self.job.together():
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
        loss = self._steps.step(x, target, lr=rate)
        if not math.isfinite(loss):
            self._diverged(np.asarray(x))
        right = share_right(self.program.prediction, np.asarray(target))
        self.progress = replace(
            self.progress,
            batch=number + 1,
            loss=self.progress.loss + loss,
            right=self.progress.right + self.job.mean(right),
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
            found = self.evaluate(self.data, self.validation)
            metrics |= {"val_loss": found.loss, "val_accuracy": found.accuracy}
        value = metrics.get("val_accuracy", -metrics["loss"])
        better = at.best is None or value > at.best
        metrics["seconds"] = round(at.seconds, 3)
        with self.job.together():
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

    def _diverged(self, x: Array) -> NoReturn:
        """Raise what went wrong first, in the first process where something did."""
        causes = [found for found in self.job.all_of(divergence.cause(self.program, x)) if found]
        cause = next(iter(causes), "the kernels' rounding went out of range")
        step = self.program.steps_taken + 1
        with self.job.together():
            where = ""
            if self.folder and self.folder.joinpath(checkpoints.STATE).exists():
                where = f"; {self.folder} holds the last good checkpoint, of step {self._saved}"
            if self.job.writes:
                raise Diverged(
                    Diagnostic(
                        "E573",
                        f"the loss of step {step} is not finite: {cause}{where}",
                        help=("a lower learning rate, `clip=1` or `warmup=1` may help",),
                    )
                )
        raise AssertionError("it was raised in all processes")

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
        checkpoints.write(self.folder, Checkpoint(self.progress, weights, program.state, learned))
        self._is_kept()

    def _is_kept(self) -> None:
        """Note that the checkpoint is of the step that was taken last."""
        self._saved = self.progress.steps
        kept = f"{self.folder} holds the checkpoint of step {self._saved:,}"
        self.job.leave_words(f"{kept}; `--resume` goes on from there")

    def _write_reports(self) -> None:
        assert self.folder is not None
        history = self.progress.history
        lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
        parameters.write_text(self.folder / checkpoints.METRICS, lines)
        if history:
            text = curves(history, self.network.name)
            parameters.write_text(self.folder / checkpoints.CURVES, text)
