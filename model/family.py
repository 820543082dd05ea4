"""What the families of detectors share: from a backbone and a family's numbers to a whole `FasterRCNN`."""

from typing import ClassVar

from model.faster_rcnn import FasterRCNN
from model.region_proposal_network import RegionProposalNetwork
from model.roi_head import RoIHead


class FasterRCNNFamily(FasterRCNN):
    """Builds the RPN and the head around a backbone. A family is a subclass with `layers` and the numbers below.

    Args:
        n_fg_class: foreground classes, L.
        ratios, anchor_scales: anchors, see `generate_anchor_base`.
        use_drop: dropout after the head's fully connected layers.
        roi: 'pool', 'align' or 'crop'.
        rpn_min_size: pixels of the original picture; shorter proposals are dropped.
        class_agnostic: one box a RoI in place of one a class.
        others: keywords of `FasterRCNN`.

    None takes the family's default. The weights are random until `load_pretrained` or `load_state_dict`.
    """

    cells = None  # `Cells` of the feature map
    rpn_width, roi_size = 512, 7  # channels of the RPN's convolution; bins a side of a RoI
    proposals: ClassVar = {}  # keywords of `ProposalCreator`, where the family's are others
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
        **others,
    ):
        extractor, channels, classifier, width = self.layers(use_drop)
        anchor_scales = self.default_anchor_scales if anchor_scales is None else anchor_scales
        min_size = self.default_rpn_min_size if rpn_min_size is None else rpn_min_size
        proposals = {"min_size": min_size, **self.proposals}
        rpn = RegionProposalNetwork(channels, self.rpn_width, ratios, anchor_scales, self.cells, proposals)
        roi = self.default_roi if roi is None else roi
        head = RoIHead(classifier, width, n_fg_class + 1, self.roi_size, self.cells, roi, class_agnostic)
        super().__init__(extractor, rpn, head, **others)

    def layers(self, use_drop):
        """The backbone, with random weights.

        Returns:
            extractor: module from prepared images to feature maps; channels: of a map.
            classifier: module from (R, channels, roi_size, roi_size) to (R, width); width.
        """
        raise NotImplementedError
