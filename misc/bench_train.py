"""A training step and a prediction of VGG16 at 600×800: ours, torchvision's `FasterRCNN`, and the bare network.

    python misc/bench_train.py                         # on a GPU if there is one
    python misc/bench_train.py --device=cpu --amp=off --rounds=3

The bare network is the floor: extractor, RPN convolutions and head on as many RoIs, forward, backward and optimizer, in
the same precision and layout, without proposals, targets, RoI features or losses. torchvision's has the same VGG16,
anchors, numbers of proposals and RoIs, in float32, as its users run it; and once more in our precision, if that is
another. The systems take turns, and a ratio is the median of the rounds' ratios, so that a machine whose speed drifts
is unfair to none.

Prints Markdown: seconds and images per second of each, their ratios, what our step makes of the measured rate of matrix
products in our precision (counting the bare network's arithmetic), and the peak memory of each system by itself: of a
GPU what torch takes, else by how much the process grows. --profile prints instead what takes the time of a step.
"""

import argparse
import gc
import os
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see utils/startup.py

import torch
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from misc.bench_ops import seconds
from model import FasterRCNNVGG16
from trainer import FasterRCNNTrainer
from utils.bbox_tools import yx2xy
from utils.cli_tool import device_argument, return_free_memory
from utils.errors import UserError
from utils.precision_tool import amp_dtype, autocast

WHAT = ("train", "predict")
N_CLASS = 20
N_TRAIN_ROI, N_TEST_ROI = 128, 300


class Ours:
    name = "ours"

    def __init__(self, device, amp, size):
        self.device, self.amp = device, amp
        self.model = FasterRCNNVGG16(N_CLASS).to(device, memory_format=torch.channels_last)
        self.trainer = FasterRCNNTrainer(self.model, amp=amp)

    def train(self, imgs, bboxes, labels):
        self.model.train()
        self.trainer.train_step(imgs, bboxes, labels, 1.0)

    def predict(self, imgs):
        sizes = [imgs.shape[2:]] * len(imgs)
        with autocast(self.device, self.amp):
            self.model.predict(imgs, sizes)


class BareNetwork:
    name = "bare network"

    def __init__(self, device, amp, size):
        self.device, self.amp = device, amp
        self.model = FasterRCNNVGG16(N_CLASS).to(device, memory_format=torch.channels_last)
        self.optimizer = self.model.get_optimizer()
        self.pooled = torch.rand(8 * N_TEST_ROI, 512 * 7 * 7, device=device)

    def network(self, imgs, n_roi):
        pooled = self.pooled[: n_roi * len(imgs)].requires_grad_(torch.is_grad_enabled())
        with autocast(self.device, self.amp):
            rpn, head = self.model.rpn, self.model.head
            h = torch.relu(rpn.conv1(self.model.extractor(imgs)))
            features = head.classifier(pooled)
            return rpn.score(h), rpn.loc(h), head.score(features), head.cls_loc(features)

    def train(self, imgs, bboxes, labels):
        self.model.train()
        self.optimizer.zero_grad()
        sum(out.float().mean() for out in self.network(imgs, N_TRAIN_ROI)).backward()
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, imgs):
        self.model.eval()
        for part in imgs.split(8 if self.device.type == "cuda" else 1):  # as `FasterRCNN.predict` does
            self.network(part, N_TEST_ROI)


class Torchvision:
    name = "torchvision"

    def __init__(self, device, amp, size):
        backbone = vgg16(weights=None).features[:30]
        backbone[:10].requires_grad_(False)
        backbone.out_channels = 512
        self.model = FasterRCNN(
            backbone,
            min_size=min(size),  # the images come prepared
            max_size=max(size),
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            rpn_anchor_generator=AnchorGenerator(((128, 256, 512),), ((0.5, 1.0, 2.0),)),
            rpn_pre_nms_top_n_train=12000,
            rpn_post_nms_top_n_train=2000,
            rpn_pre_nms_top_n_test=6000,
            rpn_post_nms_top_n_test=N_TEST_ROI,
            box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
            box_head=TwoMLPHead(512 * 7 * 7, 4096),
            box_predictor=Predictor(4096, N_CLASS + 1),
            box_batch_size_per_image=N_TRAIN_ROI,
            box_nms_thresh=0.3,
        ).to(device)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, 1e-3, momentum=0.9, weight_decay=0.0005)

    def train(self, imgs, bboxes, labels):
        self.model.train()
        targets = [{"boxes": yx2xy(b), "labels": label + 1} for b, label in zip(bboxes, labels, strict=True)]
        loss = sum(self.model(list(imgs), targets).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    @torch.no_grad()
    def predict(self, imgs):
        self.model.eval()
        self.model(list(imgs))


class MixedTorchvision(Torchvision):
    """The same in the precision of ours."""

    name = "torchvision, mixed"

    def __init__(self, device, amp, size):
        super().__init__(device, amp, size)
        self.device, self.amp = device, amp

    def train(self, *data):
        with autocast(self.device, self.amp):
            super().train(*data)

    def predict(self, imgs):
        with autocast(self.device, self.amp):
            super().predict(imgs)


class Predictor(torch.nn.Module):
    """torchvision's, with the small initial weights of Fast R-CNN: else the first losses are not finite."""

    def __init__(self, width, n_class):
        super().__init__()
        self.score = torch.nn.Linear(width, n_class)
        self.loc = torch.nn.Linear(width, n_class * 4)
        torch.nn.init.normal_(self.score.weight, 0, 0.01)
        torch.nn.init.normal_(self.loc.weight, 0, 0.001)

    def forward(self, x):
        return self.score(x), self.loc(x)


SYSTEMS = (Ours, BareNetwork, Torchvision)


def batch(n, size, device):
    """n images of `size` (H, W) and five boxes on each."""
    generator = torch.Generator().manual_seed(n)
    imgs = torch.randn(n, 3, *size, generator=generator)
    side = torch.tensor(size, dtype=torch.float32)
    corner = torch.rand(n, 5, 2, generator=generator) * side * 0.7
    extent = (0.08 + torch.rand(n, 5, 2, generator=generator) * 0.2) * side
    bboxes = torch.cat([corner, corner + extent], dim=2).to(device)
    labels = torch.randint(0, N_CLASS, (n, 5), generator=generator).to(device)
    return imgs.to(device, memory_format=torch.channels_last), list(bboxes), list(labels)


def take_turns(systems, what, data, rounds, device):
    """Seconds of each system in each round, (systems, rounds); a first round does not count.

    Each round begins with another system, so that none always follows the same one.
    """
    times = [[0.0] * (rounds + 1) for _ in systems]
    for k in range(rounds + 1):
        for i in range(len(systems)):
            i = (i + k) % len(systems)
            begin = time.perf_counter()
            call(systems[i], what, data)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times[i][k] = time.perf_counter() - begin
    return [own[1:] for own in times]


def ratio(one, other):
    """Median over the rounds of the ratio of two systems' times: what a machine's drift leaves as it is."""
    return median(a / b for a, b in zip(one, other, strict=True))


def call(system, what, data):
    if what == "train":
        system.train(*data)
    else:
        system.predict(data[0])


def memory(device, peak=False):
    """Bytes in use now, or at the most since `reset_peak`: of the GPU by torch, else of the process."""
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)(device)
    name = "VmHWM" if peak else "VmRSS"
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def reset_peak(device):
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(kind, device, amp, batch_sizes, size):
    """{(what, batch): GiB} of a system alone: parameters, optimizer, activations and batch."""
    return_free_memory()
    before = memory(device)
    system, peaks = kind(device, amp, size), {}
    for what in WHAT[::-1]:  # prediction first: training leaves gradients and momentum behind
        for n in batch_sizes:
            data = batch(n, size, device)
            reset_peak(device)
            for _ in range(2 if what == "train" else 1):  # the first step has no momentum yet
                call(system, what, data)
            peaks[what, n] = (memory(device, peak=True) - before) / 2**30
    del system, data
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return peaks


