"""The CUDA kernels on a GPU: against torchvision's operators there and against our own CPU path."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.ops import kernel
from model.ops.nms import batched_nms, nms, nms_padded
from model.ops.roi_align import roi_align
from tests.model.ops.test_kernels import DTYPES, LAYOUTS, OPS, gradient, random_case, torchvisions
from tests.model.ops.test_nms import random_boxes

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(autouse=True)
def with_kernels():
    if not kernel.works(torch.cuda.current_device()):
        pytest.skip("CuPy does not work here: the kernels are not used")


def fuzzed(seed):
    """A case whose sizes are random too, on the GPU."""
    generator = torch.Generator().manual_seed(seed)
    n, c, h, w, n_roi = (int(torch.randint(1, top, (), generator=generator)) for top in (4, 300, 40, 50, 400))
    return [tensor.cuda() for tensor in random_case(n, c, h, w, n_roi, seed)]


@OPS
@LAYOUTS
@DTYPES
@pytest.mark.parametrize("seed", range(8))
def test_equal_to_torchvision(op, layout, dtype, seed):
    x, rois, indices = fuzzed(seed)
    x = (x / 300).to(dtype=dtype, memory_format=layout)
    expected, expected_grad = gradient(torchvisions(op), x, rois, indices, 7, 1 / 16)
    out, grad = gradient(op, x, rois, indices, 7, 1 / 16)
    rough = dtype != torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-2 if rough else 1e-4, atol=1e-2 if rough else 1e-4)
    torch.testing.assert_close(grad, expected_grad, rtol=3e-2 if rough else 1e-3, atol=3e-2 if rough else 1e-3)


@OPS
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_the_cpu(op, seed):
    x, rois, indices = fuzzed(seed)
    out, grad = gradient(op, x, rois, indices, 7, 1 / 16)
    expected, expected_grad = gradient(op, x.cpu(), rois.cpu(), indices.cpu(), 7, 1 / 16)
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(grad.cpu(), expected_grad, rtol=1e-4, atol=1e-2)


@OPS
@pytest.mark.parametrize("samples", [0, 2])
def test_gradients_are_the_same_in_100_runs(op, samples):
    x, rois, indices = random_case(2, 64, 38, 50, 128)
    arguments = (rois.cuda(), indices.cuda(), 7, 1 / 16, *([samples] if op is roi_align else []))
    first = gradient(op, x.cuda(), *arguments)[1]
    assert all(torch.equal(gradient(op, x.cuda(), *arguments)[1], first) for _ in range(100))


@OPS
def test_on_torchs_current_stream(op):
    """What is queued before on the stream has happened when the kernel runs."""
    x, rois, indices = (tensor.cuda() for tensor in random_case(2, 64, 38, 50, 128))
    expected = op(x * 3, rois, indices, 7, 1 / 16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = torch.zeros_like(x)
        torch.cuda._sleep(50_000_000)
        late.copy_(x * 3)
        out = op(late, rois, indices, 7, 1 / 16)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(out, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
@OPS
def test_on_another_device_than_the_current_one(op):
    x, rois, indices = random_case(2, 64, 38, 50, 128)
    expected = op(x, rois, indices, 7, 1 / 16)
    out = op(*(tensor.to("cuda:1") for tensor in (x, rois, indices)), 7, 1 / 16)
    assert out.device == torch.device("cuda:1")
    torch.testing.assert_close(out.cpu(), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("n_post", [1, 300, 2000, None])
@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 2047, 2049, 6000, 12000])
def test_nms_equals_the_cpus(n, n_post):
    boxes, scores = random_boxes(n, 400, seed=n)
    expected = nms(boxes.float(), scores, 0.7, n_post)
    assert torch.equal(nms(boxes.float().cuda(), scores.cuda(), 0.7, n_post).cpu(), expected)


def test_groups_and_unequal_counts_equal_the_cpus():
    generator = torch.Generator().manual_seed(0)
    corner = torch.randint(0, 300, (4, 5000, 2), generator=generator).float()
    boxes = torch.cat([corner, corner + torch.randint(4, 60, (4, 5000, 2), generator=generator)], dim=2)
    group, count = torch.randint(0, 20, (4, 5000), generator=generator), torch.tensor([5000, 0, 1, 2500])
    expected = nms_padded(boxes, 0.5, 700, group, count)
    kept = nms_padded(boxes.cuda(), 0.5, 700, group.cuda(), count.cuda())
    assert torch.equal(kept.index.cpu(), expected.index)
    assert torch.equal(kept.count.cpu(), expected.count)
    scores = torch.rand(5000, generator=generator)
    expected = batched_nms(boxes[0], scores, group[0], 0.5)
    assert torch.equal(batched_nms(boxes[0].cuda(), scores.cuda(), group[0].cuda(), 0.5).cpu(), expected)


def test_padded_nms_never_waits():
    boxes = torch.rand(2, 3000, 4, device="cuda").sort(dim=2).values * 300
    count = torch.tensor([3000, 10], device="cuda")
    nms_padded(boxes, 0.5, 300, count=count)
    torch.cuda.set_sync_debug_mode("error")
    try:
        nms_padded(boxes, 0.5, 300, count=count)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@OPS
def test_under_autocast_and_compile(op):
    x, rois, indices = (tensor.cuda() for tensor in random_case(2, 64, 20, 30, 50))
    expected = op(x, rois, indices, 7, 1 / 16)
    with torch.autocast("cuda", dtype=torch.bfloat16):
        torch.testing.assert_close(op(x, rois, indices, 7, 1 / 16), expected)
    compiled = torch.compile(lambda x: op(x, rois, indices, 7, 1 / 16) * 2)
    torch.testing.assert_close(compiled(x), expected * 2)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("compute-sanitizer") is None, reason="no compute-sanitizer")
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool):
    chosen = "test_equal_to_the_cpu or test_groups_and_unequal_counts"
    words = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9"]
    words += [sys.executable, "-m", "pytest", "-q", __file__, "-k", chosen]
    done = subprocess.run(words, cwd=Path(__file__).resolve().parents[3], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "9 passed" in done.stdout  # 4 cases of each operator, 1 of NMS: none was skipped
    assert "skipped" not in done.stdout
