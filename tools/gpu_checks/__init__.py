"""The parts of `tools/gpu_check.py`: checks of the CUDA target, and how they are run."""
