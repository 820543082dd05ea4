"""Average precision by COCO's rules (cocodataset.org, "Detection evaluation"), through its own code, pycocotools.

Letters: N images, R boxes of one image, L foreground classes.
"""

import contextlib
import io
from dataclasses import dataclass

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.bbox_tools import yxyx2xywh
from utils.detections import Detections
from utils.eval_tool import plain

# The twelve numbers in COCO's order: of IoU 0.5:0.95, 0.5, 0.75, and of small, medium and large objects (32² and 96²
# px²); then recall with 1, 10 and 100 detections an image, and of the three sizes.
STATS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


@dataclass(frozen=True, eq=False)
class COCOResult:
    """COCO's numbers; NaN where there is nothing to be found."""

    label_names: tuple[str, ...]  # L, in label order
    stats: dict[str, float]  # by the names in STATS, 0..1
    ap: np.ndarray  # (L,) float64, 0..1: over IoU 0.5:0.95
    ap50: np.ndarray  # (L,) float64
    ap75: np.ndarray  # (L,) float64

    def table(self) -> str:
        """The twelve numbers, six a line."""
        shown = [f"{name:>5} {_show(value)}" for name, value in self.stats.items()]
        return "\n".join("  ".join(shown[i : i + 6]) for i in (0, 6))

    def to_json(self) -> dict:
        """The fields as what `json.dumps` takes; NaN becomes None."""
        by_class = {name: [plain(v) for v in getattr(self, name)] for name in ("ap", "ap50", "ap75")}
        return {"stats": {name: plain(value) for name, value in self.stats.items()}, **by_class}


def evaluate_coco(detections: Detections, instances: dict, label_names) -> COCOResult:
    """COCO's twelve numbers, and AP by class.

    Args:
        detections: of the N images of `instances["images"]`, in their order.
        instances: the lists `images` and `annotations` of COCO's form, whose `category_id` is the label; see
            `BboxDataset.instances`. A crowd (`iscrowd`) takes any number of detections and none counts.
        label_names: the L classes.
    """
    image_ids = [image["id"] for image in instances["images"]]
    xywh = detections.xywh or [yxyx2xywh(np.asarray(own, np.float64).reshape(-1, 4)) for own in detections.bboxes]
    found = [
        {"image_id": image_id, "category_id": label, "bbox": box, "score": score, "area": box[2] * box[3], "iscrowd": 0}
        for image_id, boxes, labels, scores in zip(image_ids, xywh, detections.labels, detections.scores, strict=True)
        for box, label, score in zip(boxes.tolist(), map(int, labels), map(float, scores), strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        truth, found = (_coco(image_ids, rows, len(label_names)) for rows in (instances["annotations"], found))
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), of all sizes, 100 detections
    thresholds = evaluation.params.iouThrs
    by_iou = [_mean(precision[k]) for k in (slice(None), *(np.argmin(abs(thresholds - iou)) for iou in (0.5, 0.75)))]
    stats = np.where(evaluation.stats < 0, np.nan, evaluation.stats)  # it says -1 where there is nothing
    return COCOResult(tuple(label_names), dict(zip(STATS, stats.tolist(), strict=True)), *by_iou)


def _coco(image_ids, rows, n_class):
    """pycocotools' object of these rows. Its `loadRes` would do for detections, but fails where there are none."""
    coco = COCO()
    # its own ids begin with 1: it takes 0 for «not matched»
    annotations = [row | {"id": k} for k, row in enumerate(rows, 1)]
    images, categories = ([{"id": own} for own in ids] for ids in (image_ids, range(n_class)))
    coco.dataset = {"images": images, "annotations": annotations, "categories": categories}
    coco.createIndex()
    return coco


def _mean(precision):
    """(..., L) → (L,) mean over all others, NaN where there is nothing to be found."""
    flat = precision.reshape(-1, precision.shape[-1])
    return np.where((flat > -1).all(axis=0), flat.mean(axis=0), np.nan)


def _show(value):
    return "    -" if np.isnan(value) else f"{value:.3f}"
