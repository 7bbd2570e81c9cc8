"""The recipe: text, tree, graph, passes, plan, kernels, program; every stage can be printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convdsl import passes
from convdsl.diagnostics import problem
from convdsl.graph import Graph
from convdsl.passes import LossScale
from convdsl.plan import Plan, Target, plan

if TYPE_CHECKING:
    from convdsl.network import Network
    from convdsl.ops.losses import Loss
    from convdsl.runtime.program import Program

STAGES = ("ast", "graph", "plan", "python", "llvm", "asm", "ptx")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
LOSS_SCALE = {"fp16": 1024.0}
"""By how much gradients are larger while they are computed, so that fp16's range holds them; where
parameters are updated, a `LossScale` finds the factor."""
ACCURACIES = ("fast", "exact")


def compile(
    graph: Graph,
    target: str = "cpu",
    batch: int = 1,
    loss: str | Loss | None = None,
    optimizer: object | None = None,
    threads: int | None = None,
    precision: str = "fp32",
    seed: int = 0,
    recompute: bool = False,
    accuracy: str = "fast",
    ready: bool = True,
    processes: int = 1,
) -> Program:
    """A network's graph as a program: for inference, or for training with a loss.

    With the accuracy ``exact`` every convolution is a sum of products; ``fast`` also uses
    Winograd's algorithm, whose results stay within 1e-4 of the largest (relative to float64).
    On the GPU the ``precision`` is what the factors of convolutions and products are rounded to;
    in bf16 and fp16 feature maps are stored in 16 bits, too. A program that is not to be ``ready``
    has no device and no compiled kernels: all that is written into a package, and cannot run. One
    for several ``processes`` is trained in as many (`training/parallel.py`), which exchange the
    statistics of a batch; its ``batch`` is the part of each.
    """
    _check(batch, precision, optimizer, accuracy)
    device = _target(target, threads, accuracy, precision)
    scale = scale_of(precision, optimizer)
    lowered = laid_out(lower(graph, loss, optimizer, recompute, scale, processes), device)
    planned = plan(lowered, batch, device)
    if target == "cuda":
        _check_counts(planned)
    from convdsl.runtime.program import Program

    program = Program(lowered, planned, seed)
    if ready and target == "cuda":
        from convdsl.runtime.cuda import CudaMachine

        program.attach(CudaMachine(planned, program.variables))
    elif ready:
        from convdsl.runtime.cpu import CpuMachine

        program.attach(CpuMachine(planned, program.variables))
    return program


def lower(
    graph: Graph,
    loss: str | Loss | None = None,
    optimizer: object | None = None,
    recompute: bool = False,
    scale: float | LossScale = 1.0,
    processes: int = 1,
) -> Graph:
    """The graph in primitive ops: for inference, or with a loss, gradients and updates.

    Gradients are ``scale`` times as large while they are computed; one that is found while training
    takes an optimiser. In training the statistics of a batch are over so many ``processes``.
    """
    graph = passes.specialise(graph, loss is not None, processes)
    if loss is not None:
        graph = passes.add_loss(passes.expand(graph, keep_differentiable=True), loss)
        graph = passes.add_gradients(graph, (*graph.parameters, *graph.inputs), scale)
    if isinstance(optimizer, passes.Optimizer):
        graph = passes.add_updates(graph, optimizer)
        if isinstance(scale, LossScale):
            graph = passes.guard_updates(graph, scale)
    graph = passes.expand(graph)
    graph = passes.fuse(passes.simplify(graph))
    return passes.recompute(graph) if recompute and loss is not None else graph


def scale_of(precision: str, optimizer: object | None = None) -> float | LossScale:
    """By how much gradients are larger while they are computed."""
    scale = LOSS_SCALE.get(precision, 1.0)
    return LossScale() if optimizer is not None and scale != 1.0 else scale


def emit(
    network: Network,
    stage: str,
    target: str = "cpu",
    batch: int = 1,
    train: bool = False,
    precision: str = "fp32",
    arch: str = "sm_80",
    accuracy: str = "fast",
) -> str:
    """One stage of the recipe as text. Raises CompileError where the stage is not to be had."""
    from convdsl.views import listings

    _check(batch, precision, None)
    if stage == "ast":
        return listings.tree(network.file)
    if stage == "graph" and not train:
        return listings.graph(network.graph)
    scale = scale_of(precision)
    lowered = lower(network.graph, "cross_entropy" if train else None, scale=scale)
    device = _target("cuda" if stage == "ptx" else target, None, accuracy, precision)
    lowered = laid_out(lowered, device)
    if stage == "graph":
        return listings.graph(lowered)
    planned = plan(lowered, batch, device)
    if stage == "plan":
        return listings.plan(planned)
    if stage == "python":
        return "\n\n".join(kernel.source for kernel in planned.kernels)
    return _machine_code(planned, stage, arch)


def _machine_code(planned: Plan, stage: str, arch: str) -> str:
    if stage == "ptx":
        from convdsl.runtime.cuda_compilation import ptx

        return "\n".join(ptx(kernel, arch) for kernel in planned.kernels)
    if planned.target != "cpu":
        raise problem("E510", f"`{stage}` is a stage of the cpu target; cuda has `ptx`")
    from convdsl.runtime.cache import emitted

    compiled = (emitted(kernel) for kernel in planned.kernels)
    return "\n".join(c.llvm() if stage == "llvm" else c.assembly() for c in compiled)


def laid_out(graph: Graph, target: Target) -> Graph:
    """The graph in the layout that suits the target."""
    return passes.block(graph, target.lanes) if target.lanes > 1 else graph


def _target(
    name: str, threads: int | None = None, accuracy: str = "fast", precision: str = "fp32"
) -> Target:
    if name == "cpu":
        if precision != "fp32":
            raise problem(
                "E511",
                f"the precision `{precision}` is not to be had on the cpu",
                "there it is fp32; `--target cuda` has the others",
            )
        from convdsl.kernels.cpu.target import CpuTarget
        from convdsl.runtime import processor
        from convdsl.runtime.cpu import thread_count

        return CpuTarget(
            processor.lanes(), thread_count(threads), accuracy == "exact", processor.registers()
        )
    if name == "cuda":
        from convdsl.kernels.cuda.target import CudaTarget

        return CudaTarget(precision, accuracy == "exact")
    raise problem("E506", f"there is no target called `{name}`", "the targets are cpu and cuda")


def _check_counts(planned: Plan) -> None:
    """Refuse what kernels of the GPU would compute wrongly: they divide positions in 32 bits."""
    from convdsl.kernels.cuda.frame import COUNTABLE

    for step in (*planned.prepare, *planned.steps):
        most = max(buffer.elements for buffer in step.buffers)
        if most >= COUNTABLE:
            raise problem(
                "E511",
                f"`{step.name}` works on {most:,} elements at once, and on a GPU "
                f"{COUNTABLE - 1:,} are the most, at the batch {planned.batch}",
                "a smaller batch has fewer",
            )


def _check(batch: int, precision: str, optimizer: object | None, accuracy: str = "fast") -> None:
    if batch < 1:
        raise problem("E511", f"the batch must be at least 1, not {batch}")
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise problem("E511", f"the precision `{precision}` is not to be had", f"there is {known}")
    if accuracy not in ACCURACIES:
        known = " and ".join(ACCURACIES)
        raise problem("E511", f"the accuracy `{accuracy}` is not to be had", f"there are {known}")
    if optimizer is not None and not isinstance(optimizer, passes.Optimizer):
        raise problem("E511", f"{optimizer!r} is not an optimiser", "for example `convdsl.SGD()`")
