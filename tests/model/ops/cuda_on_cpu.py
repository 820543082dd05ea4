"""Compiles the kernels of `model/ops/cuda` with g++ behind cuda_shim.h, and runs them on a CPU."""

import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from model.ops import kernel

HERE = Path(__file__).parent
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to run the kernels on the CPU with")


class DivergedError(Exception):
    """A GPU would hang, or go on with what is not there yet."""


@functools.cache
def compiled(text, dtype):
    """A shared library of a kernel file's text, with `launch_KERNEL` for each of its kernels."""
    kernels = re.findall(r"__global__ void (\w+)\(", text)
    defines = [option for option in kernel.options(dtype) if option.startswith("-D")]
    command = ["g++", "-std=c++20", "-O1", "-ffp-contract=off", "-fpermissive", "-w", "-shared", "-fPIC", *defines]
    with tempfile.TemporaryDirectory(prefix="cuda_on_cpu_") as folder:  # once loaded, the file is not needed any more
        code, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        code.write_text(f'#include "{HERE}/cuda_shim.h"\n{text}\n' + "".join(f"EXPORT({name})\n" for name in kernels))
        done = subprocess.run([*command, "-o", library, code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(library))


def launch(name, kernel_name, grid, n_thread, values, device, dtype=torch.float32, text=None, reverse=False):
    """As `model.ops.kernel.launch`, on tensors in the CPU's memory.

    Args:
        text: in place of the file's, for negative controls.
        reverse: the threads of a block take their turns from the last to the first.
    """
    if 0 in grid:
        return
    library = compiled(text or kernel.source(name), dtype)
    converted = kernel.arguments(values, device)
    held = [ctypes.create_string_buffer(value.tobytes(), value.nbytes) for value in converted]
    pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(buffer) for buffer in held))
    diverged = getattr(library, f"launch_{kernel_name}")(*(*grid, 1, 1)[:3], n_thread, int(reverse), pointers)
    if diverged:
        raise DivergedError(f"{kernel_name}: the threads of a block wait at different barriers, or some are gone")
