"""model/ops/kernel.py without a GPU: what is handed to CuPy, here a stand-in, and what happens where CuPy fails."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.ops import kernel

CPU, GPU = torch.device("cpu"), torch.device("cuda", 1)


@pytest.fixture(autouse=True)
def forget():
    """What is compiled and what works is remembered for the process."""
    caches = (kernel.works, kernel._function, kernel._module, kernel._stream)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


class Scope:
    """A context that stands in `current` while it is entered."""

    def __init__(self, where, current):
        self.where, self.current = where, current

    def __enter__(self):
        self.current.append(self.where)

    def __exit__(self, *error):
        self.current.pop()


class FakeCuPy:
    """Records what is compiled and launched, and in which device and stream."""

    def __init__(self):
        self.compiled, self.launched, self.current = [], [], []
        self.cuda = SimpleNamespace(Device=self.device, Stream=SimpleNamespace(from_external=self.stream))

    def device(self, index):
        return Scope(("device", index), self.current)

    def stream(self, foreign):
        version, pointer = foreign.__cuda_stream__()
        assert version == 0
        return Scope(("stream", pointer), self.current)

    def RawModule(self, code, options):  # noqa: N802
        self.compiled.append((code, options, tuple(self.current)))
        return SimpleNamespace(get_function=self.function)

    def function(self, name):
        return lambda *arguments: self.launched.append((name, *arguments, tuple(self.current)))


@pytest.fixture
def cupy(monkeypatch):
    fake = FakeCuPy()
    monkeypatch.setitem(sys.modules, "cupy", fake)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=77 + device.index))
    return fake


def test_launches_on_torchs_stream_and_device(cupy):
    kernel.launch("nms", "nms_keep", (3, 1, 1), 256, (5, 0.5), GPU, torch.float16)
    ((name, grid, block, values, where),) = cupy.launched
    assert (name, grid, block, values) == ("nms_keep", (3, 1, 1), (256,), (5, 0.5))
    assert where == (("device", 1), ("stream", 78))
    ((code, options, compiled_where),) = cupy.compiled
    assert code == kernel.source("nms")
    assert "-DSCALAR_FLOAT16" in options
    assert compiled_where == (("device", 1),)


def test_compiles_once_for_each_device_and_dtype(cupy):
    for _ in range(2):
        for device in (GPU, torch.device("cuda", 0)):
            for dtype in kernel.SCALARS:
                for name in ("roi_pool_forward", "roi_pool_backward"):
                    kernel.launch("roi_pool", name, (1, 1, 1), 32, (), device, dtype)
    assert len(cupy.compiled) == 2 * 3
    assert len(cupy.launched) == 2 * 2 * 3 * 2


def test_nothing_to_do_launches_nothing(cupy):
    kernel.launch("nms", "nms_keep", (0, 1, 1), 256, (), GPU)
    assert cupy.launched == []


def test_a_grid_that_no_gpu_takes(cupy):
    kernel.launch("nms", "nms_keep", (2**20, 65535, 1), 256, (), GPU)
    with pytest.raises(ValueError, match="at most 65535 in y and z"):
        kernel.launch("nms", "nms_keep", (1, 1, 65536), 256, (), GPU)


def test_an_absent_cupy_is_one_warning(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # what `import` then finds is an ImportError
    with pytest.warns(UserWarning, match="CuPy does not work here .*torchvision's operators are used") as seen:
        assert [kernel.works(0) for _ in range(3)] == [False] * 3
    assert len(seen) == 1


def test_a_cupy_for_another_driver_is_one_warning(cupy):
    def refuse(index):
        raise RuntimeError("cudaErrorInsufficientDriver: too old\nand much more")

    cupy.cuda.Device = refuse
    with pytest.warns(UserWarning, match=r"\(cudaErrorInsufficientDriver: too old\).*cupy-cuda12x") as seen:
        assert [kernel.works(0) for _ in range(3)] == [False] * 3
    assert len(seen) == 1


def test_what_the_kernels_take(cupy):
    def tensor(dtype, is_cuda=True):
        return SimpleNamespace(is_cuda=is_cuda, dtype=dtype, device=GPU)

    assert all(kernel.takes(tensor(dtype)) for dtype in (torch.float32, torch.float16, torch.bfloat16))
    assert not kernel.takes(tensor(torch.float64))
    assert not kernel.takes(tensor(torch.float32, is_cuda=False))


def test_arguments_of_a_kernel():
    tensor = torch.zeros(3)
    values = kernel.arguments((tensor, None, 7, 0.5, np.int64(9)), CPU)
    assert [type(v) for v in values] == [np.uintp, np.uintp, np.int32, np.float32, np.int64]
    assert values[0] == tensor.data_ptr()
    with pytest.raises(ValueError, match="meta"):
        kernel.arguments((torch.zeros(3, device="meta"),), CPU)
    with pytest.raises(ValueError, match="more than a kernel counts to"):
        kernel.arguments((2**31,), CPU)
