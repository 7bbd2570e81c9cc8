"""Which kernel it was: programs step by step, beside the emulator where that is quick enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from convdsl.plan.model import Buffer, Step
from convdsl.runtime.cuda import CudaMachine
from gpu_checks.checks import Array, Check, Row, Wanted, first_wrong, given

ALLOWED = {"fp32": 1e-4, "tf32": 1e-4, "bf16": 2e-2, "fp16": 4e-3}
"""Of the largest value of a step's result: the emulator rounds as a GPU does, in another order."""


def told(step: Step) -> Row:
    """A launch, for people who have to find what is wrong with it."""
    kernel = step.kernel
    names = [name for name, _ in kernel.pointers]
    return {
        "step": step.name,
        "kernel": f"{kernel.name}_{kernel.key}",
        "blocks": step.work,
        "threads": kernel.threads,
        "sizes": dict(zip(kernel.sizes, step.sizes, strict=True)),
        "elements": {n: b.elements for n, b in zip(names, step.buffers, strict=True)},
        "places": {n: f"{b.place}+{b.offset}" for n, b in zip(names, step.buffers, strict=True)},
    }


def failing(check: Check) -> Row:
    """The first launch of the check's programs after which the device reports an error."""
    for wanted in check.programs:
        step: Step | None = None
        try:
            program = wanted.program()
            machine = program.machine
            assert isinstance(machine, CudaMachine)
            walk = machine.one_by_one(given(program, wanted.arrays()))
            while (following := next(walk, None)) is not None:
                step = following
        except Exception as reason:
            words = f"{type(reason).__name__}: {reason}"
            return {"error": words, **(told(step) if step else {"step": "before the first"})}
    return {"step": "none: the launches pass one by one"}


def differing(check: Check) -> Row:
    """The first launch whose result is not the emulator's."""
    for wanted in check.programs:
        found = _differing(wanted)
        if found:
            return found
    return {"step": "none: one by one, all results are the emulator's"}


def _differing(wanted: Wanted) -> Row | None:
    from emulator import EmulatedMachine

    program = wanted.program()
    machine = program.machine
    assert isinstance(machine, CudaMachine)
    inputs = given(program, wanted.arrays())
    emulated = EmulatedMachine(program.plan, program.variables)
    emulated.prepare()
    machine.spoil()
    before: Step | None = None
    number = -len(program.plan.prepare)
    for step in machine.one_by_one(inputs):
        if before and (found := _compared(machine, emulated, before, wanted.precision)):
            return found
        if number >= 0:
            emulated.run(inputs, number, number + 1)
        number += 1
        before = step
    return _compared(machine, emulated, before, wanted.precision) if before else None


def _compared(machine: Any, emulated: Any, step: Step, precision: str) -> Row | None:
    buffer = step.buffers[-1]
    found, expected = (_numbers(m, buffer) for m in (machine, emulated))
    there = np.isfinite(expected)
    found, expected = np.where(there, found, 0), np.where(there, expected, 0)
    wrong = first_wrong(found, expected, ALLOWED[precision])
    off = abs(wrong["found"] - wrong["expected"])
    if off <= ALLOWED[precision] * np.abs(expected).max(initial=0.0):
        return None
    return {**told(step), **wrong}


def _numbers(machine: Any, buffer: Buffer) -> Array:
    """The content of a buffer as float64, without what lies between its images."""
    span = buffer.spanned(machine.plan.batch)
    images = machine.plan.batch if buffer.image else 1
    own = np.arange(images)[:, None] * buffer.image + np.arange(buffer.elements // images)
    if buffer.dtype not in ("float16", "bfloat16"):
        found = np.asarray(machine.view(span, (span.elements,)), np.float64)
        return found[own].ravel()
    found = np.asarray(machine.view(replace(span, dtype="uint16"), (span.elements,)), np.uint16)
    bits = found[own].ravel()
    if buffer.dtype == "float16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
