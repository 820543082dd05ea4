"""What a training run counts between two looks: losses, confusions, and the share of boxes that proposals meet."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torchnet.meter import AverageValueMeter, ConfusionMeter

from utils.array_tool import tonumpy
from utils.bbox_tools import bbox_iou, pixel_edges

RECALL_IOUS = (0.5, 0.7)


class TrainingMeters:
    """Takes tensors and leaves them on the device until somebody asks, so that a step waits for nothing.

    Args:
        names: of the losses.
        n_class: L + 1, with background.
        plus_one: that of the network's `Convention`.
    """

    def __init__(self, names: Sequence[str], n_class: int, plus_one: int = 0):
        self._plus_one = plus_one
        self._averages = {name: AverageValueMeter() for name in names}
        self._rpn_cm, self._roi_cm = ConfusionMeter(2), ConfusionMeter(n_class)
        self._lengths = 2 * 2, n_class * n_class, len(RECALL_IOUS) + 1  # of what is counted on the device
        self.forget()

    def forget(self):
        """Empty all."""
        self._losses, self._counts, self._n_found = [], {}, None
        for meter in (*self._averages.values(), self._rpn_cm, self._roi_cm):
            meter.reset()

    @torch.no_grad()
    def add_losses(self, losses):
        """0-dim tensors in the order of the names."""
        self._losses.append(torch.stack([loss.detach() for loss in losses]))

    @torch.no_grad()
    def count(self, part: str, score, label):
        """Add (target, prediction) pairs of 'rpn' or 'roi': scores (S, C), labels (S,) of which −1 takes no part."""
        n_class = score.shape[1]
        cell = label.clamp(min=0) * n_class + score.argmax(dim=1)
        counted = torch.zeros(n_class * n_class, dtype=torch.int64, device=label.device)
        counted.index_add_(0, cell, (label >= 0).long())
        self._counts[part] = counted if part not in self._counts else self._counts[part] + counted

    @torch.no_grad()
    def count_found(self, rois, n_rois, bboxes):
        """Count the true boxes that some proposal meets with each of `RECALL_IOUS`, and all of them.

        Args:
            rois: of each image (P, 4) proposals; of those only the first `n_rois`, where that is not None, count.
            bboxes: of each image (R, 4).
        """
        for roi, n_roi, bbox in zip(rois, n_rois, bboxes, strict=True):
            if len(roi) and len(bbox):
                iou = bbox_iou(*(pixel_edges(boxes.float(), self._plus_one) for boxes in (roi, bbox)))  # (P, R)
                if n_roi is not None:
                    iou = iou * (torch.arange(len(roi), device=iou.device) < n_roi)[:, None]
                best = iou.amax(dim=0)
                found = torch.stack([*((best >= least).sum() for least in RECALL_IOUS), (best >= 0).sum()])
                self._n_found = found if self._n_found is None else self._n_found + found

    def counted(self):
        """What was counted so far, to go back to with `take_back`."""
        return dict(self._counts), self._n_found

    def take_back(self, counted):
        """Forget what was counted since: the step was not made."""
        self._counts, self._n_found = counted

    def since(self, counted, device):
        """What was counted after `counted`, as one float64 tensor on `device`, as long for every batch."""
        return self._flat(self.counted(), device) - self._flat(counted, device)

    def add_since(self, counted, numbers):
        """Let what was counted after `counted` be `numbers`, which `since` gave: those of several processes, say."""
        rpn, roi, n_found = (self._flat(counted, numbers.device) + numbers).long().split(self._lengths)
        self._counts, self._n_found = {"rpn": rpn, "roi": roi}, n_found

    def _flat(self, counted, device):
        counts, n_found = counted
        parts = zip((counts.get("rpn"), counts.get("roi"), n_found), self._lengths, strict=True)
        own = [torch.zeros(n, device=device) if part is None else part for part, n in parts]
        return torch.cat([part.double() for part in own])

    def _flush(self):
        """Bring what was kept on the device into torchnet's meters."""
        for losses in torch.stack(self._losses).tolist() if self._losses else ():
            if all(map(math.isfinite, losses)):  # a step that was left out; one NaN would stay in the mean
                for meter, value in zip(self._averages.values(), losses, strict=True):
                    meter.add(value)
        for part, meter in (("rpn", self._rpn_cm), ("roi", self._roi_cm)):
            if part in self._counts:
                meter.conf += tonumpy(self._counts[part]).reshape(meter.conf.shape).astype(meter.conf.dtype)
        self._losses, self._counts = [], {}

    @property
    def averages(self):
        """Name of a loss → its AverageValueMeter."""
        self._flush()
        return self._averages

    @property
    def rpn_cm(self):
        """ConfusionMeter (2, 2) of the RPN's anchors."""
        self._flush()
        return self._rpn_cm

    @property
    def roi_cm(self):
        """ConfusionMeter (L + 1, L + 1) of the head's RoIs."""
        self._flush()
        return self._roi_cm

    @property
    def recall(self):
        """IoU → share of the true boxes that some proposal meets so well; NaN before the first box."""
        *found, n = [math.nan] * 3 if self._n_found is None else self._n_found.tolist()
        return {iou: count / n if n else math.nan for iou, count in zip(RECALL_IOUS, found, strict=True)}

    def state_dict(self):
        """All of it as plain values and tensors on the CPU."""
        averages = {name: {key: float(value) for key, value in vars(meter).items()}
                    for name, meter in self.averages.items()}  # fmt: skip
        cms = {"rpn": self._rpn_cm, "roi": self._roi_cm}
        found = None if self._n_found is None else self._n_found.tolist()
        return {"averages": averages, "n_found": found,
                **{name: torch.from_numpy(meter.conf.copy()) for name, meter in cms.items()}}  # fmt: skip

    def load_state_dict(self, state, device="cpu"):
        """Take up what `state_dict` gave. Raises ValueError, KeyError or TypeError for something else."""
        self.forget()
        for name, meter in self._averages.items():
            for key in vars(meter):
                value = float(state["averages"][name][key])
                setattr(meter, key, int(value) if key == "n" else value)
        for name, meter in (("rpn", self._rpn_cm), ("roi", self._roi_cm)):
            conf = np.asarray(state[name], dtype=meter.conf.dtype)
            if conf.shape != meter.conf.shape:
                raise ValueError(f"{name}: counts of shape {conf.shape}, not {meter.conf.shape}")
            meter.conf[:] = conf
        if state["n_found"] is not None:
            n_found = torch.tensor(state["n_found"], dtype=torch.int64, device=device)
            if n_found.shape != (self._lengths[2],):
                raise ValueError(f"n_found: {len(n_found)} counts, not {self._lengths[2]}")
            self._n_found = n_found
