"""Convolutions and products whose factors have 16 bits: bfloat16 or float16, on tensor cores.

Feature maps lie in blocks of eight channels, sixteen bytes at every position. So whatever a window
meets is a whole access, slices in shared memory are pieces of feature maps as they lie in global
memory, and matrices of eight rows fill all banks: nothing is padded, swizzled or shifted.
"""
