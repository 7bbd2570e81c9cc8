"""Kernels for the CPU: Numba functions over a range of work units, generated per family."""
