"""Our RoI pooling, RoI align and NMS beside torchvision's operators, on the same tensors in one run.

    python misc/bench_ops.py            # on a GPU if there is one
    python misc/bench_ops.py --device=cpu

Prints Markdown: the median time of each, their ratio (above 1: ours is faster) and, on a GPU, the bytes that must move
at the least as a share of the card's measured copy bandwidth. The tables of the last runs are in docs/performance.md.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision

from model.ops import kernel
from model.ops.nms import batched_nms, nms
from model.ops.roi_align import roi_align
from model.ops.roi_pool import roi_pool, torchvision_rois
from utils.bbox_tools import yx2xy
from utils.cli_tool import device_argument

# name, (N, C, H, W), RoIs, stride, the RoIs' longest side in pixels: an FPN sends larger ones to other levels
SIZES = [
    ("VGG16, 600×800, 128 RoIs", (1, 512, 38, 50), 128, 16, 800),
    ("VGG16, 600×800, 2000 RoIs", (1, 512, 38, 50), 2000, 16, 800),
    ("FPN level 2, 800×1088, 128 RoIs", (1, 256, 200, 272), 128, 4, 112),
    ("FPN level 2, 800×1088, 2000 RoIs", (1, 256, 200, 272), 2000, 4, 112),
    ("FPN level 4, 800×1088, 2000 RoIs", (1, 256, 50, 68), 2000, 16, 448),
    ("MobileNetV2, 2 × 320×427, 128 RoIs", (2, 96, 20, 27), 128, 16, 427),
    ("Tiny, 4 × 160×192, 256 RoIs", (4, 128, 20, 24), 256, 8, 192),
]
MANY = 300_000  # RoIs times channels, above which torchvision takes minutes on a CPU


def seconds(functions, device, n=9):
    """Median time of a call of each function; they take turns, and the first two turns do not count."""
    times = [[] for _ in functions]
    for _ in range(n + 2):
        for own, function in zip(times, functions, strict=True):
            if device.type == "cuda":
                begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                begin.record()
                function()
                end.record()
                end.synchronize()
                own.append(begin.elapsed_time(end) / 1e3)
            else:
                start = time.perf_counter()
                function()
                own.append(time.perf_counter() - start)
    return [median(own[2:]) for own in times]


def random_boxes(n, height, width, generator, longest=10_000):
    """(n, 4) boxes (y_min, x_min, y_max, x_max) with sides of 16 to `longest` px, within the picture."""
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([height - 16.0, width - 16.0])
    room = (torch.tensor([float(height), float(width)]) - corner).clamp(max=longest)
    return torch.cat([corner, corner + 16 + torch.rand(n, 2, generator=generator) * (room - 16)], dim=1)


def roi_rows(device, generator):
    """(what, our function, torchvision's, bytes at the least): each map and output is read or written once a pass."""
    for kind, ours, theirs in (
        ("RoI pooling", roi_pool, lambda x, boxes, scale: torchvision.ops.roi_pool(x, boxes, 7, scale)),
        ("RoI align", roi_align, lambda x, boxes, scale: torchvision.ops.roi_align(x, boxes, 7, scale, 2, True)),
    ):
        for name, shape, n_rois, stride, longest in SIZES:
            if device.type == "cpu" and n_rois * shape[1] > MANY:
                continue
            x = torch.randn(shape, generator=generator).to(device, memory_format=torch.channels_last).requires_grad_()
            rois = random_boxes(n_rois, shape[2] * stride, shape[3] * stride, generator, longest).to(device)
            index = torch.arange(n_rois, device=device) % shape[0]
            boxes, scale = torchvision_rois(rois, index, x.dtype), 1 / stride
            grad = torch.randn(n_rois, shape[1], 7, 7, generator=generator).to(device)

            def our_call(op=ours, x=x, rois=rois, index=index, scale=scale, grad=grad):
                op(x, rois, index, 7, scale).backward(grad)
                x.grad = None

            def their_call(op=theirs, x=x, boxes=boxes, scale=scale, grad=grad):
                op(x, boxes, scale).backward(grad)
                x.grad = None

            yield f"{kind}, forward + backward: {name}", our_call, their_call, 2 * 4 * (x.numel() + grad.numel())


def nms_rows(device, generator):
    for n, n_post in ((12000, 2000), (6000, 300), (1000, 300)):
        bbox = random_boxes(n, 600, 800, generator).to(device)
        score = torch.rand(n, generator=generator).to(device)
        yield (
            f"NMS at IoU 0.7: {n} → {n_post} boxes",
            lambda bbox=bbox, score=score, k=n_post: nms(bbox, score, 0.7, k),
            lambda bbox=bbox, score=score, k=n_post: torchvision.ops.nms(yx2xy(bbox), score, 0.7)[:k],
            None,
        )
    bbox = random_boxes(6000, 600, 800, generator).to(device)
    score, group = torch.rand(6000, generator=generator).to(device), (torch.arange(6000) % 20).to(device)
    yield (
        "NMS at IoU 0.3 by class: 20 × 300 boxes",
        lambda: batched_nms(bbox, score, group, 0.3),
        lambda: torchvision.ops.batched_nms(yx2xy(bbox), score, group, 0.3),
        None,
    )


def copy_bandwidth(device):
    """Bytes a second of a large copy, read and written."""
    source = torch.empty(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    (time_of_copy,) = seconds([lambda: target.copy_(source)], device)
    return 2 * source.numel() / time_of_copy


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", type=device_argument)
    parser.add_argument("--only", default="", help="rows whose name has this text")
    args = parser.parse_args()
    device = args.device
    generator = torch.Generator().manual_seed(0)
    on_gpu = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    bandwidth = copy_bandwidth(device) if on_gpu else None
    print(f"torch {torch.__version__}, {device} ({where})" + (f", copies {bandwidth / 1e9:.0f} GB/s" if on_gpu else ""))
    if on_gpu and not kernel.works(torch.cuda.current_device()):
        parser.error("CuPy does not work here: torchvision's operators would be compared with themselves")
    if not on_gpu:
        print("left out, as they take minutes on a CPU:", "; ".join(s[0] for s in SIZES if s[2] * s[1][1] > MANY))
    print("\n| operation | ours, ms | torchvision, ms | ratio |" + (" of the copy bandwidth |" if on_gpu else ""))
    print("|---|---|---|---|" + ("---|" if on_gpu else ""))
    for rows in (roi_rows, nms_rows):
        for name, our_call, their_call, n_bytes in rows(device, generator):
            if args.only not in name:
                continue
            ours, theirs = seconds([our_call, their_call], device)
            share = f" {n_bytes / ours / bandwidth:.0%} |" if on_gpu and n_bytes else " |" if on_gpu else ""
            print(f"| {name} | {ours * 1e3:.2f} | {theirs * 1e3:.2f} | {theirs / ours:.1f} |{share}", flush=True)


if __name__ == "__main__":
    main()
