#!/usr/bin/env python3
"""Trains a network here and in torch, by the same recipe, from the same weights, on the same bits.

    tools/against_torch.py fashion_lenet --data /usr/share/datasets/fashion-mnist --to-the-end
    tools/against_torch.py fashion_resnet --data /usr/share/datasets/fashion-mnist

Run it with the environment's Python (`.venv/bin/python`), with torch in it, on a quiet machine.
Batches, shuffled and augmented, come from `convdsl.training` for both. Four things are compared:
the gradients of the first batch; the losses of the first steps; the time of a step, both taking
turns; and `--to-the-end` the accuracy on the data's test part. Recipes of SGD and cross entropy,
without clipping, averaging and `pixel_mean`, are what it translates.

Gradients are held against torch in float64, those of both: for each parameter the largest
difference over the largest value. A sum that rounds to the other side of a relu's kink, of which a
batch has millions, moves a gradient by far more than the rounding, in torch as here.
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
# The repository's own package, wherever else one is installed; what compares single steps.
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

import peers  # noqa: E402 (found by the line above)

import convdsl  # noqa: E402
from convdsl.diagnostics import CompileError  # noqa: E402
from convdsl.network import Network  # noqa: E402
from convdsl.ops.losses import CrossEntropy  # noqa: E402
from convdsl.passes import SGD  # noqa: E402
from convdsl.runtime import benchmark  # noqa: E402
from convdsl.runtime.inputs import InputSpec  # noqa: E402
from convdsl.training import augment  # noqa: E402
from convdsl.training.data import Data, has_test_part, open_data, split  # noqa: E402
from convdsl.training.evaluation import evaluate  # noqa: E402
from convdsl.training.loading import batches  # noqa: E402
from convdsl.training.recipe import Recipe, resolve  # noqa: E402
from convdsl.training.trainer import Trainer  # noqa: E402
from convdsl.views.benchmark import duration  # noqa: E402
from convdsl.views.table import Column, markdown_table  # noqa: E402

Array = np.ndarray


def main(arguments: Sequence[str] | None = None) -> int:
    args = parser().parse_args(arguments)
    args.threads = args.threads or peers.cores()
    # Before torch or Numba start any thread.
    os.environ.setdefault("NUMBA_NUM_THREADS", str(args.threads))
    import torch

    torch.set_num_threads(args.threads)
    if (load := os.getloadavg()[0]) > peers.QUIET:
        peers.say(f"the machine is busy (load average {load:.1f}): times will be noisy")
    try:
        job = Job.of(args)
        print(report(job, args))
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("network", help="a bundled name, PATH.cnn or PATH.cnn:NetName")
    made.add_argument("--data", type=Path, required=True, help="as for `convdsl train`")
    made.add_argument("--epochs", type=int, help="in place of the recipe's")
    made.add_argument("--batch", type=int, help="in place of the recipe's")
    made.add_argument("--steps", type=int, default=50, help="whose losses are compared")
    made.add_argument("--threads", type=int, help="for both; all cores if not given")
    made.add_argument("--rounds", type=int, default=7, help="in which both are timed")
    made.add_argument("--seconds", type=float, default=0.5, help="for each in each round")
    made.add_argument("--to-the-end", action="store_true", help="train both through all epochs")
    return made


# -- what both are given ---------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """A network, its recipe and its data: everything that both trainings share."""

    network: Network
    recipe: Recipe
    data: Data
    test: Data | None
    training: Array
    augmentations: tuple[augment.Augmentation, ...]
    threads: int

    @staticmethod
    def of(args: argparse.Namespace) -> Job:
        """Raises CompileError for what `convdsl train` refuses, too."""
        network = convdsl.load(args.network)
        spec = InputSpec.of(network.graph.inputs[0])
        recipe = resolve(network.recipe, (), spec)
        changes = {n: v for n in ("epochs", "batch") if (v := getattr(args, n)) is not None}
        recipe = replace(recipe, **changes)
        refuse_untranslated(recipe)
        classes = network.graph.outputs[0][1].type.channels
        data = open_data(args.data, spec, classes)
        test = open_data(args.data, spec, classes, "test") if has_test_part(args.data) else None
        training = split(data, recipe.val, recipe.seed)[0] if recipe.val else np.arange(len(data))
        learned = augment.fit(recipe.augment, data, training)
        return Job(network, recipe, data, test, training, learned, args.threads)

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return len(self.training) // self.recipe.batch

    def epoch(self, epoch: int) -> Iterator[tuple[Array, Array, float]]:
        """The batches of an epoch, each with its targets and learning rate."""
        recipe = self.recipe
        order = (self.data, self.training, recipe.batch, self.augmentations, recipe.seed, epoch)
        for number, (x, target) in enumerate(batches(*order)):
            yield x, target, recipe.rate(epoch + number / self.steps)

    def compile(self, **options: Any) -> Any:
        recipe = self.recipe
        options |= {"batch": recipe.batch, "threads": self.threads, "seed": recipe.seed}
        return self.network.compile(train=True, loss=recipe.loss, **options)


def refuse_untranslated(recipe: Recipe) -> None:
    rule = recipe.optimizer
    known = isinstance(rule.optimizer, SGD) and type(recipe.loss) is CrossEntropy
    learns = any(isinstance(a, augment.PixelMean) for a in recipe.augment)
    if not known or rule.clip or rule.average or learns:
        raise SystemExit("the recipe is not translated to torch here: see `--help`")


# -- torch -----------------------------------------------------------------------------------


class Rival:
    """The network in torch, written as a person would, in one of torch's memory formats."""

    def __init__(self, job: Job, weights: Mapping[str, Array], form: str) -> None:
        import torch

        self.job = job
        self.order = getattr(torch, form)
        module = peers.torch_module(job.network.graph, weights, training=True)
        self.module = module.to(memory_format=self.order)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> Any:
        import torch

        rule = self.job.recipe.optimizer
        assert isinstance(rule.optimizer, SGD)
        decay = rule.optimizer.weight_decay
        groups: dict[bool, list[Any]] = {True: [], False: []}
        for tensor in self.module.parameters():
            groups[not (rule.spare_vectors and tensor.ndim <= 1)].append(tensor)
        return torch.optim.SGD(
            [
                {"params": tensors, "weight_decay": decay if decayed else 0.0}
                for decayed, tensors in groups.items()
                if tensors
            ],
            lr=self.job.recipe.lr,
            momentum=rule.optimizer.momentum,
            nesterov=rule.optimizer.nesterov,
            fused=True,  # the fastest that torch has
        )

    def backward(self, x: Array, target: Array) -> float:
        """The loss; its gradients are left with the parameters."""
        import torch

        self.optimizer.zero_grad()
        given = torch.from_numpy(x).to(memory_format=self.order)
        loss = torch.nn.functional.cross_entropy(
            self.module(given),
            torch.from_numpy(target),
            label_smoothing=self.job.recipe.loss.label_smoothing,
        )
        loss.backward()
        return float(loss.detach())

    def step(self, x: Array, target: Array, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self.backward(x, target)
        self.optimizer.step()
        return loss

    def inference(self) -> Any:
        """What `evaluate` takes: the network as it is now, called on arrays."""
        state = self.module.state_dict()
        graph = self.job.network.graph
        names = [w.name for node in graph.nodes for w in node.weights]
        arrays = {n: state[attribute(n)].contiguous().numpy() for n in names}
        module = peers.torch_module(graph, arrays, training=False).requires_grad_(False)
        return Inference(module, self.job.recipe.batch)


@dataclass(frozen=True)
class Inference:
    """A module of torch that takes and gives arrays, as a compiled program does."""

    module: Any
    batch: int

    def __call__(self, x: Array) -> Array:
        import torch

        return np.asarray(self.module(torch.from_numpy(x)))

    def map(self, batches: Iterable[Sequence[Array]]) -> Iterator[Array]:
        """What calls with each of the batches return, in their order."""
        return (self(*batch) for batch in batches)


# -- what is compared ------------------------------------------------------------------------


def report(job: Job, args: argparse.Namespace) -> str:
    """All comparisons, in Markdown."""
    weights = initial_weights(job)
    steps = min(args.steps, job.steps)
    gradients, losses = compare_gradients(job, weights), compare_losses(job, weights, steps)
    seconds = time_steps(job, weights, args.rounds, args.seconds)
    fastest = min((s, n) for n, s in seconds.items() if n != peers.OURS)[1]
    rows = [
        *((f"gradients, furthest from float64: {n}", f"{d:.1e}") for n, d in gradients.items()),
        ("loss of the first step, difference", f"{losses[0]:.1e}"),
        (f"losses of the first {steps} steps, furthest apart", f"{max(losses):.1e}"),
        *((f"step, {name}", duration(s)) for name, s in seconds.items()),
        ("ratio", f"{seconds[fastest] / seconds[peers.OURS]:.2f}"),
    ]
    if args.to_the_end:
        rows += to_the_end(job, weights, fastest)
    columns = [Column(title(job)), Column("", right=True)]
    return f"{machine(job)}\n\n{markdown_table(columns, rows)}"


def title(job: Job) -> str:
    recipe = job.recipe
    return f"{job.network.name}, {recipe.epochs} epochs of {job.steps} batches of {recipe.batch}"


def machine(job: Job) -> str:
    about = benchmark.machine()
    versions = ", ".join(f"{n} {peers.version(n)}" for n in (peers.OURS, "numba", "torch"))
    threads = f"{job.threads} thread{'s' * (job.threads > 1)}"
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return (
        f"{today}; {about['processor']}, {about['cores']} cores, vectors of "
        f"{about['vector_lanes']} float32; {threads}; {versions}"
    )


def initial_weights(job: Job) -> dict[str, Array]:
    """Parameters and statistics as `convdsl train` begins with them."""
    program = job.compile()
    return {n: np.array(a) for n, a in (*program.parameters.items(), *program.buffers.items())}


def compare_gradients(job: Job, weights: Mapping[str, Array]) -> dict[str, float]:
    """How far from float64 the gradients of the first batch are at most, by who computes them.

    For each parameter that is the largest difference over the largest value.
    """
    x, target, _ = next(job.epoch(0))
    exact = torch_gradients(job, weights, x.astype(np.float64), target)
    _, ours = job.compile().value_and_grad(x, target)
    theirs = torch_gradients(job, weights, x, target)
    return {
        peers.OURS: max(peers.difference(g, exact[attribute(n)]) for n, g in ours.items()),
        "torch": max(peers.difference(g, exact[n]) for n, g in theirs.items()),
    }


def torch_gradients(
    job: Job, weights: Mapping[str, Array], x: Array, target: Array
) -> dict[str, Array]:
    """In the precision of ``x``, by the names that the module has for the parameters."""
    given = {n: w.astype(x.dtype) for n, w in weights.items()}
    rival = Rival(job, given, "contiguous_format")
    rival.backward(x, target)
    return {n: t.grad.contiguous().numpy() for n, t in rival.module.named_parameters()}


def attribute(name: str) -> str:
    """The module's name for a parameter."""
    return name.replace(".", "_")


def compare_losses(job: Job, weights: Mapping[str, Array], steps: int) -> list[float]:
    """Differences of the losses of the first steps."""
    program = job.compile(optimizer=job.recipe.optimizer)
    rival = Rival(job, weights, "contiguous_format")
    return [
        abs(program.step(x, target, lr=rate) - rival.step(x, target, rate))
        for _, (x, target, rate) in zip(range(steps), job.epoch(0), strict=False)
    ]


def time_steps(
    job: Job, weights: Mapping[str, Array], rounds: int, seconds: float
) -> dict[str, float]:
    """Median seconds of a step by who takes it. At rate 0, which is the same work."""
    x, target, _ = next(job.epoch(0))
    ours = job.compile(optimizer=job.recipe.optimizer)
    calls: dict[str, Callable[[], object]] = {peers.OURS: partial(ours.step, x, target, lr=0.0)}
    for name, form in peers.FORMATS.items():
        calls[name] = partial(Rival(job, weights, form).step, x, target, 0.0)
    competition = peers.Competition(calls, job.threads)
    competition.run(rounds, seconds)
    return competition.medians()


def to_the_end(job: Job, weights: Mapping[str, Array], form: str) -> list[tuple[str, str]]:
    """Both trained through all epochs, one after the other: wall time and, judged by each itself,
    accuracy on the test part.
    """
    rows = []
    for name, train in ((peers.OURS, train_ours), (form, partial(train_theirs, form=form))):
        start = time.perf_counter()
        inference = train(job, weights)
        rows.append((f"all epochs, {name}", duration(time.perf_counter() - start)))
        if job.test:
            found = evaluate(inference, job.test)
            rows.append((f"test accuracy, {name}", f"{found.accuracy:.2%}"))
    return rows


def train_ours(job: Job, weights: Mapping[str, Array]) -> Any:
    trainer = Trainer(
        job.network, job.recipe, job.data, job.training, np.arange(0), threads=job.threads
    )
    trainer.program.update(weights)
    trainer.fit()
    trainer.inference.update(trainer.weights())
    return trainer.inference


def train_theirs(job: Job, weights: Mapping[str, Array], form: str) -> Any:
    rival = Rival(job, weights, peers.FORMATS[form])
    for epoch in range(job.recipe.epochs):
        for x, target, rate in job.epoch(epoch):
            rival.step(x, target, rate)
    return rival.inference()


if __name__ == "__main__":
    sys.exit(main())
