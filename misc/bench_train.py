"""A training step and a prediction of VGG16 at 600×800: ours, torchvision's `FasterRCNN`, and the bare network.

    python misc/bench_train.py                         # on a GPU if there is one
    python misc/bench_train.py --device=cpu --amp=off --batch-sizes=1 --rounds=5

The bare network is the floor: extractor, RPN convolutions and head on as many RoIs, forward, backward and optimizer, in
the same precision and layout, without proposals, targets, RoI features or losses. torchvision's has the same VGG16,
anchors, numbers of proposals and RoIs, in float32, as its users run it. The systems take turns, so that a machine whose
speed drifts is unfair to none. Prints Markdown: seconds, images per second, ratios, and on a GPU peak memory.
"""

import argparse
import sys
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torchvision.models import vgg16
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign

from model import FasterRCNNVGG16
from trainer import FasterRCNNTrainer
from utils.bbox_tools import yx2xy
from utils.cli_tool import choose_device
from utils.precision_tool import amp_dtype, autocast

N_CLASS = 20
N_TRAIN_ROI, N_TEST_ROI = 128, 300


class Ours:
    name = "ours"

    def __init__(self, device, amp):
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

    def __init__(self, device, amp):
        self.device, self.amp = device, amp
        self.model = FasterRCNNVGG16(N_CLASS).to(device, memory_format=torch.channels_last)
        self.optimizer = self.model.get_optimizer()

    def network(self, imgs, n_roi):
        pooled = torch.zeros(n_roi * len(imgs), 512 * 7 * 7, device=self.device, requires_grad=torch.is_grad_enabled())
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
        for img in imgs.split(1):
            self.network(img, N_TEST_ROI)


class Torchvision:
    name = "torchvision"

    def __init__(self, device, amp):
        backbone = vgg16(weights=None).features[:30]
        backbone[:10].requires_grad_(False)
        backbone.out_channels = 512
        self.model = FasterRCNN(
            backbone,
            min_size=600,
            max_size=1000,
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


def batch(n, device, generator):
    """n images of 600×800 and five boxes on each."""
    imgs = torch.randn(n, 3, 600, 800, generator=generator)
    corner = torch.rand(n, 5, 2, generator=generator) * torch.tensor([400.0, 600.0])
    bboxes = torch.cat([corner, corner + 50 + torch.rand(n, 5, 2, generator=generator) * 150], dim=2).to(device)
    labels = torch.randint(0, N_CLASS, (n, 5), generator=generator).to(device)
    return imgs.to(device, memory_format=torch.channels_last), list(bboxes), list(labels)


def measure(systems, call, rounds, device):
    """Median seconds and, on a GPU, peak GiB of each system, which take turns; the first round does not count."""
    seconds, peaks = [[] for _ in systems], [0.0] * len(systems)
    for _ in range(rounds + 1):
        for i, system in enumerate(systems):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                torch.cuda.reset_peak_memory_stats(device)
                before = torch.cuda.memory_allocated(device)
            begin = time.perf_counter()
            call(system)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
                own = before / len(systems)  # the models and optimizers of all systems lie there; roughly a share each
                peaks[i] = max(peaks[i], (torch.cuda.max_memory_allocated(device) - before + own) / 2**30)
            seconds[i].append(time.perf_counter() - begin)
    return [median(own[1:]) for own in seconds], peaks


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto", choices=("auto", "bf16", "fp16", "off"))
    parser.add_argument("--batch-sizes", default="1,2,8")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    device = choose_device(args.device)
    amp = amp_dtype(args.amp, device)
    torch.manual_seed(0)
    systems = [kind(device, amp) for kind in (Ours, BareNetwork, Torchvision)]
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device} ({where}), {amp or 'float32'}; VGG16, 600×800\n")
    print(
        "| what | batch | "
        + " | ".join(f"{s.name}, s | img/s" for s in systems)
        + " | ours / bare | torchvision / ours |"
    )
    print("|---|" + "---|" * (2 * len(systems) + 3))
    generator = torch.Generator().manual_seed(0)
    for n in map(int, args.batch_sizes.split(",")):
        data = batch(n, device, generator)
        for what, call in (("train", lambda s, d=data: s.train(*d)), ("predict", lambda s, d=data: s.predict(d[0]))):
            times, peaks = measure(systems, call, args.rounds, device)
            cells = " | ".join(f"{t:.3f} | {n / t:.2f}" for t in times)
            ratios = f"{times[0] / times[1]:.2f} | {times[2] / times[0]:.2f}"
            memory = f" (peak {', '.join(f'{p:.2f}' for p in peaks)} GiB)" if device.type == "cuda" else ""
            print(f"| {what} | {n} | {cells} | {ratios} |{memory}", flush=True)


if __name__ == "__main__":
    main()
