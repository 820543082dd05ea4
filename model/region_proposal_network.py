"""The region proposal network (Ren et al. 2015, §3.1).

Letters: N images, C channels, (H, W) a feature map, K cells of all maps, A anchors a cell, P proposals.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from model.utils.anchor_tool import VGG_CELLS, best_anchor_iou, enumerate_shifted_anchor
from model.utils.batch_tool import as_levels, cell_mask
from model.utils.convention import CONTINUOUS
from model.utils.creator_tool import ProposalCreator
from utils.bbox_tools import pixel_edges
from utils.precision_tool import in_full_precision


class RPNOutput(NamedTuple):
    """What the RPN says of a padded batch."""

    locs: torch.Tensor  # (N, K·A, 4) offsets of the anchors, one level after the other
    scores: torch.Tensor  # (N, K·A, 2) logits of background and foreground
    rois: torch.Tensor  # (N, P, 4) each image's proposals, best first, zeros in unused slots. No gradient
    n_rois: torch.Tensor  # (N,) int32: how many each image has
    anchor: torch.Tensor  # (K·A, 4) the anchors
    roi_scores: torch.Tensor  # (N, P) what the proposals rank by: foreground logits less the background's


class RegionProposalNetwork(nn.Module):
    """Scores and moves the anchors of each cell, and proposes regions.

    Of several feature maps, the levels of a pyramid, each has anchors of its own, and the same layers look at all.

    Args:
        in_channels, mid_channels: channels of the feature maps and of the 3×3 convolution.
        ratios, anchor_scales: see `generate_anchor_base`.
        cells: `Cells` of the feature map, or a tuple of those of each level.
        proposal_creator_params: keywords of `ProposalCreator`.
        base_size: pixels of which the scales are multiples; None takes the stride of each level's cells.
        convention: `Convention`.

    The channels of the output layers are a contract with stored weights: `score` has anchor·2 + {0: background,
    1: foreground}, `loc` has anchor·4 + (dy, dx, dh, dw).
    """

    def __init__(
        self,
        in_channels=512,
        mid_channels=512,
        ratios=(0.5, 1, 2),
        anchor_scales=(8, 16, 32),
        cells=VGG_CELLS,
        proposal_creator_params=None,
        base_size=None,
        convention=CONTINUOUS,
    ):
        super().__init__()
        self.ratios = tuple(ratios)
        self.anchor_scales = tuple(anchor_scales)
        self.levels = as_levels(cells)
        self.base_size, self.convention = base_size, convention
        anchor_base = self.make_anchor_base()
        self.register_buffer("anchor_base", anchor_base, persistent=False)  # (levels, A, 4); not in the state dict
        rules = {"plus_one": convention.plus_one, "small_last": convention.small_last}
        self.proposal_layer = ProposalCreator(self, **rules, **(proposal_creator_params or {}))
        n_anchor = anchor_base.shape[1]
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, padding=1)
        self.score = nn.Conv2d(mid_channels, n_anchor * 2, 1)
        self.loc = nn.Conv2d(mid_channels, n_anchor * 4, 1)
        self.reset_parameters()

    def make_anchor_base(self):
        """(levels, A, 4) the anchors of each level's first cell."""
        return torch.stack([
            self.convention.anchor_base(self.base_size or level.stride, self.ratios, self.anchor_scales, level.center)
            for level in self.levels
        ])  # fmt: skip

    def reset_parameters(self):
        """Draw the initial weights (Ren et al. 2015, §3.1.3)."""
        for layer in (self.conv1, self.score, self.loc):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x, sizes, scale, propose=True):
        """
        Args:
            x: the feature maps of a padded batch, (N, C, H, W) of each level; a tensor for one level.
            sizes: N pairs (height, width) in pixels: each prepared image without its padding.
            scale: N floats, prepared size / original size.
            propose: False leaves out the proposals, which the RPN's own losses do not need.

        Returns:
            `RPNOutput`; without proposals None in their places.
        """
        x = as_levels(x)
        n, map_sizes = len(x[0]), [tuple(level.shape[2:]) for level in x]
        rpn_locs, rpn_scores = [], []
        for level in x:
            h = F.relu(self.conv1(level))
            loc, score = in_full_precision(h, self.loc, self.score)
            rpn_locs.append(loc.permute(0, 2, 3, 1).reshape(n, -1, 4))
            rpn_scores.append(score.permute(0, 2, 3, 1).reshape(n, -1, 2))
        level_sizes = [locs.shape[1] for locs in rpn_locs]
        rpn_locs, rpn_scores = torch.cat(rpn_locs, dim=1), torch.cat(rpn_scores, dim=1)  # (N, K·A, 4) and (…, 2)
        anchor = self.anchors(map_sizes, sizes)
        if not propose:
            return RPNOutput(rpn_locs, rpn_scores, None, None, anchor, None)
        logits = rpn_scores.detach()
        # the difference ranks as the softmax does, but never comes to 1 for several
        score = logits[..., 1] if self.convention.foreground_logit else logits[..., 1] - logits[..., 0]
        valid = self.own_anchors(map_sizes, sizes, x[0].device)
        proposals = self.proposal_layer.batch(rpn_locs.detach(), score, anchor, sizes, scale, valid, level_sizes)
        return RPNOutput(rpn_locs, rpn_scores, proposals.roi, proposals.count, anchor, proposals.score)

    def anchors(self, map_sizes, sizes):
        """(K·A, 4) the anchors of all cells of maps of `map_sizes`, of a batch of images of `sizes`."""
        strides = self.strides(tuple(max(side) for side in zip(*sizes, strict=True)))
        levels = zip(self.anchor_base, strides, map_sizes, strict=True)
        return torch.cat([enumerate_shifted_anchor(base, stride, *map_size) for base, stride, map_size in levels])

    def best_iou(self, bbox, sizes, border=0.0):
        """What anchors can make of boxes: the IoU of each with the best anchor that takes part in training.

        Args:
            bbox: (R, 4) tensor, in pixels of prepared images.
            sizes: R pairs (height, width) of these.
            border: see `AnchorTargetCreator.allowed_border`.

        Returns:
            (R,) float64, 0..1.
        """
        cells = {size: list(zip(self.own_sizes(size), self.strides(size), strict=True)) for size in set(sizes)}
        best = torch.zeros(len(bbox), dtype=torch.float64)
        plus_one = self.convention.plus_one
        for k, base in enumerate(self.make_anchor_base()):
            map_size, stride = (torch.tensor([cells[size][k][n] for size in sizes]).reshape(-1, 2) for n in (0, 1))
            boxes, base = pixel_edges(bbox, plus_one), pixel_edges(base, plus_one)
            iou = best_anchor_iou(boxes, base, stride, map_size, torch.tensor(sizes).reshape(-1, 2), border)
            best = torch.maximum(best, iou)
        return best

    def strides(self, size):
        """Pixels between the anchors of each level, down and to the right, in a batch padded to `size` (H, W)."""
        strides = []
        for level in self.levels:
            stride, map_size = (level.stride, level.stride), level.map_size(size)
            if self.convention.even_strides and 0 not in map_size:
                padded = level.padded_size(size)
                stride = tuple(side // n_cell for side, n_cell in zip(padded, map_size, strict=True))
            strides.append(stride)
        return strides

    def own_sizes(self, size):
        """(height, width) in cells of each level's map of an image of `size` alone."""
        return [level.map_size(size) for level in self.levels]

    def own_anchors(self, map_sizes, sizes, device):
        """(N, K·A) bool: the anchors of the cells that each image would have alone; None where that is all."""
        own_sizes = [self.own_sizes(size) for size in sizes]
        if all(own == map_sizes for own in own_sizes):
            return None
        levels = zip(map_sizes, zip(*own_sizes, strict=True), strict=True)
        cells = torch.cat([cell_mask(map_size, own, device).flatten(1) for map_size, own in levels], dim=1)  # (N, K)
        return cells[..., None].expand(-1, -1, self.anchor_base.shape[1]).flatten(1)
