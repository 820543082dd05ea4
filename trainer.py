"""The training step of Faster R-CNN: targets and the four losses (Ren et al. 2015, equation 1; joint training, §3.2).

Letters: N images, R boxes, S samples, L foreground classes, K·A anchors.
"""

import time
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from model.utils.anchor_tool import crop_cells
from model.utils.batch_tool import batch_geometry
from model.utils.creator_tool import AnchorTargetCreator, ProposalTargetCreator
from model.zoo import checkpoint_content
from utils.checkpoint import fit_state_dict, read_checkpoint, save_checkpoint
from utils.config import opt
from utils.dist_tool import ALONE, replica
from utils.errors import UserError
from utils.finite_tool import FiniteCheck, RunningStatistics
from utils.optimizer_tool import take_up
from utils.precision_tool import autocast
from utils.random_tool import random_state, set_random_state
from utils.terminal_tool import warn
from utils.training_meters import TrainingMeters
from utils.vis_tool import Visualizer


class LossTuple(NamedTuple):
    """The losses of a step, each a 0-dim tensor: the mean over the images of the batch."""

    rpn_loc_loss: torch.Tensor
    rpn_cls_loss: torch.Tensor
    roi_loc_loss: torch.Tensor
    roi_cls_loss: torch.Tensor
    total_loss: torch.Tensor


