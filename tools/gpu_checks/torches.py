"""Torch on the same GPU: whether it is there, and its calls captured as graphs."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import peers

from convdsl.graph import Graph
from gpu_checks.checks import Array

ELEMENTS = {"bf16": "bfloat16", "fp16": "float16"}
"""What torch calls the elements of a precision that is not float32."""


def installed() -> bool:
    return find_spec("torch") is not None


def found() -> Any:
    """Torch, where it sees the GPU."""
    if not installed():
        return None
    import torch

    return torch if torch.cuda.is_available() else None


def needed() -> Any:
    """Torch; raises RuntimeError where it does not see the GPU."""
    torch = found()
    if torch is None:
        raise RuntimeError("there is no torch here that sees the GPU")
    return torch


def calls_of(
    torch: Any, precision: str, function: Any, arrays: Sequence[Array], module: Any = None
) -> dict[str, Callable[[], None]]:
    """Captured graphs of a function, or of a module, in both formats of memory."""
    kind = getattr(torch, ELEMENTS.get(precision, "float32"))
    _choose(torch, precision)
    calls = {}
    for name, form in peers.FORMATS.items():
        order = getattr(torch, form)
        given = [torch.from_numpy(a.copy()).cuda().to(kind) for a in arrays]
        given = [g.to(memory_format=order) if g.ndim == 4 else g for g in given]
        if module is not None:
            function = copy.deepcopy(module).to(kind).to(memory_format=order)
        calls[name] = captured(torch, function, given)
    return calls


def steps_of(
    torch: Any,
    precision: str,
    graph: Graph,
    arrays: dict[str, Array],
    data: tuple[Array, Array],
    rate: float,
) -> dict[str, Callable[[], None]]:
    """Captured steps of training, in both formats of memory; under autocast in 16 bits."""
    _choose(torch, precision)
    calls = {}
    for name, form in peers.FORMATS.items():
        order = getattr(torch, form)
        module = peers.torch_module(graph, arrays, training=True).cuda().to(memory_format=order)
        optimizer = torch.optim.SGD(module.parameters(), rate, momentum=0.9, fused=True)

        def step(x: Any, y: Any, module: Any = module, optimizer: Any = optimizer) -> Any:
            with torch.enable_grad():
                optimizer.zero_grad(set_to_none=True)
                with _autocast(torch, precision):
                    loss = torch.nn.functional.cross_entropy(module(x), y)
                loss.backward()
                optimizer.step()
            return loss.detach()

        image, target = (torch.from_numpy(array.copy()).cuda() for array in data)
        given = [image.to(memory_format=order), target]
        try:
            calls[name] = captured(torch, step, given)
        except RuntimeError as reason:
            print(f"{graph.name}, {name}: not captured, {reason}", file=sys.stderr)
            calls[f"{name}, not captured"] = partial(step, *given)
    return calls


def _autocast(torch: Any, precision: str) -> Any:
    kind = getattr(torch, ELEMENTS.get(precision, "bfloat16"))
    # What it casts would be kept from one replay to the next, of weights that change.
    return torch.autocast("cuda", kind, enabled=precision in ELEMENTS, cache_enabled=False)


def _choose(torch: Any, precision: str) -> None:
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.benchmark = True


def captured(torch: Any, function: Any, given: Sequence[Any]) -> Callable[[], None]:
    """A replay of the function's launches, as torch's documentation captures them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.no_grad():
        with torch.cuda.stream(stream):
            for _ in range(3):
                function(*given)
        torch.cuda.current_stream().wait_stream(stream)
        # Programs that nobody has any more free memory when they are collected, and whoever does
        # that while launches are captured breaks the capture.
        gc.collect()
        gc.disable()
        try:
            with torch.cuda.graph(graph):
                kept = function(*given)
        finally:
            gc.enable()

    def replay(held: Any = (kept, given, function)) -> None:
        graph.replay()

    return replay


class exact:
    """Torch without tf32, for what results are compared with."""

    def __init__(self, torch: Any) -> None:
        self.backends = (torch.backends.cuda.matmul, torch.backends.cudnn)

    def __enter__(self) -> None:
        self.before = [b.allow_tf32 for b in self.backends]
        for backend in self.backends:
            backend.allow_tf32 = False

    def __exit__(self, *reason: object) -> None:
        for backend, before in zip(self.backends, self.before, strict=True):
            backend.allow_tf32 = before
