"""Train a network on data: a folder of class folders, of idx files, or an .npz with x and y.

The recipe is the program's `train` section; flags go before it. DIR gets last.safetensors,
best.safetensors, state.*, metrics.jsonl and curves.svg; a run that was killed goes on with
--resume, to the same result."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.cli.output import report
from convdsl.diagnostics import problem
from convdsl.graph import Setting
from convdsl.language import recipe as settings
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints
from convdsl.training.augment import AUGMENTATIONS
from convdsl.training.data import has_test_part, open_data, split
from convdsl.training.evaluation import evaluate
from convdsl.training.recipe import OPTIMIZERS, resolve
from convdsl.training.schedules import SCHEDULES
from convdsl.training.trainer import Trainer, Watcher

FLAGS = {
    "epochs": ("N", "times through the data"),
    "batch": ("N", "examples a step"),
    "optimizer": ("NAME", f"{', '.join(OPTIMIZERS)}; with parameters as in 'sgd(nesterov=on)'"),
    "lr": ("RATE", "the learning rate"),
    "momentum": ("SHARE", "of sgd and rmsprop"),
    "weight_decay": ("SHARE", "of the weights, added to their gradients"),
    "schedule": ("NAME", f"{', '.join(SCHEDULES)}; as in 'step(every=30)'"),
    "augment": ("LIST", f"of {', '.join(AUGMENTATIONS)}; as in '[flip, crop(pad=4)]'"),
    "val": ("FRACTION", "held out, where the data has no test part"),
    "seed": ("N", "of weights, order, augmentation and dropout"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """The arguments of `convdsl train`."""
    networks.add_network(parser)
    networks.add_overrides(parser)
    parser.add_argument("--data", metavar="D", type=Path, required=True)
    for name, (shown, help) in FLAGS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name, metavar=shown, help=help)
    parser.add_argument("--threads", metavar="N", type=networks.positive)
    add_target(parser)
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="without it, a folder called like the network"
    )
    parser.add_argument("--resume", action="store_true", help="go on with what DIR holds")


def run(args: argparse.Namespace) -> int:
    """Train, then evaluate on the test part where there is one."""
    network = networks.load(args)
    report(network.warnings)
    spec = InputSpec.of(network.graph.inputs[0])
    recipe = resolve(network.recipe, _flags(args), spec)
    folder = args.out or Path(f"{network.name}-training")
    folder.mkdir(parents=True, exist_ok=True)
    kept = checkpoints.read(folder)
    if kept and not args.resume:
        raise problem("E571", f"{folder} holds a training already", "`--resume` goes on with it")
    if kept and kept.progress.finished:
        print(f"{folder}: finished, {kept.progress.epoch} epochs are done")
        return 0
    classes = network.graph.outputs[0][1].type.channels
    data = open_data(args.data, spec, classes)
    tested = has_test_part(args.data)
    everything = np.arange(len(data)), np.arange(0)
    training, validation = split(data, recipe.val, recipe.seed) if recipe.val else everything
    trainer = Trainer(
        network,
        recipe,
        data,
        training,
        validation,
        folder,
        args.threads,
        (_View(),),
        accuracy=args.accuracy,
        target=args.target,
        precision=args.precision,
    )
    print(
        f"{network.name}: {len(training):,} examples to train on, {len(validation):,} to validate, "
        f"batch {recipe.batch}, {recipe.epochs} epochs -> {folder}",
        flush=True,
    )
    trainer.fit()
    _report_skipped(data.skipped)
    if tested:
        trainer.inference.load(folder / checkpoints.BEST)
        test = open_data(args.data, spec, classes, "test")
        found = evaluate(trainer.inference, test, augmentations=trainer.augmentations)
        print(
            f"test: {found.samples:,} examples, loss {found.loss:.4f}, {found.accuracy:.2%} right"
        )
    return 0


def _flags(args: argparse.Namespace) -> tuple[Setting, ...]:
    found: list[Setting] = []
    for name in FLAGS:
        text = getattr(args, name)
        if text is not None:
            found += settings(f"{name}={text}", f"--{name.replace('_', '-')} {shlex.quote(text)}")
    return tuple(found)


def _report_skipped(skipped: list[tuple[str, str]]) -> None:
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)


class _View(Watcher):
    """Lines for epochs; on a terminal a bar for the steps, too."""

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.steps = 0
        self.shown = 0.0

    def step(self, trainer: Trainer, loss: float) -> None:
        self.steps += 1
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self.shown < 0.1:
            return
        self.shown = now
        rate = self.steps / (now - self.start)
        at, total = trainer.progress, trainer.recipe.epochs * trainer.batches
        left = (total - at.epoch * trainer.batches - at.batch) / rate
        share = at.batch / trainer.batches
        bar = ("█" * round(20 * share)).ljust(20, "░")
        told = (
            f"epoch {at.epoch + 1} {bar} loss {loss:.4f}{_accuracy(at.history)}, "
            f"{rate * trainer.recipe.batch:,.0f} images/s, {_minutes(left)} left"
        )
        print(f"\r\x1b[K{told}", end="", file=sys.stderr, flush=True)

    def epoch(self, trainer: Trainer, metrics: dict[str, Any]) -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        speed = trainer.batches * trainer.recipe.batch / max(metrics["seconds"], 1e-9)
        print(
            f"epoch {metrics['epoch']}/{trainer.recipe.epochs}: loss {metrics['loss']:.4f}"
            f"{_accuracy((metrics,))}, {speed:,.0f} images/s",
            flush=True,
        )


def _accuracy(history: tuple[dict[str, Any], ...]) -> str:
    known = history and "val_accuracy" in history[-1]
    return f", {history[-1]['val_accuracy']:.2%} right" if known else ""


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
