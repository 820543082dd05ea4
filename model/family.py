"""What the families of detectors share: from a backbone and a family's numbers to a whole `FasterRCNN`."""

from typing import ClassVar

from model.faster_rcnn import FasterRCNN
from model.region_proposal_network import RegionProposalNetwork
from model.roi_head import RoIHead
from model.utils.convention import CONVENTIONS


class FasterRCNNFamily(FasterRCNN):
    """Builds the RPN and the head around a backbone. A family is a subclass with `layers` and the numbers below.

    Args:
        n_fg_class: foreground classes, L.
        ratios, anchor_scales: anchors, see `generate_anchor_base`.
        use_drop: dropout after the head's fully connected layers.
        roi: 'pool', 'align' or 'crop'.
        rpn_min_size: pixels of the original picture; shorter proposals are dropped.
        class_agnostic: one box a RoI in place of one a class.
        convention: a name of CONVENTIONS.
        proposals: keywords of `ProposalCreator`, in place of the family's.
        others: keywords of `FasterRCNN`.

    None takes the family's default. The weights are random until `load_pretrained` or `load_state_dict`.
    """

    cells = None  # `Cells` of the feature map; of a pyramid, a tuple of each level's: RoIs leave the last to the RPN
    anchor_base_size = None  # pixels of which the scales are multiples; None for each level's stride
    rpn_width, roi_size = 512, 7  # channels of the RPN's convolution; bins a side of a RoI
    default_proposals: ClassVar = {}  # keywords of `ProposalCreator`, where the family's are others
    default_anchor_scales = (8, 16, 32)
    default_roi = "pool"
    default_rpn_min_size = 16

    def __init__(
        self,
        n_fg_class=20,
        ratios=(0.5, 1, 2),
        anchor_scales=None,
        *,
        use_drop=False,
        roi=None,
        rpn_min_size=None,
        class_agnostic=False,
        convention="continuous",
        proposals=None,
        **others,
    ):
        if convention not in CONVENTIONS:
            raise ValueError(f"convention {convention!r}: must be one of {', '.join(CONVENTIONS)}")
        convention = CONVENTIONS[convention]
        extractor, channels, classifier, width = self.layers(use_drop)
        scales = self.default_anchor_scales if anchor_scales is None else anchor_scales
        min_size = self.default_rpn_min_size if rpn_min_size is None else rpn_min_size
        proposals = {"min_size": min_size, **self.default_proposals, **(proposals or {})}
        anchors = self.cells, proposals, self.anchor_base_size, convention
        rpn = RegionProposalNetwork(channels, self.rpn_width, ratios, scales, *anchors)
        roi = self.default_roi if roi is None else roi
        cells = self.cells[:-1] if isinstance(self.cells, tuple) else self.cells
        samples = convention.aligned, convention.corner_align
        head = RoIHead(classifier, width, n_fg_class + 1, self.roi_size, cells, roi, class_agnostic, *samples)
        super().__init__(extractor, rpn, head, **others)

    def layers(self, use_drop):
        """The backbone, with random weights.

        Returns:
            extractor: module from prepared images to feature maps; channels: of a map.
            classifier: module from (R, channels, roi_size, roi_size) to (R, width); width.
        """
        raise NotImplementedError
