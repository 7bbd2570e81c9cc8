"""Arrays of other libraries on the emulated GPU, whose memory is the host's.

They come from NumPy's own DLPack, whose capsules are made to say that they are of a GPU.
"""

import numpy as np

from convdsl.runtime import dlpack


def on_the_gpu(gpu, array, shift=0):
    """The array's content in the GPU's memory, so many bytes behind an aligned address."""
    address = gpu._new(array.nbytes + shift) + shift
    found = gpu.at(address)[: array.nbytes].view(array.dtype).reshape(array.shape)
    found[:] = array
    return found


class Described:
    """An array of a library that has `__cuda_array_interface__` alone."""

    def __init__(self, array, strides=None, stream=None):
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (array.ctypes.data, False),
            "strides": strides,
            "version": 3,
            "stream": stream,
        }


class Tensor:
    """An array of a library that speaks DLPack, which writes it on a stream of its own."""

    def __init__(self, gpu, memory, content, versioned=True, number=0):
        self.gpu, self.memory = gpu, memory
        self.stream = gpu.cuStreamCreate(1)[1]
        self.versioned, self.number = versioned, number
        self.given = []
        memory[...] = np.nan if memory.dtype.kind == "f" else -1

        def write():
            memory[...] = content

        gpu._put(self.stream, write)

    def __dlpack_device__(self):
        return dlpack.CUDA, self.number

    def __dlpack__(self, *, stream, **more):
        if not self.versioned and more:
            raise TypeError("an argument that came with version 1.0")
        self.given.append(stream)
        self.gpu.cuEventRecord(event := self.gpu.cuEventCreate(2)[1], self.stream)
        self.gpu.cuStreamWaitEvent(stream, event, 0)
        capsule = self.memory.__dlpack__(**more)
        name = dlpack.NEW if self.versioned else dlpack.OLD
        structure = dlpack._Versioned if self.versioned else dlpack._Managed
        structure.from_address(dlpack._content(capsule, name)).tensor.device_kind = dlpack.CUDA
        return capsule
