"""What the models are like: parameters, arithmetic, and time on this machine."""

import time
from statistics import median
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

N_ROI = 300  # of an image in testing


class ModelRow(NamedTuple):
    """One model; of a picture of the size asked for."""

    name: str
    n_parameter: int
    stride: int  # pixels between two cells of the feature map
    flops: int  # additions and multiplications of the layers, with 300 RoIs
    seconds: float  # a picture, from prepared pixels to scored RoIs


def describe(name, build, size, device, rounds=3):
    """The `ModelRow` of the model that `build()` makes, with random weights, for pictures of `size` (H, W)."""
    with torch.device("meta"):
        model = build().eval()
        img = torch.empty(1, 3, *size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            features = model.extractor(img)
            hidden = model.rpn.conv1(features)
            model.rpn.score(hidden), model.rpn.loc(hidden)
            side = model.head.roi_size
            through = model.head.classifier(torch.empty(N_ROI, features.shape[1], side, side))
            model.head.score(through), model.head.cls_loc(through)
    n_parameter = sum(parameter.numel() for parameter in model.parameters())
    model = build().to(device, memory_format=torch.channels_last).eval()
    img = torch.randn(1, 3, *size, device=device).to(memory_format=torch.channels_last)
    times = [_seconds(model, img) for _ in range(rounds + 1)][1:]
    return ModelRow(name, n_parameter, model.feat_stride, counter.get_total_flops(), median(times))


@torch.no_grad()
def _seconds(model, img):
    begin = time.perf_counter()
    scores = model(img)[1]
    scores.sum().item()  # until a GPU is done
    return time.perf_counter() - begin


def models_table(rows, size):
    """Lines of text, a model each."""
    lines = [f"{'model':18}{'parameters':>12}{'stride':>8}{'GFLOPs':>9}{'ms':>9}   at {size[0]}×{size[1]}, 300 RoIs"]
    for row in rows:
        numbers = f"{row.n_parameter / 1e6:>10.1f} M{row.stride:>8}{row.flops / 1e9:>9.0f}{row.seconds * 1e3:>9.0f}"
        lines.append(f"{row.name:18}{numbers}")
    return "\n".join(lines)
