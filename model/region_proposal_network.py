"""The region proposal network (Ren et al. 2015, §3.1).

Letters: N images, C channels, (H, W) a feature map, K = H·W cells, A anchors a cell, P proposals.
"""

import torch
import torch.nn.functional as F
from torch import nn

from model.utils.anchor_tool import VGG_CELLS, enumerate_shifted_anchor, generate_anchor_base
from model.utils.creator_tool import ProposalCreator
from utils.precision_tool import in_full_precision


class RegionProposalNetwork(nn.Module):
    """Scores and moves the anchors of each cell, and proposes regions.

    Args:
        in_channels, mid_channels: channels of the feature map and of the 3×3 convolution.
        ratios, anchor_scales: see `generate_anchor_base`; the base size is the stride of the cells.
        cells: `Cells` of the feature map.
        proposal_creator_params: keywords of `ProposalCreator`.

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
    ):
        super().__init__()
        self.ratios = tuple(ratios)
        self.anchor_scales = tuple(anchor_scales)
        self.cells = cells
        anchor_base = generate_anchor_base(cells.stride, ratios, anchor_scales, cells.center)  # (A, 4)
        self.register_buffer("anchor_base", anchor_base, persistent=False)  # not in the state dict
        self.proposal_layer = ProposalCreator(self, **(proposal_creator_params or {}))
        n_anchor = len(anchor_base)
        self.conv1 = nn.Conv2d(in_channels, mid_channels, 3, padding=1)
        self.score = nn.Conv2d(mid_channels, n_anchor * 2, 1)
        self.loc = nn.Conv2d(mid_channels, n_anchor * 4, 1)
        for layer in (self.conv1, self.score, self.loc):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, x, sizes, scale):
        """
        Args:
            x: (N, C, H, W) feature maps of a padded batch.
            sizes: N pairs (height, width) in pixels: each prepared image without its padding.
            scale: N floats, prepared size / original size.

        Returns:
            rpn_locs (N, K·A, 4): offsets of the anchors.
            rpn_scores (N, K·A, 2): logits of background and foreground.
            rois (N, P, 4): each image's proposals, best first, zeros in unused slots. No gradient.
            n_rois (N,) int32: how many each image has.
            anchor (K·A, 4): the anchors.
        """
        n, map_size = len(x), x.shape[2:]
        anchor = enumerate_shifted_anchor(self.anchor_base, self.cells.stride, *map_size)
        h = F.relu(self.conv1(x))
        loc, score = in_full_precision(h, self.loc, self.score)
        rpn_locs = loc.permute(0, 2, 3, 1).reshape(n, -1, 4)  # (N, K·A, 4)
        rpn_scores = score.permute(0, 2, 3, 1).reshape(n, -1, 2)  # (N, K·A, 2)
        foreground = rpn_scores.detach().softmax(dim=2)[..., 1]  # (N, K·A)

        valid = None
        own_sizes = [self.cells.map_size(size) for size in sizes]
        if any(own != tuple(map_size) for own in own_sizes):
            valid = x.new_zeros(n, *map_size, len(self.anchor_base), dtype=torch.bool)
            for own_valid, (height, width) in zip(valid, own_sizes, strict=True):
                own_valid[:height, :width] = True
            valid = valid.flatten(1)  # (N, K·A)
        rois, n_rois = self.proposal_layer.batch(rpn_locs.detach(), foreground, anchor, sizes, scale, valid)
        return rpn_locs, rpn_scores, rois, n_rois, anchor
