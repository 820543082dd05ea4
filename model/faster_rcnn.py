"""Faster R-CNN (Ren et al. 2015): an extractor, a region proposal network and a head.

Letters: N images, R boxes or proposals, L foreground classes, (H, W) pixels.
"""

from functools import partial
from http.client import HTTPException
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from model.ops.nms import batched_nms
from model.utils.batch_tool import as_levels, batch_geometry, evaluating, own_cells, scales
from utils.array_tool import totensor
from utils.bbox_tools import clip_bbox, loc2bbox, pixel_edges, resize_bbox
from utils.checkpoint import fit_state_dict, read_state_dict
from utils.errors import UserError
from utils.image_tool import prepare


class Detections(NamedTuple):
    """What `predict` returns: three lists, one numpy array an image, best score first."""

    bboxes: list  # (R, 4) float32, (y_min, x_min, y_max, x_max) in pixels of the original picture
    labels: list  # (R,) int32, 0..L−1
    scores: list  # (R,) float32, 0..1


# Least score by purpose: few sure boxes to look at, or all that can raise an average precision.
PRESETS = {"visualize": 0.7, "evaluate": 0.05}


MIN_SIDE = 0.01  # pixels of a detection's side, at the least


class FasterRCNN(nn.Module):
    """The detector, from built parts.

    Args:
        extractor: module from prepared images (N, 3, H, W) to feature maps.
        rpn: `RegionProposalNetwork`.
        head: `RoIHead`.
        loc_normalize_mean, loc_normalize_std: the head's offsets are (loc − mean) / std.
        min_size, max_size, input_mode: how pictures are prepared, see `utils.image_tool.prepare`.
        allowed_border, n_sample: see `AnchorTargetCreator` and `ProposalTargetCreator`; None for what this family
            trains best with.
        freeze_at: so many stages of the extractor stay as ImageNet left them; None for the family's own number.
        label_names: L names, or None.
        default_nms_thresh, max_dets: IoU above which a class's weaker box is dropped, and the most boxes of an image.
        rpn_only: predict what the RPN proposes, as objects of one class: the head has not learned.

    A family says in its class attributes where its ImageNet weights are and how its layers make stages.
    """

    pretrained_weights = None  # torchvision's enum entry, where a family has ImageNet weights
    pretrained_fc = ()  # the classification network's names of what are our head's fully connected layers
    beside_backbone = ()  # parts of the names of the extractor's layers that the classification network has not
    stages = ()  # how many of the extractor's children make the first stage, the first two, ...
    default_freeze_at, default_allowed_border, default_n_sample = 0, 0, 128
    default_input_mode = "torchvision"

    def __init__(
        self,
        extractor,
        rpn,
        head,
        *,
        loc_normalize_mean=(0.0, 0.0, 0.0, 0.0),
        loc_normalize_std=(0.1, 0.1, 0.2, 0.2),
        min_size=600,
        max_size=1000,
        input_mode=None,
        allowed_border=None,
        n_sample=None,
        freeze_at=None,
        label_names=None,
        default_nms_thresh=0.3,
        max_dets=None,
        rpn_only=False,
    ):
        super().__init__()
        self.freeze_at = self.default_freeze_at if freeze_at is None else freeze_at
        if not 0 <= self.freeze_at <= len(self.stages):
            raise ValueError(
                f"freeze_at {freeze_at}: must be from 0 to {len(self.stages)}, the stages of this extractor"
            )
        if any(0 in map_size for map_size in rpn.own_sizes((min_size, min_size))):
            raise ValueError(f"min_size {min_size}: this extractor leaves nothing of such pictures; make it larger")
        for layer in list(extractor.children())[: self.stages[self.freeze_at - 1] if self.freeze_at else 0]:
            layer.requires_grad_(False)
        self.extractor = extractor
        self.rpn = rpn
        self.head = head
        self.loc_normalize_mean = loc_normalize_mean
        self.loc_normalize_std = loc_normalize_std
        # the same on the device: a copy from the host would make a step wait
        normalization = torch.tensor([loc_normalize_mean, loc_normalize_std], dtype=torch.float32)
        self.register_buffer("loc_normalization", normalization, persistent=False)  # (2, 4) mean and deviation
        self.min_size = min_size
        self.max_size = max_size
        self.input_mode = self.default_input_mode if input_mode is None else input_mode
        self.allowed_border = self.default_allowed_border if allowed_border is None else allowed_border
        self.n_sample = self.default_n_sample if n_sample is None else n_sample
        self.label_names = label_names
        self.default_nms_thresh = default_nms_thresh
        self.max_dets = max_dets
        self.rpn_only = rpn_only
        self.frozen_bn = False
        self.optimizer = None
        self.use_preset("evaluate")

    @property
    def n_class(self):
        """Classes with background, L + 1."""
        return self.head.n_class

    @property
    def feat_stride(self):
        """Pixels between two cells of the feature map; of a pyramid, of its finest one."""
        return self.rpn.levels[0].stride

    @property
    def convention(self):
        return self.rpn.convention

    @property
    def detected_names(self):
        """The classes of what `predict` returns."""
        return ("object",) if self.rpn_only else self.label_names

    @property
    def preparation(self):
        """How pictures are prepared for it: the arguments of `utils.image_tool.prepare` behind the picture."""
        return self.min_size, self.max_size, self.input_mode, self.convention.size_rule

    @property
    def device(self):
        return self.rpn.score.weight.device

    def forward(self, imgs, scale=1.0, sizes=None):
        """
        Args:
            imgs: (N, 3, H, W) prepared images, padded at the bottom and right.
            scale: prepared size / original size, a float or N of them.
            sizes: (N, 2) heights and widths without the padding; None for no padding.

        Returns:
            as `RoIHead`, roi_cls_locs and roi_scores (R, L + 1); rois (R, 4), roi_indices (R,).
        """
        sizes, scale = batch_geometry(imgs, scale, sizes)
        features = self.extract(imgs, sizes)
        rpn = self.rpn(features, sizes, scale)
        used = torch.arange(rpn.rois.shape[1], device=imgs.device) < rpn.n_rois[:, None]  # (N, P)
        rois, roi_indices = rpn.rois[used], used.nonzero()[:, 0]  # what a GPU's host waits for, once
        return *self.head(features, rois, roi_indices), rois, roi_indices

    def extract(self, imgs, sizes):
        """The feature maps of a batch, a list of (N, C, H, W), 0 in the cells that an image would not have by itself.

        So the RPN's 3×3 convolution meets the same border as without padding, and no RoI takes features from it. (The
        extractor's own convolutions do see the padding: cells within their reach of the edge differ a little.)
        """
        height, width = imgs.shape[2:]
        padded = self.rpn.levels[0].padded_size((height, width))
        if padded != (height, width):
            imgs = F.pad(imgs, (0, padded[1] - width, 0, padded[0] - height))
        features = as_levels(self.extractor(imgs))
        own_sizes = zip(*(self.rpn.own_sizes(size) for size in sizes), strict=True)  # of each level, those of N images
        return [own_cells(level, own) for level, own in zip(features, own_sizes, strict=True)]

    def use_preset(self, name):
        """Set `nms_thresh` and `score_thresh` to those of 'visualize' or 'evaluate'."""
        if name not in PRESETS:
            raise ValueError(f"preset {name!r}: must be one of {', '.join(PRESETS)}")
        self.nms_thresh, self.score_thresh = self.default_nms_thresh, PRESETS[name]

    @torch.no_grad()
    def predict(self, imgs, sizes=None, visualize=False, max_dets=None, batch_size=None, rois=None):
        """Detect objects. Leaves the model's mode and thresholds as they were.

        With `rpn_only`, an object is what the RPN proposes, all of one class, and its score the RPN's.

        Args:
            imgs: raw pictures: a list of (3, H, W) RGB arrays or tensors, 0..255, of any sizes. With `sizes`: prepared
                images, (N, 3, H', W') or a list of (3, H', W').
            sizes: N pairs (H, W) of the original pictures, if `imgs` are prepared already.
            visualize: take the thresholds of the preset 'visualize' in place of the model's own.
            max_dets: at most so many boxes an image, the best; None for the model's own number.
            batch_size: images of one prepared size that go through the network together; None for 8 on a GPU, 1 on a
                CPU, where more are no faster. No image is padded, so that none depends on what others are there.
            rois: N arrays (P, 4) of boxes in pixels of the original pictures, in place of the RPN's proposals.

        Returns:
            `Detections(bboxes, labels, scores)`, boxes in pixels of each original picture.
        """
        if max_dets is not None and max_dets < 0:
            raise ValueError(f"max_dets {max_dets}: must be at least 0, or None for the model's own")
        thresholds = self.nms_thresh, self.score_thresh
        if visualize:
            thresholds = self.default_nms_thresh, PRESETS["visualize"]
        thresholds += (self.max_dets if max_dets is None else max_dets,)
        if rois is not None and len(rois) != len(imgs):
            raise ValueError(f"{len(imgs)} images, but the RoIs of {len(rois)}: give an array for each")

        def detect(places, imgs, originals):
            own = None if rois is None else [totensor(rois[i], imgs.device).float() for i in places]
            for bbox, prob in self._boxes_and_scores(imgs, originals, own):
                yield self._suppress(bbox, prob, *thresholds)

        results = self._in_batches(imgs, sizes, batch_size, detect)
        return Detections(*([result[k] for result in results] for k in range(3)))

    @torch.no_grad()
    def propose(self, imgs, sizes=None, batch_size=None):
        """The RPN's proposals, as many as its `ProposalCreator` leaves; arguments as of `predict`.

        Returns:
            N pairs of arrays: bbox (P, 4) in pixels of each original picture, best first; score (P,), 0..1.
        """

        def propose(places, imgs, originals):
            for bbox, prob in self._proposals(imgs, originals):
                yield bbox[:, 0].cpu().numpy(), prob[:, 0].cpu().numpy()

        return self._in_batches(imgs, sizes, batch_size, propose)

    def _in_batches(self, imgs, sizes, batch_size, function):
        """What `function(places, imgs, original sizes)` yields for each image, images of one prepared size together."""
        if sizes is not None and len(sizes) != len(imgs):
            raise ValueError(f"{len(imgs)} images, but {len(sizes)} sizes: give a pair (H, W) for each")
        batch_size = batch_size or (8 if self.device.type == "cuda" else 1)
        results = [None] * len(imgs)
        waiting = {}  # prepared size → [(place, img, original size)]

        def run(group):
            places, prepared, originals = zip(*group, strict=True)
            batch = torch.stack(prepared).contiguous(memory_format=torch.channels_last)
            for place, result in zip(places, function(places, batch, originals), strict=True):
                results[place] = result

        with evaluating(self):
            for i, img in enumerate(imgs):
                img = totensor(img).to(self.device, non_blocking=True).float()  # bytes travel as such
                size = tuple(img.shape[1:]) if sizes is None else tuple(int(side) for side in sizes[i])
                if sizes is None:
                    img = prepare(img, *self.preparation)
                group = waiting.setdefault(tuple(img.shape[1:]), [])
                group.append((i, img, size))
                if len(group) == batch_size:
                    run(waiting.pop(tuple(img.shape[1:])))
                elif sum(map(len, waiting.values())) == 4 * batch_size:  # many sizes: the device can't hold them all
                    run(waiting.pop(next(iter(waiting))))
            for group in waiting.values():
                run(group)
        return results

    def _boxes_and_scores(self, imgs, originals, rois=None):
        """For each of the prepared images (N, 3, H, W), of pictures of the sizes `originals`: boxes (R, L, 4) in pixels
        of the picture, and probabilities (R, L).

        `rois` has a tensor (P, 4) for each image, in pixels of the picture; None for the RPN's.
        """
        if self.rpn_only:
            yield from self._proposals(imgs, originals)
            return
        prepared_size = tuple(imgs.shape[2:])
        if rois is None:
            roi_cls_locs, roi_scores, rois, roi_indices = self(imgs, scales(prepared_size, originals))
        else:
            own = [resize_bbox(roi, size, prepared_size) for roi, size in zip(rois, originals, strict=True)]
            rois = torch.cat(own)
            roi_indices = torch.cat([roi.new_full(roi.shape[:1], i, dtype=torch.long) for i, roi in enumerate(own)])
            features = self.extract(imgs, [prepared_size] * len(imgs))
            roi_cls_locs, roi_scores = self.head(features, rois, roi_indices)
        n_rois = torch.bincount(roi_indices, minlength=len(imgs)).tolist()
        columns = (column.split(n_rois) for column in (roi_cls_locs, roi_scores, rois))
        for size, roi_cls_loc, roi_score, roi in zip(originals, *columns, strict=True):
            yield self._decode(roi_cls_loc, roi_score, roi, prepared_size, size)

    def _proposals(self, imgs, originals):
        """As `_boxes_and_scores`, of a detector of the one class of whatever the RPN takes for an object: L is 1."""
        size = tuple(imgs.shape[2:])
        rpn = self.rpn(self.extract(imgs, [size] * len(imgs)), [size] * len(imgs), scales(size, originals))
        for original, rois, n, scores in zip(originals, rpn.rois, rpn.n_rois.tolist(), rpn.roi_scores, strict=True):
            yield resize_bbox(rois[:n], size, original)[:, None], scores[:n, None].sigmoid()

    def _decode(self, roi_cls_loc, roi_score, roi, prepared_size, size):
        """Boxes (R, L, 4) in pixels of the original picture and class probabilities (R, L), without background."""
        mean, std = self.loc_normalization
        loc = roi_cls_loc.view(len(roi), self.head.n_box, 4) * std + mean  # (R, L + 1, 4), class-agnostic (R, 1, 4)
        plus_one = self.convention.plus_one
        bbox = loc2bbox(pixel_edges(roi, plus_one)[:, None], loc)
        bbox = bbox.expand(-1, self.n_class - 1, -1) if self.head.class_agnostic else bbox[:, 1:]  # (R, L, 4)
        inside = clip_bbox(bbox.reshape(-1, 4), [side - plus_one for side in prepared_size])
        bbox = clip_bbox(resize_bbox(inside, prepared_size, size), size).view_as(bbox)  # it may round beyond the edge
        return bbox, roi_score.softmax(dim=1)[:, 1:]

    def _suppress(self, bbox, prob, nms_thresh, score_thresh, max_dets):
        """(R, L, 4) boxes and (R, L) probabilities → arrays bbox (R', 4), label (R',), score (R',), best first.

        What lies beyond the picture's edge, and has no area left, is no detection.
        """
        edges = pixel_edges(bbox, self.convention.plus_one)
        has_area = (edges[..., 2:] - edges[..., :2] >= MIN_SIDE).all(dim=-1)  # (R, L)
        index, label = torch.where((prob > score_thresh) & has_area)
        bbox, edges, score = bbox[index, label], edges[index, label], prob[index, label]
        keep = batched_nms(edges, score, label, nms_thresh)[:max_dets]
        return bbox[keep].cpu().numpy(), label[keep].int().cpu().numpy(), score[keep].cpu().numpy()

    def get_optimizer(self, lr=1e-3, weight_decay=0.0005, use_adam=False):
        """SGD with momentum 0.9, or AdamW, over what is not frozen; also kept as `self.optimizer`.

        Biases learn at twice the rate and without decay, as in caffe's Faster R-CNN; nor do norms decay.
        """
        groups = {(2.0, 0.0): [], (1.0, 0.0): [], (1.0, weight_decay): []}  # (factor of lr, decay) → parameters
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                is_bias = name.endswith("bias")
                groups[2.0 if is_bias else 1.0, 0.0 if parameter.ndim == 1 else weight_decay].append(parameter)
        groups = [
            {"params": parameters, "lr": lr * factor, "lr_factor": factor, "weight_decay": decay}
            for (factor, decay), parameters in groups.items()
            if parameters
        ]
        # fused: one pass over the parameters in place of a dozen small operations
        kind = torch.optim.AdamW if use_adam else partial(torch.optim.SGD, momentum=0.9)
        self.optimizer = kind(groups, fused=True)
        return self.optimizer

    def scale_lr(self, decay=0.1):
        """Multiply the learning rate of the optimizer made last by `decay`; returns the optimizer."""
        for group in self.optimizer.param_groups:
            group["lr"] *= decay
        return self.optimizer

    def load_pretrained(self, path=None):
        """Start from ImageNet weights, and freeze BatchNorm, whose statistics small batches would spoil.

        Args:
            path: a file in torchvision's names of the classification network; None downloads torchvision's own.

        Raises:
            UserError: no route to the download, or a file that does not fit.
        """
        if path is None:
            if self.pretrained_weights is None:
                raise UserError(f"{type(self).__name__} has no ImageNet weights; train it with --pretrained-model=none")
            try:
                state = self.pretrained_weights.get_state_dict(progress=True)
            except (OSError, RuntimeError, HTTPException) as error:  # no route, a wrong checksum, a cut connection
                raise UserError(
                    f"no route to torchvision's ImageNet weights ({getattr(error, 'reason', error)}): give a file with "
                    "--pretrained-path=FILE, or start from random weights with --pretrained-model=none"
                ) from None
        else:
            state = read_state_dict(path)
        own = self.state_dict()
        state = {new: value for name, value in state.items() if (new := self.pretrained_name(name)) in own}
        not_in_file = (*self.beside_backbone, "num_batches_tracked")
        wanted = [n for n in own if n.startswith("extractor.") and not any(part in n for part in not_in_file)]
        fit_state_dict(self, state, required=wanted, path=path or "torchvision's weights")
        self.freeze_bn()

    def pretrained_name(self, name):
        """Our name of the classification network's parameter `name`: torchvision's `features` are our extractor."""
        layers = [i for i, layer in enumerate(self.head.classifier.children()) if isinstance(layer, nn.Linear)]
        for own, theirs in zip(layers, self.pretrained_fc, strict=False):
            if name.startswith(f"{theirs}."):
                return f"head.classifier.{own}{name.removeprefix(theirs)}"
        return name.replace("features.", "extractor.", 1)

    def freeze_bn(self):
        """Keep BatchNorm's statistics and parameters as they are, also in training mode."""
        self.frozen_bn = True
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
        self.train(self.training)

    def compile_layers(self):
        """Let torch.compile fuse the layers between two of our operators; takes a minute at the first images.

        The names in the state dict stay. Sizes of images vary, so the extractor is compiled for any.
        """
        self.extractor.compile(dynamic=True)
        self.head.classifier.compile(dynamic=True)

    def train(self, mode=True):
        super().train(mode)
        learns = any(parameter.requires_grad for parameter in self.extractor.parameters())
        if self.frozen_bn or not learns:  # an extractor that does not learn keeps its statistics too
            for module in (self if self.frozen_bn else self.extractor).modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self
