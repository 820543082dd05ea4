"""Our RoI align and NMS beside torchvision's operators, on the same tensors in one run: times and ratios, in Markdown.

    python misc/bench_ops.py            # on a GPU if there is one
    python misc/bench_ops.py --device=cpu

The table of the last run is in docs/performance.md. A ratio above 1 says that ours is faster.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torchvision

from model.ops.nms import nms
from model.ops.roi_align import roi_align
from model.ops.roi_pool import torchvision_rois
from utils.bbox_tools import yx2xy

SIZES = [  # name, (N, C, H, W), RoIs, stride
    ("VGG16, 600×800, 128 RoIs", (1, 512, 37, 50), 128, 16),
    ("MobileNetV2, 2 × 320×427, 128 RoIs", (2, 96, 20, 27), 128, 16),
    ("Tiny, 4 × 160×192, 256 RoIs", (4, 128, 20, 24), 256, 8),
]


def seconds(function, device, n=7):
    """Median time of a call, after one that does not count."""
    function()
    times = []
    for _ in range(n):
        begin = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - begin)
    return median(times)


def random_boxes(n, height, width, generator):
    """(n, 4) boxes (y_min, x_min, y_max, x_max) of 16 px to the picture's size."""
    corner = torch.rand(n, 2, generator=generator) * torch.tensor([height - 16.0, width - 16.0])
    room = torch.tensor([float(height), float(width)]) - corner
    return torch.cat([corner, corner + 16 + torch.rand(n, 2, generator=generator) * (room - 16)], dim=1)


def align_rows(device, generator):
    for name, shape, n_rois, stride in SIZES:
        x = torch.randn(shape, generator=generator).to(device, memory_format=torch.channels_last).requires_grad_()
        rois = random_boxes(n_rois, shape[2] * stride, shape[3] * stride, generator).to(device)
        index = torch.arange(n_rois, device=device) % shape[0]
        xyxy = torchvision_rois(rois, index, x.dtype)

        def ours(x=x, rois=rois, index=index, stride=stride):
            roi_align(x, rois, index, 7, 1 / stride).sum().backward()

        def theirs(x=x, xyxy=xyxy, stride=stride):
            torchvision.ops.roi_align(x, xyxy, 7, 1 / stride, 2, True).sum().backward()

        yield f"RoI align, forward + backward: {name}", seconds(ours, device), seconds(theirs, device)


def nms_rows(device, generator):
    for n, n_post in ((12000, 2000), (6000, 300), (1000, 300)):
        bbox = random_boxes(n, 600, 800, generator).to(device)
        score = torch.rand(n, generator=generator).to(device)
        ours = seconds(lambda bbox=bbox, score=score, k=n_post: nms(bbox, score, 0.7, k), device)
        theirs = seconds(
            lambda bbox=bbox, score=score, k=n_post: torchvision.ops.nms(yx2xy(bbox), score, 0.7)[:k], device
        )
        yield f"NMS at IoU 0.7: {n} → {n_post} boxes", ours, theirs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    generator = torch.Generator().manual_seed(0)
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n")
    print("| operation | ours, ms | torchvision, ms | ratio |\n|---|---|---|---|")
    for rows in (align_rows, nms_rows):
        for name, ours, theirs in rows(device, generator):
            print(f"| {name} | {ours * 1e3:.1f} | {theirs * 1e3:.1f} | {theirs / ours:.1f} |", flush=True)


if __name__ == "__main__":
    main()
