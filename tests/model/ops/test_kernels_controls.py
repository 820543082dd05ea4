"""Negative controls of the kernels' tests: each breaks a kernel in one place, and must be noticed."""

import pytest
import torch

from model.ops import kernel
from model.ops.nms import nms
from model.ops.roi_pool import roi_pool
from tests.model.ops.cuda_on_cpu import DivergedError, needs_compiler
from tests.model.ops.test_kernels import OPS, check_roi_pools_gradient, gradient, random_case, torchvisions
from tests.model.ops.test_nms import random_boxes

pytestmark = needs_compiler


@pytest.mark.parametrize("reverse", [False, True])
def test_control_a_tie_that_suppresses_is_noticed(kernels, reverse):
    tie = torch.tensor([[0.0, 0.0, 1.0, 10.0], [0.0, 0.0, 1.0, 5.0]])
    with kernels(reverse, mutation=(" > thresh", " >= thresh")):
        assert nms(tie, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]


@OPS
def test_control_a_missing_barrier_is_noticed(kernels, op):
    place = "      tile[c][bin] = value(c0 + c, bin0 + bin);\n    }\n"
    x, rois, indices = random_case(1, 8, 8, 8, 4)
    x = x.to(memory_format=torch.channels_last)  # a thread then writes what another computed
    expected = op(x, rois, indices, 9, 1 / 16)
    mutation = (place + "    __syncthreads();\n", place)
    assert mutation[0] in kernel.source("roi_pool")
    seen = []
    for reverse in (False, True):
        with kernels(reverse, mutation):
            seen.append(torch.allclose(op(x, rois, indices, 9, 1 / 16), expected, atol=1e-4))
    assert not all(seen)


def test_control_a_missing_barrier_of_nms_is_noticed(kernels):
    boxes, scores = random_boxes(300, 60, seed=4)
    expected = nms(boxes.float(), scores.float(), 0.5)
    place = "      alive = chosen;\n    }\n"
    assert place + "    __syncthreads();\n" in kernel.source("nms")
    seen = []
    for reverse in (False, True):
        with kernels(reverse, mutation=(place + "    __syncthreads();\n", place)):
            seen.append(torch.equal(nms(boxes.float(), scores.float(), 0.5), expected))
    assert not all(seen)


def test_control_the_barrier_behind_a_batch_of_rois_is_noticed(kernels):
    """It guards the bins of 256 RoIs against the next 256."""
    x, rois, indices = random_case(1, 3, 5, 4, 300)
    expected = gradient(torchvisions(roi_pool), x, rois, indices, 3, 1 / 16)[1]
    place = "    }\n    __syncthreads();\n  }\n  if (c < C) store(grad_x"
    assert place in kernel.source("roi_pool")
    seen = []
    for reverse in (False, True):
        with kernels(reverse, mutation=(place, place.replace("    __syncthreads();\n", ""))):
            grad = gradient(roi_pool, x, rois, indices, 3, 1 / 16)[1]
        seen.append(torch.allclose(grad, expected, rtol=1e-5, atol=1e-4))
    assert not all(seen)


@pytest.mark.parametrize(
    "instead",
    ["if (threadIdx.x < 7) __syncthreads();", "if (threadIdx.x % 2)\n  __syncthreads();\n  else\n  __syncthreads();"],
)
def test_control_a_barrier_that_not_all_threads_reach_is_noticed(kernels, instead):
    boxes, scores = random_boxes(300, 60, seed=4)
    place = "  }\n  __syncthreads();\n  if (own >= count) return;"
    assert place in kernel.source("nms")
    with kernels(mutation=(place, place.replace("__syncthreads();", instead))), pytest.raises(DivergedError):
        nms(boxes.float(), scores.float(), 0.5)


@pytest.mark.parametrize("size", [7, 13])
def test_control_a_last_bin_that_ends_with_the_roi_is_noticed(kernels, size):
    """In float32 the last bin's end may be one cell further, and the forward pass goes there."""
    place = "bin_end(P - 1, g.bin_height)"
    assert place in kernel.source("roi_pool")
    with kernels(mutation=(place, "g.height")), pytest.raises(AssertionError):
        check_roi_pools_gradient("cpu", size)
