"""The CUDA kernels on a machine without a GPU."""

from contextlib import contextmanager

import pytest

from model.ops import kernel
from tests.model.ops.cuda_on_cpu import launch


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
