"""The CUDA kernels on a machine without a GPU."""

from collections import namedtuple
from contextlib import contextmanager, nullcontext

import pytest
import torch

from model.ops import kernel
from tests.model.ops.cuda_on_cpu import launch, needs_compiler


@pytest.fixture(scope="session")
def kernels():
    """A context in which tensors in the CPU's memory go to the kernels, run by the shim: `with kernels(): ...`.

    `reverse`: the threads of a block take turns from the last to the first. `mutation`: (old, new) text of the kernels.
    """

    @contextmanager
    def on_cpu(reverse=False, mutation=None):
        mutated = None
        if mutation:
            old, new = mutation

            def mutated(name):
                text = kernel.source(name)
                return text.replace(old, new)

        def run(name, *values, **keywords):
            return launch(name, *values, **keywords, reverse=reverse, text=mutated(name) if mutated else None)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernel, "takes", lambda x: x.dtype in kernel.SCALARS)
            patch.setattr(kernel, "launch", run)
            yield

    return on_cpu


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
PATHS = [
    "cpu",
    pytest.param("shim", marks=needs_compiler),
    pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA]),
]
Path = namedtuple("Path", ["device", "run"])


@pytest.fixture(scope="session", params=PATHS)
def path(request, kernels):
    """Each way that an operator can go: what a CPU takes, the kernels behind the shim, a GPU.

    `device` is for the tensors; the operator is called in `with path.run(): ...`.
    """
    if request.param == "shim":
        return Path("cpu", kernels)
    return Path(request.param, nullcontext)
