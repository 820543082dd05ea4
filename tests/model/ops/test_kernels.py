"""The CUDA kernels without a GPU: compiled by NVRTC, and run on the CPU behind a shim against slow references."""

import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from model.ops import kernel
from model.ops.kernel import PHASE
from model.ops.nms import nms, nms_padded
from model.ops.roi_align import roi_align
from model.ops.roi_pool import roi_pool, torchvision_rois
from tests.model.ops.cuda_on_cpu import needs_compiler
from tests.model.ops.test_nms import random_boxes
from tests.model.ops.test_roi_align import roi as align_roi
from tests.model.ops.test_roi_align import slow_roi_align
from tests.model.ops.test_roi_pool import roi as pool_roi
from tests.model.ops.test_roi_pool import slow_roi_pool

pytestmark = needs_compiler
NAMES = ("roi_pool", "roi_align", "nms")
SMALL = settings(max_examples=40, deadline=None)
LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
DTYPES = pytest.mark.parametrize("dtype", list(kernel.SCALARS), ids=str)
OPS = pytest.mark.parametrize("op", [roi_pool, roi_align], ids=["pool", "align"])


def random_case(n, c, h, w, n_roi, seed=0, stride=16):
    """Feature maps with distinct values, and RoIs of all sizes, some over the edges and some wholly outside."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randperm(n * c * h * w, generator=generator).reshape(n, c, h, w) / 64.0 - 20
    corner = torch.rand(n_roi, 2, generator=generator) * torch.tensor([h + 4, w + 4]) * stride - 2 * stride
    rois = torch.cat([corner, corner + torch.rand(n_roi, 2, generator=generator) * 12 * stride], dim=1)
    return x, rois, torch.randint(0, n, (n_roi,), generator=generator)


def gradient(op, x, *others, seed=0):
    """(out, grad of x) for a random gradient of out."""
    x = x.detach().requires_grad_()
    out = op(x, *others)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, x, weight)[0]


def torchvisions(op):
    """torchvision's operator with the arguments of ours, in float32 at least."""

    def call(x, rois, indices, size, scale, samples=2, aligned=True):
        wide = x if x.dtype == torch.float64 else x.float()
        boxes = torchvision_rois(rois, indices, wide.dtype)
        if op is roi_pool:
            return torchvision.ops.roi_pool(wide, boxes, size, scale).to(x.dtype)
        return torchvision.ops.roi_align(wide, boxes, size, scale, samples, aligned).to(x.dtype)

    return call


# Compilation


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
@DTYPES
@pytest.mark.parametrize("name", NAMES)
def test_nvrtc_compiles(name, dtype, arch):
    nvrtc = pytest.importorskip("cupy", reason="no CuPy").cuda.nvrtc
    program = nvrtc.createProgram(kernel.source(name), f"{name}.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"--gpu-architecture=sm_{arch}", *kernel.options(dtype)))
        assert len(nvrtc.getCUBIN(program)) > 1000
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    finally:
        nvrtc.destroyProgram(program)


@pytest.mark.parametrize("name", NAMES)
def test_shared_memory_and_threads_are_within_every_gpus_limits(name):
    """48 KB and 1,024 threads."""
    text = kernel.source(name)
    constants = dict(kernel.MACROS)
    for constant, value in re.findall(r"constexpr int (\w+) = ([^;]+);", text):
        constants[constant] = int(eval(value, {}, constants))
    size_of = {"float": 4, "int": 4, "unsigned": 4, "short": 2, "Bits": 8, "long long": 8}
    n_bytes = 0
    for kind, variables in re.findall(r"__shared__ ((?:long )?\w+) ([^;]+);", text):
        for variable in re.findall(r"\w+(?:\[[^\]]+\])*", variables):
            dimensions = [eval(d, {}, constants) for d in re.findall(r"\[([^\]]+)\]", variable)]
            n_bytes += size_of[kind] * int(np.prod(dimensions))
    assert 0 < n_bytes <= 48 * 1024
    assert kernel.THREADS <= 1024


# RoI pooling


@SMALL
@given(rows=st.lists(st.tuples(pool_roi, st.integers(0, 2)), max_size=6), size=st.sampled_from([1, 2, 4, 9]))
def test_roi_pool_agrees_with_the_slow_loop(kernels, rows, size):
    """RoIs in and out of the map, corners on rounding ties, of three images in any order; 81 bins are two tiles."""
    x, _, _ = random_case(3, 2, 6, 8, 0)
    rois, indices = [r for r, _ in rows], [i for _, i in rows]
    with kernels():
        out = roi_pool(x, torch.tensor(rois).reshape(-1, 4), torch.tensor(indices, dtype=torch.int64), size, 0.25)
    expected = slow_roi_pool(x.numpy(), rois, indices, size, 0.25)
    if size == 9:  # n/9 is no binary fraction: an edge may fall on a whole number only after rounding
        assert (out.numpy() >= expected).all()
    else:
        np.testing.assert_array_equal(out.numpy(), expected)


# Both


@OPS
@LAYOUTS
@DTYPES
@pytest.mark.parametrize("channels", [1, 31, 33, 257])
def test_equal_to_torchvision_forward_and_backward(kernels, op, layout, dtype, channels):
    x, rois, indices = random_case(2, channels, 7, 9, 20)
    x = x.to(dtype=dtype, memory_format=layout)
    expected, expected_grad = gradient(torchvisions(op), x, rois, indices, 7, 1 / 16)
    with kernels():
        out, grad = gradient(op, x, rois, indices, 7, 1 / 16)
    assert out.dtype == grad.dtype == dtype
    assert out.is_contiguous()
    torch.testing.assert_close(out, expected, rtol=0 if dtype == torch.float32 else 1e-2, atol=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-4)


@OPS
@pytest.mark.parametrize("n_roi", [0, 1, 255, 256, 257])
def test_any_number_of_rois(kernels, op, n_roi):
    """The backward pass tests 256 RoIs at a time."""
    x, rois, indices = random_case(2, 2, 5, 4, n_roi)
    expected, expected_grad = gradient(torchvisions(op), x, rois, indices, 3, 1 / 16)
    with kernels():
        out, grad = gradient(op, x, rois, indices, 3, 1 / 16)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-4)


