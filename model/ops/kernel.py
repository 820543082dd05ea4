"""Compiles the CUDA kernels of `model/ops/cuda` with CuPy, and launches them on torch's memory and stream."""

import functools
import warnings
from pathlib import Path

import numpy as np
import torch
import torchvision  # noqa: F401  # registers the operators that are taken where the kernels are not

FOLDER = Path(__file__).parent / "cuda"
SCALARS = {torch.float32: "SCALAR_FLOAT32", torch.float16: "SCALAR_FLOAT16", torch.bfloat16: "SCALAR_BFLOAT16"}
MAX_GRID = 65535  # blocks in y and in z, on every GPU
# Numbers that a launch and the kernels must agree on: macros there.
CHANNELS = 32  # of a block in a forward pass of a RoI operator
THREADS = 256  # of a block
MAX_BINS = 32  # a side of a RoI, in the shared memory of RoI align's backward pass
TILE, PHASE = 64, 2048  # boxes that NMS takes as the bits of one word, and in one phase
MACROS = {"CHANNELS": CHANNELS, "THREADS": THREADS, "MAX_BINS": MAX_BINS, "TILE": TILE, "PHASE": PHASE}
# No fused multiply-add: a tie of two boxes is then the same tie as on a CPU.
OPTIONS = ("--std=c++17", "--fmad=false")


def source(name):
    """The text of cuda/NAME.cu behind what all kernels share."""
    return "\n".join((FOLDER / file).read_text("utf-8") for file in ("common.cuh", f"{name}.cu"))


def options(dtype):
    """Of the compiler, for feature maps of `dtype`."""
    return (*OPTIONS, f"-D{SCALARS[dtype]}", *(f"-D{name}={value}" for name, value in MACROS.items()))


@functools.cache
def works(device_index):
    """Whether CuPy can compile for this GPU. If not (it is absent, or made for another CUDA), one warning says why."""
    try:
        _function("nms", "nms_keep", torch.float32, device_index)
    except Exception as error:  # of many classes: of the import, of the driver, of the compiler
        reason = str(error).strip().partition("\n")[0]
        warnings.warn(
            f"CuPy does not work here ({reason}): torchvision's operators are used on the GPU "
            "(pip install cupy-cuda13x, or cupy-cuda12x for an older driver)",
            stacklevel=2,
        )
        return False
    return True


def takes(x):
    """Whether the kernels work on feature maps or boxes such as `x`."""
    return x.is_cuda and x.dtype in SCALARS and works(x.device.index)


@functools.cache
def _function(name, kernel, dtype, device_index):
    """Compiled at the first launch, for one device: a module belongs to its context."""
    import cupy  # only those who launch need it

    with cupy.cuda.Device(device_index):
        return _module(name, dtype, device_index).get_function(kernel)


@functools.cache
def _module(name, dtype, device_index):
    import cupy

    return cupy.RawModule(code=source(name), options=options(dtype))


class _TorchStream:
    """What CuPy asks of a foreign stream; torch's own class has it only in later releases."""

    def __init__(self, pointer):
        self.pointer = pointer

    def __cuda_stream__(self):
        return 0, self.pointer  # the protocol's version, cudaStream_t


@functools.cache
def _stream(pointer, device_index):
    """To be called, and used, with that device current: a stream of CuPy's belongs to one."""
    import cupy

    return cupy.cuda.Stream.from_external(_TorchStream(pointer))


def arguments(values, device):
    """Values as a kernel takes them: tensors as addresses, ints as int32 and floats as float32.

    Raises:
        ValueError: a tensor of another device, or an int that int32 does not hold.
    """
    converted = []
    for value in values:
        if isinstance(value, torch.Tensor):
            if value.device != device:
                raise ValueError(f"a tensor on {value.device} for a kernel on {device}")
            value = np.uintp(value.data_ptr())
        elif value is None:
            value = np.uintp(0)
        elif isinstance(value, float):
            value = np.float32(value)
        elif not isinstance(value, np.generic):
            if not -(2**31) <= value < 2**31:
                raise ValueError(f"{value} is more than a kernel counts to")
            value = np.int32(value)
        converted.append(value)
    return converted


def launch(name, kernel, grid, n_thread, values, device, dtype=torch.float32):
    """Run `kernel` of cuda/NAME.cu, on torch's current stream of `device`. Does not wait for it.

    Args:
        grid: blocks in x, y, z.
        n_thread: of a block.
        values: the kernel's arguments: tensors, numpy scalars, ints and floats. Tensors must be contiguous unless their
            strides are among the arguments.
        dtype: of the feature maps.
    """
    if 0 in grid:
        return
    if max(grid[1:]) > MAX_GRID:
        raise ValueError(f"{kernel}: {grid} blocks, but a GPU takes at most {MAX_GRID} in y and z; give fewer images")
    import cupy

    function = _function(name, kernel, dtype, device.index)
    with cupy.cuda.Device(device.index), _stream(torch.cuda.current_stream(device).cuda_stream, device.index):
        function(grid, (n_thread,), tuple(arguments(values, device)))
