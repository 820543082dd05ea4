"""Our VOC evaluation beside pycocotools' COCOeval on the same detections, and the time of the three analyses.

    python misc/bench_eval.py                 # 5,000 images, 100 detections and 5 boxes each, 20 classes
    python misc/bench_eval.py --images=500

Prints Markdown. Both evaluate at IoU 0.5 only, COCOeval with maxDets 100 and area "all"; its time is that of `evaluate`
and `accumulate`, without the reading of its dictionaries, while ours begins at the arrays. The time is the least of
`--rounds` calls, the memory the most that one more call holds beside the data.
"""

import argparse
import contextlib
import io
import sys
import time
import tracemalloc
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from utils.analysis_tool import confusion_matrix, precision_recall
from utils.bbox_tools import yxyx2xywh
from utils.cli_tool import at_least_one
from utils.error_tool import error_analysis
from utils.eval_tool import evaluate_detections

HEIGHT, WIDTH = 375, 500


def random_boxes(rng, *shape):
    """(*shape, 4) boxes (y_min, x_min, y_max, x_max), edges in pixels, with sides of 20 px to 60 % of the picture's."""
    size = np.array([HEIGHT, WIDTH])
    sides = rng.uniform(20, 0.6 * size, (*shape, 2))
    corner = rng.uniform(0, size - sides)
    return np.concatenate([corner, corner + sides], axis=-1)


def random_set(n_images, n_det, n_gt, n_classes):
    """The five columns that the evaluations take: a third of the detections near a box, most of these of its class."""
    rng = np.random.default_rng(0)
    gt_bbox, gt_label = random_boxes(rng, n_images, n_gt), rng.integers(n_classes, size=(n_images, n_gt))
    bbox, label = random_boxes(rng, n_images, n_det), rng.integers(n_classes, size=(n_images, n_det))
    score = rng.random((n_images, n_det)) ** 3
    image, det = np.nonzero(rng.random((n_images, n_det)) < 1 / 3)
    box = rng.integers(n_gt, size=len(image))
    near = gt_bbox[image, box] + rng.normal(0, 8, (len(image), 4))
    bbox[image, det] = np.concatenate([near[:, :2], np.maximum(near[:, 2:], near[:, :2] + 1)], axis=1)
    right = rng.random(len(image)) < 0.8
    label[image[right], det[right]] = gt_label[image, box][right]
    score[image[right], det[right]] = rng.random(right.sum())
    return [list(column) for column in (bbox, label, score, gt_bbox, gt_label)]


def coco_eval(bboxes, labels, scores, gt_bboxes, gt_labels):
    """A COCOeval that has read its detections: `evaluate` and `accumulate` are left to do."""
    boxes = [
        (i, int(label), yxyx2xywh(box).tolist())
        for i, (bbox, own) in enumerate(zip(gt_bboxes, gt_labels, strict=True))
        for box, label in zip(bbox, own, strict=True)
    ]
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i} for i in range(len(bboxes))],
        "categories": [{"id": c} for c in np.unique(np.concatenate(gt_labels)).tolist()],
        "annotations": [
            {"id": k, "image_id": i, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for k, (i, c, box) in enumerate(boxes, start=1)
        ],
    }
    truth.createIndex()
    image = np.repeat(np.arange(len(bboxes)), [len(bbox) for bbox in bboxes])
    detections = np.column_stack(
        [image, yxyx2xywh(np.concatenate(bboxes)), np.concatenate(scores), np.concatenate(labels)]
    )
    evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.params.maxDets = [100]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    return evaluation


def run_coco_eval(evaluation):
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"]  # −1 for a class without boxes
    return precision[precision > -1].mean()


OURS = {
    "`evaluate_detections`": evaluate_detections,
    "`precision_recall`": precision_recall,
    "`confusion_matrix`, scores above 0.05": partial(confusion_matrix, score_thresh=0.05),
    "`error_analysis`": error_analysis,
}


def measure(name, rounds, data):
    """(seconds, bytes, mAP or None) of one row."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells what it does
        call = partial(OURS[name], *data, plus_one=False) if name in OURS else partial(run_coco_eval, coco_eval(*data))
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - start)
        tracemalloc.start()  # apart, as it slows what it watches
        call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return min(seconds), peak, result if name not in OURS else getattr(result, "map", None)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"images": 5000, "detections": 100, "boxes": 5, "classes": 20, "rounds": 3}.items():
        parser.add_argument(f"--{name}", default=default, type=at_least_one)
    args = parser.parse_args()
    sizes = args.images, args.detections, args.boxes, args.classes
    print("{:,} images, {:,} detections and {:,} boxes each, {:,} classes\n".format(*sizes))
    print("| what | seconds | COCOeval's time to this | peak memory, MB | mAP |\n|---|---|---|---|---|")
    data, theirs = random_set(*sizes), None
    for name in ("COCOeval", *OURS):
        seconds, memory, mean_ap = measure(name, args.rounds, data)
        theirs = theirs or seconds
        shown = "" if mean_ap is None else f"{mean_ap:.4f}"
        print(f"| {name} | {seconds:.3f} | {theirs / seconds:.1f} | {memory / 1e6:.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
