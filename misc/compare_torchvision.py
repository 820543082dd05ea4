"""Train our MobileNetV2 detector and torchvision's `FasterRCNN` on the same layers, init, images, size and steps.

    python misc/compare_torchvision.py --voc-data-dir=VOC --weights=mobilenet_v2.pth --seeds=0,1,2
    python misc/compare_torchvision.py --table runs/ours.jsonl runs/torchvision.jsonl

Both take the batches of one loader (the same pictures in one order, mirrored alike), the same SGD and schedule, the
same anchors, 256 anchors and 64 RoIs an image, and are scored by one evaluator (VOC07 11-point mAP). What differs is
what each system does by itself: its losses and targets, its RoI features, its thresholds. `ours-bf16` is ours with
--amp=bf16. Prints a line an epoch and a table at the end, and appends each epoch's line to --out as JSON, so that an
interrupted comparison keeps what it had; --table prints the table of such files, written by processes side by side.
"""

import argparse
import json
import os
import sys
import time
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # see utils/startup.py

import numpy as np
import torch
from torchvision.models import mobilenet_v2
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import FrozenBatchNorm2d

from data.dataset import Dataset, TestDataset
from data.loader import set_epoch, test_loader, train_loader
from data.voc_dataset import VOCBboxDataset
from model import FasterRCNNMobileNetV2
from trainer import FasterRCNNTrainer
from utils.bbox_tools import resize_bbox, yx2xy
from utils.checkpoint import read_state_dict
from utils.cli_tool import return_free_memory
from utils.config import Config
from utils.eval_tool import evaluate_detections
from utils.precision_tool import autocast

STRIDE, SCALES, RATIOS = 16, (2, 4, 8, 16), (0.5, 1, 2)


class Ours:
    def __init__(self, args, label_names, seed, amp=None):
        self.amp = amp
        self.model = FasterRCNNMobileNetV2(
            len(label_names), RATIOS, SCALES, min_size=args.size, max_size=args.max_size, n_sample=64
        )
        self.model.load_pretrained(args.weights)
        self.model.to(memory_format=torch.channels_last)
        config = Config().parse({"lr": args.lr, "seed": seed, "roi_sigma": args.roi_sigma})
        self.trainer = FasterRCNNTrainer(self.model, config=config, amp=amp)

    def step(self, batch, lr, epoch):
        self.model.train()
        self.trainer.epoch = epoch
        self.trainer.set_lr(lr)
        return self.trainer.train_step(*batch).total_loss.detach()

    def detect(self, img, size):
        with autocast(self.model.device, self.amp):
            return tuple(column[0] for column in self.model.predict([img], [size]))


class Torchvision:
    def __init__(self, args, label_names, seed):
        backbone = mobilenet_v2(weights=None, norm_layer=FrozenBatchNorm2d).features[:14]
        state = {name.removeprefix("features."): value for name, value in read_state_dict(args.weights).items()}
        own = backbone.state_dict()
        backbone.load_state_dict({name: value for name, value in state.items() if name in own}, strict=True)
        for layer in backbone[:2]:
            layer.requires_grad_(False)
        backbone.out_channels = 96
        self.model = FasterRCNN(
            backbone,
            len(label_names) + 1,
            min_size=args.size,
            max_size=args.max_size,
            image_mean=[0.0] * 3,  # the loader has normalised
            image_std=[1.0] * 3,
            rpn_anchor_generator=AnchorGenerator((tuple(STRIDE * s for s in SCALES),), (RATIOS,)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 7, 2),
            box_batch_size_per_image=64,
        ).to(memory_format=torch.channels_last)
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(parameters, args.lr, momentum=0.9, weight_decay=0.0005)

    def step(self, batch, lr, epoch):
        self.model.train()
        self.optimizer.param_groups[0]["lr"] = lr
        imgs = [img[:, :h, :w] for img, (h, w) in zip(batch.imgs, batch.sizes.tolist(), strict=True)]
        targets = [
            {"boxes": yx2xy(bbox), "labels": label + 1} for bbox, label in zip(batch.bboxes, batch.labels, strict=True)
        ]
        loss = sum(self.model(imgs, targets).values())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def detect(self, img, size):
        self.model.eval()
        found = self.model([img])[0]
        bbox = resize_bbox(yx2xy(found["boxes"]), img.shape[1:], size).numpy()
        return bbox, found["labels"].numpy() - 1, found["scores"].numpy()


