"""Data-parallel training on MPI: every process takes its part of a batch, gradients are averaged.

A process is a rank of ``mpiexec -n K``. Gradients are exchanged in buckets while the backward pass
goes on: a plan stops where a bucket is complete, the exchange is started, and the plan goes on.
All ranks then do the same update, so their parameters stay equal. Batch normalisation uses the
statistics of each rank's part of the batch; the running ones are averaged after every step, so that
all that any rank keeps is what all of them keep. In a program that was compiled for several
processes it uses those of the whole batch: the plan marks the steps behind which they are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from convdsl.diagnostics import problem
from convdsl.passes import AVERAGE
from convdsl.plan.model import Buffer, Plan, Port
from convdsl.runtime.program import Pause, Program

Array = np.ndarray

BUCKET = 2**20
"""Bytes of gradients that are worth an exchange of their own."""
GRADIENT = "gradient of "


# -- buckets ---------------------------------------------------------------------------------


@dataclass
class _Bucket:
    """Gradients that are exchanged together, complete when the first ``after`` steps have run."""

    ports: list[Port] = field(default_factory=list)
    after: int = 0

    @property
    def bytes(self) -> int:
        return sum(port.buffer.bytes for port in self.ports)


def buckets(plan: Plan, size: int = BUCKET) -> list[tuple[int, tuple[Port, ...]]]:
    """Gradients in the order in which they are complete, in groups of about ``size`` bytes.

    With each group, the number of steps after which it is.
    """
    found = [_Bucket()]
    for after, port in sorted(_complete(plan), key=lambda pair: pair[0]):
        if found[-1].bytes >= size:
            found.append(_Bucket())
        found[-1].ports.append(port)
        found[-1].after = after
    return [(bucket.after, tuple(bucket.ports)) for bucket in found if bucket.ports]


def _complete(plan: Plan) -> Iterator[tuple[int, Port]]:
    """The parameters' gradients, with the number of steps after which each is complete."""
    written = {step.buffers[-1]: n + 1 for n, step in enumerate(plan.steps[: plan.shared])}
    used = {buffer for step in plan.steps[plan.forward :] for buffer in step.buffers[:-1]}
    learned = {GRADIENT + port.name for port in plan.variables if port.role == "parameter"}
    for port in plan.outputs:
        if port.name in learned:
            assert port.buffer in used, f"{port.name} is not what the update reads"
            yield written[port.buffer], port


def means(plan: Plan, due: Set[int]) -> Iterator[tuple[int, tuple[Buffer, ...]]]:
    """What is averaged over all processes before it is used, as many buffers together as can wait.

    With each group, the number of steps after which it has to be; none waits beyond a number that
    is ``due``.
    """
    assert not any(step.exchanged for step in plan.steps[plan.forward :])
    waiting: list[Buffer] = []
    for before, step in enumerate(plan.steps[: plan.shared]):
        if waiting and (before in due or not set(waiting).isdisjoint(step.buffers)):
            yield before, tuple(waiting)
            waiting.clear()
        if step.exchanged:
            waiting.append(step.buffers[-1])
    if waiting:
        yield plan.shared, tuple(waiting)


# -- stepping --------------------------------------------------------------------------------


class DataParallel:
    """A training program of which every rank has one, kept equal by averaging gradients.

    All ranks have to make the same calls in the same order.
    """

    def __init__(self, program: Program, communicator: Any, bucket: int = BUCKET) -> None:
        if program.plan.target != "cpu":
            raise problem("E511", "training in several processes is for the cpu target")
        self.program = program
        self._ranks = communicator
        self._running: list[tuple[Any, Array, tuple[Port, ...]]] = []
        program.stream = communicator.rank  # so that ranks drop out different elements
        self._pauses = self._planned(buckets(program.plan, bucket))
        running = {name + end for name in program.buffers for end in ("", AVERAGE)}
        self._statistics = [a for name, a in program.variables.items() if name in running]
        if any(step.exchanged for step in program.plan.steps):
            self._statistics = []  # they are equal already
        self.synchronise()

    def _planned(self, groups: Sequence[tuple[int, tuple[Port, ...]]]) -> list[Pause]:
        plan = self.program.plan
        found = means(plan, {after for after, _ in groups})
        averages = [Pause(after, self._averager(buffers)) for after, buffers in found]
        starts = [Pause(after, self._starter(ports)) for after, ports in groups]
        # A mean that is a gradient, too, is there before the gradient's exchange starts.
        pauses = sorted([*averages, *starts], key=lambda pause: pause.after)
        loss = Pause(plan.shared, self._starter(plan.outputs[:1]))
        return [*pauses, loss, Pause(plan.shared, self._finish)]

    def step(self, *arrays: Array, lr: float) -> float:
        """One step of all ranks on their parts of a batch; returns the loss of the whole batch."""
        loss = self.program.step(*arrays, lr=lr, pauses=self._pauses)
        if self._statistics and math.isfinite(loss):
            # They move in proportion to the batch's, so that this is what they had become with the
            # mean of the ranks' statistics.
            self._average(self._statistics)
        return loss

    def synchronise(self) -> None:
        """Give every rank the parameters, statistics and optimiser state of rank 0."""
        for array in self.program.variables.values():
            self._ranks.Bcast(array, root=0)
        self.program.update({})  # what was computed from parameters is computed again

    def _averager(self, buffers: tuple[Buffer, ...]) -> Callable[[], None]:
        """What averages what buffers of the program hold."""
        view = self.program.machine.view
        return lambda: self._average([view(b, (b.elements,)) for b in buffers])

    def _average(self, arrays: Sequence[Array]) -> None:
        """Put the means over all ranks in the place of arrays, in one exchange."""
        packed = np.concatenate([array.ravel() for array in arrays])
        self._ranks.Allreduce(_in_place(), packed)
        packed *= np.float32(1 / self._ranks.size)
        ends = np.cumsum([array.size for array in arrays])[:-1]
        for array, mean in zip(arrays, np.split(packed, ends), strict=True):
            array[...] = mean.reshape(array.shape)

    def _starter(self, ports: tuple[Port, ...]) -> Callable[[], None]:
        """What starts the exchange of some gradients, packed side by side."""
        packed = np.empty(sum(port.elements for port in ports), np.float32)

        def start() -> None:
            for target, view in self._pieces(packed, ports):
                target[...] = view
            in_place = _in_place()
            self._running.append((self._ranks.Iallreduce(in_place, packed), packed, ports))
            # MPI goes on with an exchange only while it is called.
            for request, *_ in self._running:
                request.Test()

        return start

    def _finish(self) -> None:
        share = np.float32(1 / self._ranks.size)
        for request, packed, ports in self._running:
            request.Wait()
            for summed, view in self._pieces(packed, ports):
                np.multiply(summed, share, out=view)
        self._running.clear()

    def _pieces(self, packed: Array, ports: tuple[Port, ...]) -> Iterator[tuple[Array, Array]]:
        """What stands side by side, with the memory of the program where it belongs."""
        start = 0
        for port in ports:
            piece = packed[start : start + port.elements]
            yield piece, self.program.machine.view(port.buffer, (port.elements,))
            start += port.elements


def _in_place() -> Any:
    from mpi4py import MPI

    return MPI.IN_PLACE
