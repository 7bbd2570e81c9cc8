"""Kernels for NVIDIA GPUs: `numba.cuda` functions, generated per family."""