class FasterRCNNTrainer(nn.Module):
    """Wraps a `FasterRCNN`: `forward` gives the losses of a batch, `train_step` makes one update.

    Args:
        faster_rcnn: the model. Its BatchNorm and frozen layers stay as they are.
        vis: a `Visualizer`; None takes one that does nothing.
        config: where the learning rate, the sigmas, the seed and what a checkpoint records come from.
        amp: torch.bfloat16 or torch.float16 to let the network multiply in that format; None for float32.
        parts: 'rpn' or 'head' to train that part alone, with the extractor as far as it is not frozen; 'both'.
        world: the processes that train it together, see `utils.dist_tool`. They get the main one's parameters.

    Attributes:
        optimizer: of the model's parameters that are not frozen.
        half_updated: an error came while the parameters changed: they are of no step, and not to be saved.
        epoch: part of what each image's samples are drawn from, with `config.seed` and the image's index.
        meters: name of a loss → torchnet's AverageValueMeter.
        rpn_cm, roi_cm: torchnet's ConfusionMeters, (2, 2) and (L + 1, L + 1): row = target, column = prediction.
        rpn_recall: IoU → share of the true boxes that some proposal meets so well; NaN before the first box.
    """

    def __init__(self, faster_rcnn, vis=None, config=opt, amp=None, parts="both", world=ALONE):
        super().__init__()
        if parts not in ("rpn", "head", "both"):
            raise ValueError(f"parts {parts!r}: must be rpn, head or both")
        self.parts = parts
        self.faster_rcnn = faster_rcnn
        self.config = config
        self.vis = vis or Visualizer(enabled=False)
        self.anchor_target_creator = AnchorTargetCreator(
            n_sample=config.rpn_n_sample,
            pos_iou_thresh=config.rpn_pos_iou,
            neg_iou_thresh=config.rpn_neg_iou,
            pos_ratio=config.rpn_pos_ratio,
            allowed_border=faster_rcnn.allowed_border,
            clobber_positives=config.rpn_clobber_positives,
            plus_one=faster_rcnn.convention.plus_one,
        )
        self.proposal_target_creator = ProposalTargetCreator(
            n_sample=faster_rcnn.n_sample,
            pos_ratio=config.roi_pos_ratio,
            pos_iou_thresh=config.roi_pos_iou,
            neg_iou_thresh_hi=config.roi_neg_iou_hi,
            neg_iou_thresh_lo=config.roi_neg_iou_lo,
            plus_one=faster_rcnn.convention.plus_one,
        )
        self.optimizer = faster_rcnn.get_optimizer(config.lr, config.weight_decay, config.use_adam)
        self.amp = amp
        self.scaler = torch.amp.GradScaler(faster_rcnn.device.type, enabled=amp == torch.float16)
        self.epoch = 0
        self.half_updated = False
        self._n_seen = 0
        # Not a module, so that nothing of it is part of the state dict.
        self._counted = TrainingMeters(LossTuple._fields, faster_rcnn.n_class, faster_rcnn.convention.plus_one)
        self._finite = FiniteCheck(self.optimizer, dict(faster_rcnn.named_parameters()))
        self.world = world
        untrained = {"rpn": ["faster_rcnn.head"], "head": ["faster_rcnn.rpn"], "both": []}[parts]
        self._idle = [parameter for part in untrained for parameter in self.get_submodule(part).parameters()]
        vars(self)["_replica"] = replica(self, world, untrained)  # not among the modules: it holds this one

    def forward(self, imgs, bboxes, labels, scale, sizes=None, indices=None, rois=None):
        """The losses of a batch.

        Args:
            imgs: (N, 3, H, W) prepared images, padded at the bottom and right.
            bboxes: N tensors (R, 4) in pixels of the prepared images, R ≥ 0; or one tensor (1, R, 4).
            labels: N tensors (R,), 0..L−1 without background; or one tensor (1, R).
            scale: prepared size / original size, a float or N of them.
            sizes: (N, 2) heights and widths without the padding; None for no padding.
            indices: N indices in the dataset: an image's samples are drawn from (seed, epoch, index), whatever batch it
                is in. None counts the images that the trainer has seen.
            rois: N tensors (P, 4) of proposals in pixels of the prepared images; None for the RPN's. With them the head
                alone is trained.

        Returns:
            LossTuple; the losses of a part that is not trained are 0.
        """
        model, n = self.faster_rcnn, len(imgs)
        sizes, scale = batch_geometry(imgs, scale, sizes)
        if not len(bboxes) == len(labels) == n or (rois is not None and len(rois) != n):
            raise ValueError(f"{n} images, but boxes of {len(bboxes)}, labels of {len(labels)} or RoIs of other ones")
        generators = self._generators(n, imgs.device, indices)
        truth = [bbox.reshape(-1, 4) for bbox in bboxes], labels
        zero = torch.zeros((), device=imgs.device)
        rpn_losses, roi_losses, n_rois = [(zero, zero)], [(zero, zero)], [None] * n

        with autocast(imgs.device, self.amp):
            features = model.extract(imgs, sizes)
            if rois is None:
                rpn = model.rpn(features, sizes, scale, propose=self.parts != "rpn")
        if rois is None:
            rois, n_rois = rpn.rois, rpn.n_rois
            if self.parts != "head":
                rpn_losses = self._rpn_losses(features, rpn, truth, sizes, generators)
        if self.parts != "rpn":
            self._counted.count_found(rois, n_rois, truth[0])
            roi_losses = self._roi_losses(features, rois, n_rois, truth, generators)
        losses = [torch.stack(column).mean() for part in (rpn_losses, roi_losses) for column in zip(*part, strict=True)]
        return LossTuple(*losses, sum(losses))

    def _rpn_losses(self, features, rpn, truth, sizes, generators):
        """(loc loss, cls loss) of each image."""
        map_sizes, config, losses = [tuple(level.shape[2:]) for level in features], self.config, []
        for i, (bbox, size, generator) in enumerate(zip(truth[0], sizes, generators, strict=True)):
            own_sizes = self.faster_rcnn.rpn.own_sizes(size)
            anchor, loc, score = (crop_cells(t, map_sizes, own_sizes) for t in (rpn.anchor, rpn.locs[i], rpn.scores[i]))
            gt_loc, gt_label = self.anchor_target_creator(bbox, anchor, size, generator)
            outputs = loc, score, gt_loc, gt_label
            losses.append(detection_losses(*outputs, config.rpn_sigma, config.rpn_positive_weight))
            self._counted.count("rpn", score, gt_label)
        return losses

    def _roi_losses(self, features, rois, n_rois, truth, generators):
        """(loc loss, cls loss) of each image."""
        model, samples = self.faster_rcnn, []
        for roi, n_roi, bbox, label, generator in zip(rois, n_rois, *truth, generators, strict=True):
            sample = bbox, label, *model.loc_normalization, generator
            samples.append(self.proposal_target_creator(roi, *sample, n_roi=n_roi))
        counts = [len(sample_roi) for sample_roi, _, _ in samples]
        sample_indices = torch.cat([label.new_full(label.shape, i) for i, (_, _, label) in enumerate(samples)])
        sample_rois, gt_roi_locs, gt_roi_labels = (torch.cat(column) for column in zip(*samples, strict=True))
        with autocast(sample_rois.device, self.amp):
            roi_cls_locs, roi_scores = model.head(features, sample_rois, sample_indices)
        self._counted.count("roi", roi_scores, gt_roi_labels)
        # Of the boxes that the head gives a RoI, one a class or a single one, the true class's is trained.
        roi_locs = roi_cls_locs.view(len(sample_rois), model.head.n_box, 4)  # (S, L + 1, 4) or (S, 1, 4)
        box_of = gt_roi_labels.clamp(min=0, max=model.head.n_box - 1)
        roi_locs = roi_locs[torch.arange(len(sample_rois), device=box_of.device), box_of]
        parts = (t.split(counts) for t in (roi_locs, roi_scores, gt_roi_locs, gt_roi_labels))
        return [detection_losses(*part, self.config.roi_sigma) for part in zip(*parts, strict=True)]

    def train_step(self, imgs, bboxes, labels, scale, sizes=None, indices=None, rois=None):
        """One `update` from one batch: the arguments are `forward`'s."""
        return self.update([(imgs, bboxes, labels, scale, sizes, indices, rois)], [1.0])

    def update(self, batches, weights):
        """One update from several batches: a step. With other processes, from theirs too.

        Args:
            batches: the arguments of `forward` for each; taken one after the other, so that only one's activations are
                in memory.
            weights: of each batch's losses. They add up to 1, or in several processes all of theirs together. A batch
                of weight 0 is for a process that has no image when others do: it is not counted.

        Returns:
            the LossTuple of all batches, which the meters have taken up.

        Raises:
            NonFiniteError: a loss or a gradient is not finite. That update is left out: parameters and optimizer are as
                before. On a GPU the error comes with the next step, which is made, so that nothing waits for it.
        """
        kept, own = [], []
        before = self._counted.counted(), self._n_seen
        statistics = RunningStatistics(self.faster_rcnn)
        try:
            self.optimizer.zero_grad()
            for batch, weight in zip(batches, weights, strict=True):
                kept.append(tuple(batch))
                own.append(self._backward(batch, weight, is_last=len(kept) == len(weights)))
            losses = self._of_all(torch.stack(own).sum(dim=0), before[0])
            norm = None
            if self.config.grad_clip is not None:
                self.scaler.unscale_(self.optimizer)
                norm = nn.utils.clip_grad_norm_(self.faster_rcnn.parameters(), self.config.grad_clip)
            self._finite.look(losses, norm, statistics, self.scaler.is_enabled(), kept, own)
        except BaseException:  # the step is not made
            counted, self._n_seen = before
            self._counted.take_back(counted)
            statistics.restore()
            raise
        self.half_updated = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.half_updated = False
        self.update_meters(losses)
        self._finite.tell_of_earlier()
        return losses

    def _backward(self, batch, weight, is_last):
        """Add the gradients of a batch, with the last one those of other processes; its weighted losses, (5,)."""
        counted = self._counted.counted()
        with nullcontext() if is_last or self.world.size == 1 else self._replica.no_sync():
            losses = self._replica(*batch)
            share = weight * self.world.size  # of a mean over the processes
            # float16's range is narrow; else the scaler does nothing.
            self.scaler.scale(losses.total_loss * share).backward()
        if weight == 0:
            self._counted.take_back(counted)
        return torch.stack([loss.detach() for loss in losses]) * weight

    def _of_all(self, losses, counted):
        """The LossTuple of all processes' `losses`, (5,); what was counted since `counted` is added up too."""
        if self.world.size > 1:
            counts = self._counted.since(counted, losses.device)
            losses, counts = self.world.sum(torch.cat([losses.double(), counts])).split([len(losses), len(counts)])
            self._counted.add_since(counted, counts)
        return LossTuple(*losses.float())

    def settle(self):
        """On a GPU: wait for the last step. Raises NonFiniteError as `train_step` does."""
        self._finite.tell_of_earlier(all_of_them=True)

    def learning_rate(self, epoch, step):
        """Of the step after `step` steps, in epoch `epoch` (from 0): `lr`, reached in `warmup`, less at milestones."""
        config = self.config
        lr = config.lr * config.batch_size if config.scale_lr else config.lr
        n_passed = sum(epoch >= milestone for milestone in config.lr_milestones)
        return lr * config.lr_decay**n_passed * min(1.0, (step + 1) / max(config.warmup, 1))

    def set_lr(self, lr):
        """Set the learning rate; biases keep their factor."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)

    def _generators(self, n, device, indices):
        """One generator an image, seeded by (seed, epoch, index)."""
        if indices is None:
            indices = range(self._n_seen, self._n_seen + n)
        self._n_seen += n
        seeds = (np.random.SeedSequence((self.config.seed, self.epoch, int(i))).generate_state(1) for i in indices)
        return [torch.Generator(device).manual_seed(int(seed[0])) for seed in seeds]

    # Meters

    def update_meters(self, losses):
        """Take a LossTuple into the meters."""
        self._counted.add_losses(losses)

    @property
    def meters(self):
        return self._counted.averages

    @property
    def rpn_cm(self):
        return self._counted.rpn_cm

    @property
    def roi_cm(self):
        return self._counted.roi_cm

    @property
    def rpn_recall(self):
        return self._counted.recall

    def reset_meters(self):
        """Empty the meters of the losses, both confusion meters and the recall."""
        self._counted.forget()

    def get_meter_data(self):
        """Name of a loss → its mean since the last reset, a float (nan before the first step)."""
        return {name: float(meter.value()[0]) for name, meter in self.meters.items()}

    # Checkpoints

    def save(self, save_optimizer=False, save_path=None, predecessor=None, beside=None, **kwargs):
        """Write a checkpoint.

        Args:
            save_optimizer: with all that `load_state` takes up, to go on from it.
            save_path: by default checkpoints/fasterrcnn_%m%d%H%M, with _value for each of `kwargs`.
            predecessor: see `save_checkpoint`.
            beside: what the file holds too, name → plain value.
            kwargs: go into `other_info` (best_map, epoch, step, ...): plain values.

        Returns:
            the path, a string.
        """
        if save_path is None:
            save_path = "_".join([time.strftime("checkpoints/fasterrcnn_%m%d%H%M"), *map(str, kwargs.values())])
        options = self.config.state_dict()
        content = checkpoint_content(self.faster_rcnn, options, self.vis.state_dict(), **kwargs)
        content |= beside or {}
        if save_optimizer:
            content["optimizer"] = self.optimizer.state_dict()
            content["options"] = options  # `config` has the network's own numbers in place of some
            content["scaler"] = self.scaler.state_dict()
            content["meters"] = self._counted.state_dict()
            content["rng"] = {**random_state(), "n_seen": self._n_seen}
        return save_checkpoint(save_path, content, predecessor)

    def load(self, path, load_optimizer=True, parse_opt=False):
        """Load a checkpoint's weights, its optimizer if it has one, and with `parse_opt` its options.

        Returns:
            self.

        Raises:
            UserError: not a checkpoint, or not one for this model and these classes.
        """
        checkpoint = read_checkpoint(path)
        fit_state_dict(self.faster_rcnn, checkpoint.model, path)
        if parse_opt:
            self.config.update_known(checkpoint.config)
        if load_optimizer and checkpoint.optimizer is not None:
            self.load_optimizer(checkpoint.optimizer, path)
        return self

    def load_state(self, checkpoint):
        """Take up all that `save` with `save_optimizer` wrote, but the weights: it goes on as it would have.

        Args:
            checkpoint: a `Checkpoint`.

        Raises:
            UserError: it lacks a part.
        """
        self.load_optimizer(checkpoint.optimizer, checkpoint.path)
        try:
            if self.scaler.is_enabled() and checkpoint.scaler:
                self.scaler.load_state_dict(checkpoint.scaler)
            self._counted.load_state_dict(checkpoint.meters, self.faster_rcnn.device)
            self._n_seen = int(checkpoint.rng["n_seen"])
            set_random_state(checkpoint.rng)
        except Exception:  # whatever breaks first: the file may be anybody's
            raise UserError(
                f"{checkpoint.path}: lacks the state of the run (generators, meters); --load-path starts another run"
            ) from None

    def load_optimizer(self, state, path):
        """Go on with a checkpoint's optimizer state; one of another kind is left, with a warning that names `path`.

        Raises:
            UserError: it is of this kind, but damaged.
        """
        try:
            taken = take_up(self.optimizer, state, self._idle)
        except ValueError as error:
            raise UserError(f"{path}: its optimizer's state can't be used ({error}); choose another file") from None
        if not taken:  # AdamW for SGD, an older file's with a group for each parameter, or the RPN's alone
            warn(f"{path}: its optimizer is of another kind; the optimizer starts afresh")


def detection_losses(loc, score, gt_loc, gt_label, sigma, positive_weight=None):
    """The two losses of one head on one image (Ren et al. 2015, equation 1; Girshick 2015, equations 1 to 3).

    Args:
        loc, gt_loc: (S, 4) offsets, predicted and wanted.
        score: (S, C) logits.
        gt_label: (S,) class, 0 background, −1 takes no part.
        sigma: the smooth L1 loss is quadratic below 1/σ².
        positive_weight: py-faster-rcnn's RPN_POSITIVE_WEIGHT p: the positives' boxes together weigh p, whatever their
            number.

    Returns:
        loc_loss: smooth L1 summed over the positives / (positives + negatives), or · p / positives; cls_loss: mean
        cross-entropy. Both 0 where nothing takes part.
    """
    n_used = (gt_label >= 0).sum().clamp(min=1)
    per_sample = F.smooth_l1_loss(loc, gt_loc, beta=1 / sigma**2, reduction="none").sum(dim=1)
    loc_loss = (per_sample * (gt_label > 0)).sum()
    if positive_weight is None:
        loc_loss = loc_loss / n_used
    else:
        loc_loss = loc_loss * positive_weight / (gt_label > 0).sum().clamp(min=1)
    cls_loss = F.cross_entropy(score, gt_label, ignore_index=-1, reduction="sum") / n_used
    return loc_loss, cls_loss
