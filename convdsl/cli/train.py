"""Train a network on data: a folder of class folders, of idx files, or an .npz with x and y.

The recipe is the program's `train` section; flags go before it. DIR gets last.safetensors,
best.safetensors, state.*, metrics.jsonl and curves.svg, in the end confusion.svg and mistakes.png
of the best weights on the test part; a run that was killed goes on with --resume, to the same
result. `mpiexec -n K convdsl train ...` trains in K processes."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from convdsl.cli import networks
from convdsl.cli.compile import add_target
from convdsl.cli.output import report
from convdsl.cli.progress import View
from convdsl.diagnostics import problem
from convdsl.graph import Setting
from convdsl.language import recipe as settings
from convdsl.network import Network
from convdsl.runtime import parameters
from convdsl.runtime.inputs import InputSpec
from convdsl.training import checkpoints
from convdsl.training.augment import AUGMENTATIONS
from convdsl.training.checkpoints import CONFUSION, MISTAKES
from convdsl.training.data import Data, has_test_part, open_data, split
from convdsl.training.evaluation import Evaluation, class_count
from convdsl.training.jobs import Job
from convdsl.training.ranks import job
from convdsl.training.recipe import BATCH_NORMS, OPTIMIZERS, Recipe, resolve
from convdsl.training.reports import confusion_matrix, worst_mistakes
from convdsl.training.schedules import SCHEDULES
from convdsl.training.trainer import Trainer, Watcher

FLAGS = {
    "epochs": ("N", "times through the data"),
    "batch": ("N", "examples a step, of all processes together"),
    "batch_norm": ("NAME", f"in several processes: {', '.join(BATCH_NORMS)}"),
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
    with job() as processes:
        with processes.together():
            network = networks.load(args)
            if processes.writes:
                report(network.warnings)
            class_count(network)
            recipe = resolve(network.recipe, _flags(args), InputSpec.of_graph(network.graph))
            folder = args.out or Path(f"{network.name}-training")
        if processes.of_first(lambda: _is_to_do(folder, args.resume)):
            _train(args, network, recipe, folder, processes)
    return 0


def _is_to_do(folder: Path, resume: bool) -> bool:
    """Whether a folder, which is made, has not been trained in to the end.

    Raises CompileError E571 where a training is there that is not to be resumed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = checkpoints.read(folder)
    if kept and not resume:
        raise problem("E571", f"{folder} holds a training already", "`--resume` goes on with it")
    if kept and kept.progress.finished:
        print(f"{folder}: finished, {kept.progress.epoch} epochs are done")
        return False
    return True


def _train(
    args: argparse.Namespace, network: Network, recipe: Recipe, folder: Path, processes: Job
) -> None:
    spec, classes = InputSpec.of_graph(network.graph), class_count(network)
    with processes.together():
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
        (*([view] if processes.writes else []), Ending(test, folder)),
        accuracy=args.accuracy,
        target=args.target,
        precision=args.precision,
        job=processes,
    )
    if processes.writes:
        _announce(trainer, folder)
    try:
        trainer.fit()
    except KeyboardInterrupt:
        if processes.writes:
            view.clear()
            told = f"interrupted after step {trainer.progress.steps:,}, which {folder} keeps"
            print(f"{told}; `--resume` goes on from there", file=sys.stderr)
        raise
    skipped = dict.fromkeys(pair for found in processes.all_of(data.skipped) for pair in found)
    if processes.writes:
        _report_skipped(skipped)


def _announce(trainer: Trainer, folder: Path) -> None:
    recipe, processes = trainer.recipe, trainer.job.size
    shared = f" in {processes} processes" if processes > 1 else ""
    print(
        f"{trainer.network.name}: {len(trainer.training):,} examples to train on, "
        f"{len(trainer.validation):,} to validate, "
        f"batch {recipe.batch}{shared}, {recipe.epochs} epochs -> {folder}",
        flush=True,
    )


class Ending(Watcher):
    """Evaluates the best weights on the test part, or what was held out, and draws the mistakes."""

    def __init__(self, test: Data | None, folder: Path) -> None:
        self.test, self.folder = test, folder

    def end(self, trainer: Trainer) -> None:
        part, data, indices = "validation", trainer.data, trainer.validation
        if self.test is not None:
            part, data, indices = "test", self.test, np.arange(len(self.test))
        if not len(indices):
            return
        best = trainer.job.of_first(lambda: parameters.read(self.folder / checkpoints.BEST))
        trainer.inference.update(best)
        found = trainer.evaluate(data, indices)
        with trainer.job.together():
            if trainer.job.writes:
                self._draw(found, data, trainer.network.name, part)

    def _draw(self, found: Evaluation, data: Data, name: str, part: str) -> None:
        confusion, mistakes = self.folder / CONFUSION, self.folder / MISTAKES
        title = f"{name}, {part}"
        print(
            f"{part}: {found.samples:,} examples, loss {found.loss:.4f}, "
            f"{found.accuracy:.2%} right -> {confusion}, {mistakes}",
            flush=True,
        )
        parameters.write_text(confusion, confusion_matrix(found, data, title))
        parameters.write_bytes(mistakes, worst_mistakes(found, data, title))


def _flags(args: argparse.Namespace) -> tuple[Setting, ...]:
    found: list[Setting] = []
    for name in FLAGS:
        text = getattr(args, name)
        if text is not None:
            found += settings(f"{name}={text}", f"--{name.replace('_', '-')} {shlex.quote(text)}")
    return tuple(found)


def _report_skipped(skipped: Iterable[tuple[str, str]]) -> None:
    for path, reason in skipped:
        print(f"skipped {path}: {reason}", file=sys.stderr)