@OPS
def test_the_order_of_threads_changes_nothing(kernels, op):
    x, rois, indices = random_case(2, 5, 6, 6, 60)
    with kernels():
        once = gradient(op, x, rois, indices, 7, 1 / 16)
    with kernels(reverse=True):
        again = gradient(op, x, rois, indices, 7, 1 / 16)
    assert torch.equal(once[0], again[0])
    assert torch.equal(once[1], again[1])


@OPS
def test_values_that_are_not_finite(path, op):
    """They stay where they are: other RoIs, and bins without such a cell, know nothing of them."""
    x, rois, indices = random_case(1, 3, 6, 6, 12)
    x[0, 0, 2:4], x[0, 1, :, 1], x[0, 2, 5] = float("nan"), float("inf"), float("-inf")
    expected, expected_grad = gradient(torchvisions(op), x, rois, indices, 3, 1 / 16)
    assert expected.isfinite().any()
    with path.run():
        out, grad = gradient(op, *(tensor.to(path.device) for tensor in (x, rois, indices)), 3, 1 / 16)
    torch.testing.assert_close(out.cpu(), expected, rtol=0, atol=1e-5, equal_nan=True)
    torch.testing.assert_close(grad.cpu(), expected_grad, rtol=1e-5, atol=1e-4)


@OPS
def test_a_view_and_transposed_strides(kernels, op):
    x, rois, indices = random_case(2, 6, 6, 8, 9)
    expected = op(x[:, 1:5], rois, indices, 3, 1 / 16)
    with kernels():
        torch.testing.assert_close(op(x[:, 1:5], rois, indices, 3, 1 / 16), expected)
        transposed = x.transpose(2, 3).contiguous().transpose(2, 3)[:, 1:5]
        torch.testing.assert_close(op(transposed, rois, indices, 3, 1 / 16), expected)


# RoI pooling's gradient


