"""What the models are like: parameters, arithmetic, and time on this machine."""

import time
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode


class ModelRow(NamedTuple):
    """One model; of a picture of the size asked for."""

    name: str
    n_parameter: int
    stride: int  # pixels between two cells of the feature map, of a pyramid the finest
    n_roi: int  # of an image in testing, at most
    flops: int  # additions and multiplications of the layers, with so many RoIs
    seconds: float  # a picture, from prepared pixels to scored RoIs


def describe(name, build, size, device, rounds=3):
    """The `ModelRow` of the model that `build()` makes, with random weights, for pictures of `size` (H, W)."""
    with torch.device("meta"):
        model = build().eval()
        img = torch.empty(1, 3, *size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features = model.extract(img, [size])
            for level in features:
                hidden = model.rpn.conv1(level)
                model.rpn.score(hidden), model.rpn.loc(hidden)
            side, n_roi = model.head.roi_size, model.rpn.proposal_layer.n_test_post_nms
            through = model.head.classifier(torch.empty(n_roi, features[0].shape[1], side, side))
            model.head.score(through), model.head.cls_loc(through)
    n_parameter = sum(parameter.numel() for parameter in model.parameters())
    model = build().to(device, memory_format=torch.channels_last).eval()
    img = torch.randn(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    corner = torch.rand(n_roi, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(size) / 2
    rois = torch.cat([corner, corner + torch.tensor(size) / 3], dim=1).to(device)
    times = [_seconds(model, img, rois) for _ in range(rounds + 1)][1:]
    return ModelRow(name, n_parameter, model.feat_stride, n_roi, counter.get_total_flops(), median(times))


@torch.no_grad()
def _seconds(model, img, rois):
    """Of the whole network, its head on `rois`: how many the RPN of random weights would find says nothing."""
    size = tuple(img.shape[2:])
    begin = time.perf_counter()
    features = model.extract(img, [size])
    found = model.rpn(features, [size], [1.0]).n_rois
    scores = model.head(features, rois, torch.zeros(len(rois), dtype=torch.long, device=rois.device))[1]
    (scores.sum() + found.sum()).item()  # until a GPU is done
    return time.perf_counter() - begin


def models_table(rows, size):
    """Lines of text, a model each."""
    lines = [f"{'model':22}{'parameters':>12}{'stride':>8}{'RoIs':>7}{'GFLOPs':>8}{'ms':>8}   at {size[0]}×{size[1]}"]
    for row in rows:
        numbers = f"{row.n_parameter / 1e6:>10.1f} M{row.stride:>8}{row.n_roi:>7}"
        lines.append(f"{row.name:22}{numbers}{row.flops / 1e9:>8.0f}{row.seconds * 1e3:>8.0f}")
    return "\n".join(lines)
