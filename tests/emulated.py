"""Programs in the emulator, as tests of several files run them."""

import numpy as np
from emulator import EmulatedMachine, compile_emulated


def run(graph, arrays, batch, loss=None, precision="fp32"):
    """All outputs of the emulated program, whose memory holds NaN before."""
    program = compile_emulated(graph, batch, loss, precision=precision)
    single = {n: in_single(a) for n, a in arrays.items()}
    for name, array in program.variables.items():
        if name in single:
            array[...] = single[name]
    emulated = program.machine
    assert isinstance(emulated, EmulatedMachine)
    emulated.prepare()
    plan = program.plan
    emulated.run(
        {p.name: single[p.name] for p in plan.variables if p.role in ("input", "target")},
        0,
        plan.forward,
    )
    return {p.name: emulated.view(p.buffer, p.shape).copy() for p in plan.outputs}


def in_single(array):
    return np.ascontiguousarray(array, np.float32 if array.dtype.kind == "f" else np.int64)
