"""The second head: from the features in a RoI to a class and a box (Girshick 2015, Fast R-CNN, §2).

Letters: N images, C channels, (H, W) a feature map, R RoIs, L foreground classes.
"""

from torch import nn

from model.ops.roi_align import roi_align
from model.ops.roi_crop import roi_crop
from model.ops.roi_pool import roi_pool
from model.utils.anchor_tool import VGG_CELLS
from utils.precision_tool import in_full_precision

ROI_OPS = {"pool": roi_pool, "align": roi_align, "crop": roi_crop}


class FullyConnected(nn.Sequential):
    """Layers on each RoI's features as one row of numbers."""

    def forward(self, x):
        return super().forward(x.flatten(1))


def fc_layers(in_features, *widths, use_drop=False, std=None):
    """Fully connected layers with ReLU, and dropout after each if asked: VGG16's fc6 and fc7, of any widths.

    Args:
        widths: of the layers; one number is for two layers of it.
        std: deviation of the initial weights; None for torch's own initial weights.
    """
    layers = []
    for width in widths if len(widths) > 1 else widths * 2:
        linear = nn.Linear(in_features, width)
        if std is not None:
            nn.init.normal_(linear.weight, 0, std)
            nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
        if use_drop:
            layers.append(nn.Dropout())
        in_features = width
    return FullyConnected(*layers)


class RoIHead(nn.Module):
    """Pools each RoI, runs `classifier` on it, and gives it a score and a box for each class.

    Args:
        classifier: module from (R, C, roi_size, roi_size) to (R, width).
        width: features that `classifier` returns.
        n_class: classes with background, L + 1.
        roi_size: bins a side.
        cells: `Cells` of the feature map.
        roi: a name of ROI_OPS.
        class_agnostic: give a RoI one box for all classes.
    """

    def __init__(self, classifier, width, n_class, roi_size=7, cells=VGG_CELLS, roi="pool", class_agnostic=False):
        super().__init__()
        self.n_class = n_class
        self.roi_size = roi_size
        self.spatial_scale = 1 / cells.stride
        if roi not in ROI_OPS:
            raise ValueError(f"roi {roi!r}: must be one of {', '.join(ROI_OPS)}")
        self.roi = roi
        # The operators take it that a cell sees around the middle of its own square of pixels.
        self.shift = cells.stride / 2 - cells.center
        self.classifier = classifier
        self.class_agnostic = class_agnostic
        self.n_box = 1 if class_agnostic else n_class  # boxes that a RoI is given
        self.cls_loc = nn.Linear(width, self.n_box * 4)
        self.score = nn.Linear(width, n_class)
        nn.init.normal_(self.cls_loc.weight, 0, 0.001)
        nn.init.normal_(self.score.weight, 0, 0.01)
        nn.init.zeros_(self.cls_loc.bias)
        nn.init.zeros_(self.score.bias)

    def forward(self, x, rois, roi_indices):
        """
        Args:
            x: (N, C, H, W) feature maps.
            rois: (R, 4) boxes (y_min, x_min, y_max, x_max) in pixels of the prepared image; R ≥ 0.
            roi_indices: (R,) the image of each.

        Returns:
            roi_cls_locs (R, (L + 1)·4), or (R, 4) if class-agnostic, and roi_scores (R, L + 1); class 0 is background.
        """
        rois = rois + self.shift
        pooled = ROI_OPS[self.roi](x, rois, roi_indices, self.roi_size, self.spatial_scale)  # (R, C, size, size)
        return in_full_precision(self.classifier(pooled), self.cls_loc, self.score)