def matrix_rate(device, dtype):
    """Operations a second of large matrix products in `dtype`."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    (time_of_product,) = seconds([lambda: a @ b], device)
    return 2 * n**3 / time_of_product


def operations(bare, what, data):
    """Multiplications and additions of the bare network, which is what any Faster R-CNN computes at the least."""
    with FlopCounterMode(display=False) as counter:
        call(bare, what, data)
    return counter.get_total_flops()


def profile(system, data, device):
    """The operations that take most of a training step, themselves without what they call."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    activities += [torch.profiler.ProfilerActivity.CUDA] if device.type == "cuda" else []
    system.train(*data)
    with torch.profiler.profile(activities=activities) as seen:
        system.train(*data)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    print(seen.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=25, max_name_column_width=60))


def counts(separator, n=None):
    """argparse's `type` for whole numbers above 0, `n` of them."""

    def parse(text):
        numbers = [int(part) for part in text.split(separator)]
        if min(numbers) < 1 or n not in (None, len(numbers)):
            raise ValueError
        return numbers

    parse.__name__ = "numbers"  # argparse: invalid numbers value: '0'
    return parse


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", type=device_argument)
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "fp16", "off"))
    parser.add_argument("--batch-sizes", default="1,2,8", type=counts(","))
    parser.add_argument("--size", default="600x800", type=counts("x", 2), help="height x width of the prepared images")
    parser.add_argument("--rounds", default="10", type=counts(",", 1))
    parser.add_argument("--profile", action="store_true", help="of our training step, at the first batch size")
    args = parser.parse_args()
    device, size, batch_sizes = args.device, args.size, args.batch_sizes
    on_gpu = device.type == "cuda"
    try:
        amp = amp_dtype(args.amp, device)
    except UserError as error:
        parser.error(str(error))
    torch.manual_seed(0)
    if args.profile:
        return profile(Ours(device, amp, size), batch(batch_sizes[0], size, device), device)
    kinds = SYSTEMS + ((MixedTorchvision,) if amp else ())
    measured = on_gpu or Path("/proc/self/clear_refs").exists()
    peaks = [peak_memory(kind, device, amp, batch_sizes, size) for kind in kinds] if measured else []
    systems = [kind(device, amp, size) for kind in kinds]
    rate = matrix_rate(device, amp or torch.float32)
    where = torch.cuda.get_device_name(device) if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device} ({where}), {amp or 'float32'}; VGG16, {size[0]}×{size[1]};", end=" ")
    print(f"matrix products: {rate / 1e12:.2f} TFLOP/s\n")
    columns = ["what", "batch", *(column for s in systems for column in (f"{s.name}, s", "img/s"))]
    columns += ["ours / bare", *(f"{s.name} / ours" for s in systems[2:]), "of the matrix rate"]
    columns += [f"{s.name}, GiB" for s in systems] if measured else []
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for n in batch_sizes:
        data = batch(n, size, device)
        for what in WHAT:
            times = take_turns(systems, what, data, args.rounds[0], device)
            share = operations(systems[1], what, data) / median(times[0]) / rate
            cells = [what, n, *(cell for own in times for cell in (f"{median(own):.3f}", f"{n / median(own):.2f}"))]
            cells += [f"{ratio(times[0], times[1]):.2f}", *(f"{ratio(own, times[0]):.2f}" for own in times[2:])]
            cells.append(f"{share:.0%}")
            cells += [f"{peak[what, n]:.2f}" for peak in peaks]
            print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