def check_roi_pools_gradient(device, size):
    """No two cells have one value, so each bin's value names its cell, which is due the bin's gradient.

    RoIs of 1 to 64 cells: for some of these sizes the last bin's end, computed in float32, is one cell beyond the RoI,
    and larger values lie there.
    """
    generator = torch.Generator().manual_seed(size)
    x = (torch.randperm(2 * 70 * 70, generator=generator).view(1, 2, 70, 70) + 1.0) / 64
    x += torch.arange(70.0)[:, None] * 200 + torch.arange(70.0) * 200  # the maximum is towards the end
    side = torch.arange(1.0, 65)
    rois = torch.stack([torch.full((64,), 2.0), torch.full((64,), 3.0), 1 + side, 2 + side.flip(0)], dim=1)
    indices = torch.zeros(64, dtype=torch.int64, device=device)
    out, grad = (t.cpu() for t in gradient(roi_pool, x.to(device), rois.to(device), indices, size, 1.0))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(0))  # as gradient() draws it
    cell_of = {value: cell for cell, value in enumerate(x.flatten().tolist())}
    assert len(cell_of) == x.numel()
    expected = torch.zeros(x.numel(), dtype=torch.float64)
    for value, w in zip(out.flatten().tolist(), weight.flatten().tolist()):
        expected[cell_of[value]] += w
    torch.testing.assert_close(grad.flatten().double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("size", [7, 13])
def test_roi_pools_gradient_goes_to_the_cells_that_the_forward_pass_took(path, size):
    with path.run():
        check_roi_pools_gradient(path.device, size)


# RoI align


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 2])
def test_roi_aligns_gradient_is_the_slow_loops(path, aligned, samples):
    """The operation is linear: a cell's share in a bin is what the loop makes of a map that is 1 in this cell alone."""
    rois = [(1.3, -3.9, 17.2, 12.6), (4.1, 5.2, 11.7, 30.3), (-30.0, -30.0, -9.0, -9.0)]
    weight = torch.randn(3, 1, 3, 3, generator=torch.Generator().manual_seed(0))  # as gradient() draws it
    expected = np.zeros((4, 5))
    for cell in range(20):
        one = np.zeros((1, 1, 4, 5))
        one.flat[cell] = 1
        share = slow_roi_align(one, rois, [0, 0, 0], 3, 0.25, samples, aligned)
        expected.flat[cell] = (share * weight.numpy()).sum()
    with path.run():
        x, indices = torch.zeros(1, 1, 4, 5, device=path.device), torch.zeros(3, dtype=torch.int64, device=path.device)
        arguments = (torch.tensor(rois, device=path.device), indices, 3, 0.25, samples, aligned)
        _, grad = gradient(roi_align, x, *arguments)
    np.testing.assert_allclose(grad[0, 0].cpu().numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("aligned", [True, False])
@SMALL
@given(
    rows=st.lists(st.tuples(align_roi, st.integers(0, 2)), max_size=4),
    size=st.sampled_from([1, 3]),
    samples=st.sampled_from([0, 1, 2, 3]),
)
def test_roi_align_agrees_with_the_slow_loop(kernels, aligned, rows, size, samples):
    x, _, _ = random_case(3, 2, 6, 8, 0)
    rois, indices = [r for r, _ in rows], [i for _, i in rows]
    boxes = torch.tensor(rois).reshape(-1, 4)
    with kernels():
        out = roi_align(x, boxes, torch.tensor(indices, dtype=torch.int64), size, 0.25, samples, aligned)
    expected = slow_roi_align(x.double().numpy(), boxes.double().tolist(), indices, size, 0.25, samples, aligned)
    np.testing.assert_allclose(out.numpy(), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("samples", [0, 1, 2, 5])
def test_roi_align_gradient(kernels, aligned, samples):
    """Against torchvision's scatter, which takes float64."""
    x, rois, indices = random_case(2, 3, 6, 7, 40)
    rois[:4] = torch.tensor([[8.0, 8, 8, 8], [30, 40, 20, 60], [-90, -90, -60, -60], [0, 0, 500, 500]])
    _, expected = gradient(torchvisions(roi_align), x.double(), rois.double(), indices, 5, 1 / 16, samples, aligned)
    with kernels():
        _, grad = gradient(roi_align, x, rois, indices, 5, 1 / 16, samples, aligned)
    torch.testing.assert_close(grad, expected.float(), rtol=1e-4, atol=1e-4)


# NMS


SIZES = [0, 1, 63, 64, 65, 127, 129, PHASE - 1, PHASE, PHASE + 1, 2 * PHASE + 64]


@pytest.mark.parametrize("n_post", [1, 64, 65, 3000])
@pytest.mark.parametrize("k", SIZES)
@pytest.mark.parametrize("n_group", [0, 3])
def test_padded_nms_equals_torchvision_at_the_edges_of_tiles_and_phases(kernels, k, n_post, n_group):
    """Three images of unequal counts; whole corners: ties of IoU at ½ occur."""
    generator = torch.Generator().manual_seed(k)
    corner = torch.randint(0, 300, (3, k, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(4, 40, (3, k, 2), generator=generator)], dim=2)
    group = torch.randint(0, n_group, (3, k), generator=generator) if n_group else None
    count = torch.tensor([k, k // 2, 0])
    expected = nms_padded(boxes, 0.5, n_post, group, count)
    assert (expected.index >= 0).sum(dim=1).tolist() == expected.count.tolist()
    for reverse in (False, True):
        with kernels(reverse):
            kept = nms_padded(boxes, 0.5, n_post, group, count)
        assert torch.equal(kept.index, expected.index)
        assert torch.equal(kept.count, expected.count)


def test_scores_and_boxes_that_are_not_finite(kernels):
    boxes, scores = random_boxes(80, 40, seed=2)
    boxes, scores = boxes.float(), scores.float()
    scores[[3, 9]], scores[5] = float("nan"), float("-inf")
    boxes[11], boxes[12, 2], boxes[13, 0] = float("nan"), float("inf"), float("-inf")
    expected = nms(boxes, scores, 0.5)
    with kernels():
        assert torch.equal(nms(boxes, scores, 0.5), expected)


# The library's side


@pytest.mark.parametrize(
    ("rois", "indices"),
    [(torch.zeros(2, 5), torch.zeros(2)), (torch.zeros(4), torch.zeros(1)), (torch.zeros(3, 4), torch.zeros(2))],
)
@OPS
def test_shapes_that_do_not_fit_are_refused(op, rois, indices):
    with pytest.raises(ValueError, match=r"must be \(N, C, H, W\), \(R, 4\) and \(R,\)"):
        op(torch.zeros(1, 2, 3, 3), rois, indices, 7, 1 / 16)


@pytest.mark.parametrize("index", [-1, 2])
@OPS
def test_an_index_of_no_image_is_refused(op, index):
    with pytest.raises(ValueError, match="there are 2 images"):
        op(torch.zeros(2, 2, 3, 3), torch.zeros(1, 4), torch.tensor([index]), 7, 1 / 16)


@OPS
def test_no_channels(path, op):
    with path.run():
        zeros = [torch.zeros(*shape, device=path.device) for shape in ((1, 0, 3, 3), (2, 4), (2,))]
        assert op(*zeros, 7, 1 / 16).shape == (2, 0, 7, 7)


@pytest.mark.parametrize("on_kernels", [False, True])
def test_opcheck(kernels, on_kernels):
    """Schema, fake tensors, autograd registration and AOT dispatch, as torch.library asks."""
    x, rois, indices = random_case(2, 3, 5, 6, 4)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    boxes = rois.abs().sort(dim=0).values[None]
    with kernels() if on_kernels else nullcontext():
        torch.library.opcheck(torch.ops.faster_rcnn.roi_pool.default, (x, rois, indices, 3, 1 / 16))
        torch.library.opcheck(torch.ops.faster_rcnn.roi_align.default, (x, rois, indices, 3, 1 / 16, 2, True))
        torch.library.opcheck(torch.ops.faster_rcnn.roi_align.default, (x, rois, indices, 3, 1 / 16, 0, False))
        count = torch.tensor([4], dtype=torch.int32)
        torch.library.opcheck(torch.ops.faster_rcnn.nms.default, (boxes, None, count, 0.5, 3))


@pytest.mark.parametrize("on_kernels", [False, True])
@OPS
def test_under_autocast_and_compile(kernels, op, on_kernels):
    x, rois, indices = random_case(2, 3, 6, 7, 9)

    def doubled(x):
        return op(x, rois, indices, 3, 1 / 16) * 2

    with kernels() if on_kernels else nullcontext():
        expected, expected_grad = gradient(doubled, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out, grad = gradient(doubled, x)
        assert torch.equal(out, expected)
        assert torch.equal(grad, expected_grad)
        out, grad = gradient(torch.compile(doubled, backend="aot_eager", fullgraph=True), x)
        assert torch.equal(out, expected)
        assert torch.equal(grad, expected_grad)


@pytest.mark.parametrize("on_kernels", [False, True])
def test_nms_under_compile(kernels, on_kernels):
    boxes, _ = random_boxes(100, 50, seed=3)
    with kernels() if on_kernels else nullcontext():
        expected = nms_padded(boxes.float()[None], 0.5, 20)
        compiled = torch.compile(lambda boxes: nms_padded(boxes, 0.5, 20), backend="aot_eager", fullgraph=True)
        kept = compiled(boxes.float()[None])
    assert torch.equal(kept.index, expected.index)
    assert torch.equal(kept.count, expected.count)
