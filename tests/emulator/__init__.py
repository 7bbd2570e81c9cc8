"""Runs rendered CUDA kernels on the CPU, and reports what a GPU would do wrong in silence.

All threads of some blocks run side by side: every variable of a kernel is a NumPy vector with an
element per thread, and branches narrow a mask. So nothing is compiled, which is what a test of
hundreds of kernels spends its time on otherwise, and every access of every thread is seen.

Reported, with kernel, line, memory, index and threads: accesses out of bounds, misaligned vector
accesses, races (on shared and on global memory), barriers that not all threads of a block reach,
warp instructions that not all threads of the warp take part in, shuffles whose mask is wrong.
Memory that nobody wrote, shared or a thread's own, and what is being copied asynchronously hold
NaN, which reaches the output.

Races are found by what was accessed, not by trying orders: an element that one thread writes
between two barriers must not be touched by another one, whatever the order happened to be. That
needs no luck, and results cannot show it anyway, for here threads run in lock-step.

- `rewriting` turns a kernel into a function on vectors, `names` tells it whose values matter
- `activity` keeps which threads are active
- `memory` holds pointers, shared and local memory, and checks bounds
- `races` keeps accesses between barriers and compares them
- `banks` counts how often accesses to shared memory have to wait for each other
- `instructions` is what kernels call: barriers, shuffles, vector accesses, atomics, copies
- `narrow` is numbers in 16 bits
- `fragments` is where the elements of matrices lie in a warp's registers
- `execution` is some blocks side by side, `launching` runs a grid, `machine` a plan
"""

from emulator.banks import Banks
from emulator.errors import EmulationError
from emulator.launching import launch
from emulator.machine import EmulatedMachine, compile_emulated

__all__ = ["Banks", "EmulatedMachine", "EmulationError", "compile_emulated", "launch"]
