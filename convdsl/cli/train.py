"""Train a network on data: a folder of class folders, of idx files, or an .npz with x and y.

The recipe is the program's `train` section; flags go before it. DIR gets last.safetensors,
best.safetensors, state.*, metrics.jsonl and curves.svg, in the end confusion.svg and mistakes.png
of the best weights on the test part; a run that was killed goes on with --resume, to the same
result."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np

from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.cli.output import report
from convdsl.cli.progress import View
from convdsl.diagnostics import problem
from convdsl.graph import Setting
from convdsl.language import recipe as settings
from convdsl.runtime import parameters
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints, parallel
from convdsl.training.augment import AUGMENTATIONS
from convdsl.training.checkpoints import CONFUSION, MISTAKES
from convdsl.training.data import Data, has_test_part, open_data, split
from convdsl.training.evaluation import class_count, evaluate
from convdsl.training.recipe import OPTIMIZERS, resolve
from convdsl.training.reports import confusion_matrix, worst_mistakes
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
    "val": ("FRACTION", "held out of training, to choose the best weights by; 0 for none"),
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
    """Train, then evaluate on the test part, or where there is none on what was held out."""
    if parallel.started() > 1:
        raise problem(
            "E570",
            f"`train` is one process, and {parallel.started()} were started as a job",
            "`convdsl.training.parallel` trains in several processes, from Python",
        )
    network = networks.load(args)
    report(network.warnings)
    classes = class_count(network)
    spec = InputSpec.of_graph(network.graph)
    recipe = resolve(network.recipe, _flags(args), spec)
    folder = args.out or Path(f"{network.name}-training")
    folder.mkdir(parents=True, exist_ok=True)
    kept = checkpoints.read(folder)
    if kept and not args.resume:
        raise problem("E571", f"{folder} holds a training already", "`--resume` goes on with it")
    if kept and kept.progress.finished:
        print(f"{folder}: finished, {kept.progress.epoch} epochs are done")
        return 0
    data = open_data(args.data, spec, classes)
    test = open_data(args.data, spec, classes, "test") if has_test_part(args.data) else None
    everything = np.arange(len(data)), np.arange(0)
    training, validation = split(data, recipe.val, recipe.seed) if recipe.val else everything
    view = View()
    trainer = Trainer(
        network,
        recipe,
        data,
        training,
        validation,
        folder,
        args.threads,
        (view, _Ending(test)),
        accuracy=args.accuracy,
        target=args.target,
        precision=args.precision,
    )
    print(
        f"{network.name}: {len(training):,} examples to train on, {len(validation):,} to validate, "
        f"batch {recipe.batch}, {recipe.epochs} epochs -> {folder}",
        flush=True,
    )
    try:
        trainer.fit()
    except KeyboardInterrupt:
        view.clear()
        told = f"interrupted after step {trainer.progress.steps:,}, which {folder} keeps"
        print(f"{told}; `--resume` goes on from there", file=sys.stderr)
        raise
    _report_skipped(data.skipped)
    return 0


class _Ending(Watcher):
    """Evaluates the best weights on the test part, or what was held out, and draws the mistakes."""

    def __init__(self, test: Data | None) -> None:
        self.test = test

    def end(self, trainer: Trainer) -> None:
        part, data, indices = "validation", trainer.data, trainer.validation
        if self.test is not None:
            part, data, indices = "test", self.test, np.arange(len(self.test))
        folder = trainer.folder
        if not len(indices) or folder is None:
            return
        trainer.inference.load(folder / checkpoints.BEST)
        found = evaluate(trainer.inference, data, indices)
        print(
            f"{part}: {found.samples:,} examples, loss {found.loss:.4f}, "
            f"{found.accuracy:.2%} right -> {folder / CONFUSION}, {folder / MISTAKES}",
            flush=True,
        )
        title = f"{trainer.network.name}, {part}"
        parameters.write_text(folder / CONFUSION, confusion_matrix(found, data, title))
        parameters.write_bytes(folder / MISTAKES, worst_mistakes(found, data, title))


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
