"""Kernels that compile in a moment, for tests of how kernels are compiled and kept."""

import ctypes

import numpy as np

from convdsl.plan.model import Kernel


def kernel(factor, name="scale"):
    """A kernel that multiplies its one buffer."""
    source = (
        f"def {name}(table, begin, end, part):\n"
        "    x = floats(table[0])\n"
        "    for i in range(begin, end):\n"
        f"        x[i] = x[i] * {factor}\n"
    )
    return Kernel(name, (("x", "float32"),), (), source, ("contract",))


def outcome(address):
    """What the kernel at an address makes of a one."""
    x = np.ones(1, np.float32)
    table = np.array([x.ctypes.data], np.int64)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    kind(address)(table.ctypes.data, 0, 1)
    return float(x[0])
