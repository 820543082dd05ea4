"""Compiles the CUDA kernels of `model/ops/cuda` with CuPy, and launches them on torch's memory and stream."""

import functools
import importlib.util
import warnings
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "cuda"
SCALARS = {torch.float32: "SCALAR_FLOAT32", torch.float16: "SCALAR_FLOAT16", torch.bfloat16: "SCALAR_BFLOAT16"}
# No fused multiply-add: a tie of two boxes is then the same tie as on a CPU.
OPTIONS = ("--std=c++17", "--fmad=false")


def source(name):
    """The text of cuda/NAME.cu behind what all kernels share."""
    return "\n".join((FOLDER / file).read_text("utf-8") for file in ("common.cuh", f"{name}.cu"))


def options(dtype):
    """Of the compiler, for feature maps of `dtype`."""
    return (*OPTIONS, f"-D{SCALARS[dtype]}")


@functools.cache
def has_cupy():
    """Whether CuPy is installed; where it is not, torchvision's operators take over, and one warning says so."""
    if importlib.util.find_spec("cupy") is not None:
        return True
    warnings.warn(
        "CuPy is missing: torchvision's operators are used on the GPU (pip install cupy-cuda13x)", stacklevel=2
    )
    return False


def takes(x):
    """Whether the kernels work on feature maps such as `x`."""
    return x.is_cuda and x.dtype in SCALARS and has_cupy()


@functools.cache
def _module(name, dtype, device_index):
    """Compiled at the first launch, for one device: a module belongs to its context."""
    import cupy  # only those who launch need it

    with cupy.cuda.Device(device_index):
        return cupy.RawModule(code=source(name), options=options(dtype))


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
    import cupy

    with cupy.cuda.Device(device.index):
        stream = cupy.cuda.Stream.from_external(torch.cuda.current_stream(device))
        function = _module(name, dtype, device.index).get_function(kernel)
        with stream:
            function(grid, (n_thread,), tuple(arguments(values, device)))