SYSTEMS = {"ours": Ours, "ours-bf16": partial(Ours, amp=torch.bfloat16), "torchvision": Torchvision}


def run(name, args, seed):
    """Train and score one system; yields a record an epoch."""
    torch.manual_seed(seed)
    train_db = VOCBboxDataset(args.voc_data_dir, args.train_split)
    val_db = VOCBboxDataset(args.voc_data_dir, args.val_split, train_db.label_names, use_difficult=True)
    system = SYSTEMS[name](args, train_db.label_names, seed)
    loader = train_loader(Dataset(train_db, args.size, args.max_size, seed=seed), args.batch_size)
    step, training_s = 0, 0.0
    for epoch in range(args.epochs):
        set_epoch(loader, epoch)
        losses, begin = [], time.perf_counter()
        for batch in loader:
            lr = args.lr * min(1.0, (step + 1) / args.warmup) * (0.1 if epoch >= args.milestone else 1.0)
            losses.append(system.step(batch, lr, epoch).item())
            step += 1
            if step % 100 == 0:
                return_free_memory()
        training_s += time.perf_counter() - begin
        rows = []
        for img, size, bbox, label, difficult in test_loader(TestDataset(val_db, args.size, args.max_size)):
            rows.append((*system.detect(img, size), bbox, label, difficult))
        result = evaluate_detections(*zip(*rows, strict=True), label_names=train_db.label_names)
        yield {
            "system": name,
            "seed": seed,
            "epoch": epoch + 1,
            "steps": step,
            "map07": round(result.map07, 4),
            "map_area": round(result.map, 4),
            "loss": round(float(np.mean(losses)), 4),
            "seconds_a_step": round(training_s / step, 3),
        }


def table(records):
    """Markdown: mAP by epoch and system, mean over the seeds with the least and the greatest."""
    names = [name for name in SYSTEMS if any(r["system"] == name for r in records)]
    lines = ["| epoch | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for epoch in sorted({r["epoch"] for r in records}):
        cells = []
        for name in names:
            maps = [r["map07"] for r in records if r["epoch"] == epoch and r["system"] == name]
            cells.append(f"{np.mean(maps):.4f} ({min(maps):.4f} to {max(maps):.4f}, n={len(maps)})" if maps else "-")
        lines.append(f"| {epoch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", nargs="+", metavar="FILE", help="print the table of these records, and no more")
    parser.add_argument("--voc-data-dir", required="--table" not in sys.argv)
    parser.add_argument("--weights", required="--table" not in sys.argv, help="MobileNetV2 in torchvision's names")
    parser.add_argument("--train-split", default="train")
    parser.add_argument("--val-split", default="val")
    parser.add_argument("--systems", default="ours,torchvision")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--milestone", type=int, default=6, help="epochs before the learning rate falls to 0.1")
    parser.add_argument("--warmup", type=int, default=100, help="steps")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--roi-sigma", type=float, default=3.0, help="ours: torchvision's smooth L1 has β = 1/9, σ = 3")
    parser.add_argument("--size", type=int, default=320, help="short side, pixels")
    parser.add_argument("--max-size", type=int, default=1000)
    parser.add_argument("--out", default="runs/compare_torchvision.jsonl", help="each epoch's record is appended")
    args = parser.parse_args()
    if args.table:
        lines = [line for path in args.table for line in Path(path).read_text("utf-8").splitlines()]
        print(table([json.loads(line) for line in lines]))
        return
    records = []
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    for seed in map(int, args.seeds.split(",")):
        for name in args.systems.split(","):
            for record in run(name, args, seed):
                records.append(record)
                print(json.dumps(record), flush=True)
                with open(args.out, "a", encoding="utf-8") as out:
                    out.write(json.dumps(record) + "\n")
    print(table(records))


if __name__ == "__main__":
    main()
