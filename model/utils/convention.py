"""How the systems of the family count pixels, lay their anchors and sift their proposals.

A detector goes on seeing what it was trained to see only under the convention of the system that trained it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from model.utils.anchor_tool import caffe_anchor_base, generate_anchor_base, torchvision_anchor_base


@dataclass(frozen=True)
class Convention:
    """The parts by which the systems differ.

    Args:
        anchor_base: (base_size, ratios, anchor_scales, center) → the (A, 4) anchors of the first cell.
        even_strides: a level's anchors are the padded image's side // the map's side apart, in place of its stride.
        plus_one: 1 where a box has the indices of its first and last pixel, so that its width is max − min + 1; 0 where
            it has edges.
        aligned: bilinear samples take a cell's value to be in the middle of what it sees; False puts it at the cell's
            index, half a cell towards the origin.
        corner_align: RoI align takes its samples as `roi_corner_align` does.
        small_last: the best anchors are chosen before the small boxes are dropped from them, not after.
        foreground_logit: proposals rank by the foreground's logit alone, not by the foreground's probability.
        size_rule: how the sides of a prepared image become whole, see `utils.image_tool.resized_size`.
    """

    anchor_base: Callable = generate_anchor_base
    even_strides: bool = False
    plus_one: int = 0
    aligned: bool = True
    corner_align: bool = False
    small_last: bool = False
    foreground_logit: bool = False
    size_rule: str = "round"


CONVENTIONS = {
    # ours and simple-faster-rcnn's: edges, anchors that are not rounded and stand where the cells look
    "continuous": Convention(),
    "chainercv": Convention(foreground_logit=True, size_rule="floor"),
    # also jwyang's, who decodes in pixels of the prepared image, as we do; py-faster-rcnn itself in the picture's
    "py-faster-rcnn": Convention(caffe_anchor_base, plus_one=1, aligned=False, corner_align=True),
    "torchvision": Convention(
        torchvision_anchor_base, even_strides=True, aligned=False, small_last=True, size_rule="floor"
    ),
}
CONTINUOUS = CONVENTIONS["continuous"]
