"""Average precision by the rules of PASCAL VOC (Everingham et al., IJCV 2010, section 4.2, and its development kit).

Letters: N images, R boxes of one image, L foreground classes, D detections and G ground-truth boxes of the whole set,
D_l detections of one class. A *group* is the ground truth of one class in one image: what a detection may match.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Arrays = Iterable[np.ndarray]  # one for each image
_COLUMNS = ("pred_bboxes", "pred_labels", "pred_scores", "gt_bboxes", "gt_labels", "gt_difficults")

# 0.1·t as the older evaluators make them: 0.30000000000000004 asks for a recall above 3/10. Kept, since published
# results were counted so.
_RECALLS_07 = np.arange(0.0, 1.1, 0.1)


@dataclass(frozen=True, eq=False)
class VOCMatches:
    """What became of each detection, by class, the best score first."""

    scores: list[np.ndarray]  # L arrays (D_l,) float64, falling
    matches: list[np.ndarray]  # L arrays (D_l,) int8: 1 found a box, 0 false alarm, −1 on a difficult box: not counted
    n_pos: np.ndarray  # (L,) int64: boxes to be found, without the difficult ones


@dataclass(frozen=True, eq=False)
class VOCResult:
    """Average precision by class and by both rules."""

    label_names: tuple[str, ...]  # L, in label order
    ap07: np.ndarray  # (L,) float64, 0..1: 11 points, as in VOC 2007; NaN for a class without a box to be found
    ap: np.ndarray  # (L,) float64, 0..1: area, as in VOC 2010 and later; NaN likewise
    n_gt: np.ndarray  # (L,) int64: boxes to be found, without the difficult ones
    n_det: np.ndarray  # (L,) int64: detections, with those on difficult boxes

    @property
    def map07(self) -> float:
        """Mean of `ap07` over the classes that have ground truth; NaN where none has."""
        return nanmean(self.ap07)

    @property
    def map(self) -> float:
        """Mean of `ap` likewise."""
        return nanmean(self.ap)

    def table(self) -> str:
        """A row for each class and one for the mean; `-` where there is no ground truth."""
        columns = (self.label_names, self.n_gt, self.n_det, self.ap07, self.ap)
        mean = ("mAP", self.n_gt.sum(), self.n_det.sum(), self.map07, self.map)
        width = max(map(len, (*self.label_names, "class")))
        lines = [f"{'class':<{width}}  {'boxes':>9}  {'detections':>10}  {'AP 11-point':>11}  {'AP area':>7}"]
        for name, n_gt, n_det, ap07, ap in [*zip(*columns, strict=True), mean]:
            lines.append(f"{name:<{width}}  {n_gt:>9,}  {n_det:>10,}  {show(ap07):>11}  {show(ap):>7}")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """The fields and both means as what `json.dumps` takes; NaN becomes None."""
        return {
            "label_names": list(self.label_names),
            "ap07": [plain(ap) for ap in self.ap07],
            "ap": [plain(ap) for ap in self.ap],
            "n_gt": self.n_gt.tolist(),
            "n_det": self.n_det.tolist(),
            "map07": plain(self.map07),
            "map": plain(self.map),
        }


def evaluate_detections(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    label_names: Sequence[str] | None = None,
    iou_thresh: float = 0.5,
    plus_one: bool = True,
) -> VOCResult:
    """AP of each class by both rules; `label_names` None calls them by number, the rest as `match_detections_voc`."""
    L = None if label_names is None else len(label_names)
    found = match_detections_voc(
        pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, iou_thresh, plus_one, n_fg_class=L
    )
    prec, rec = prec_rec_of(found)
    return VOCResult(
        label_names=names_of(label_names, len(found.n_pos)),
        ap07=calc_detection_voc_ap(prec, rec, use_07_metric=True),
        ap=calc_detection_voc_ap(prec, rec),
        n_gt=found.n_pos,
        n_det=np.array([len(scores) for scores in found.scores], np.int64),
    )


def eval_detection_voc(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    iou_thresh: float = 0.5,
    use_07_metric: bool = False,
    plus_one: bool = True,
    n_fg_class: int | None = None,
) -> dict:
    """AP of each class and their mean, under the names of chainercv and simple-faster-rcnn.

    `use_07_metric` takes the 11-point rule; the rest as `match_detections_voc`. Returns {'ap': (L,) float64 with NaN
    for a class without a box to be found, 'map': their mean, NaN where all are}.
    """
    prec, rec = calc_detection_voc_prec_rec(
        pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, iou_thresh, plus_one, n_fg_class
    )
    ap = calc_detection_voc_ap(prec, rec, use_07_metric)
    return {"ap": ap, "map": nanmean(ap)}


def calc_detection_voc_prec_rec(*args, **kwargs) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Precision and recall of each class after each detection; arguments and errors as `match_detections_voc`.

    Two lists of L arrays (D_l,) float64: precision, NaN as long as every detection was on a difficult box, and recall,
    None in place of the array for a class without a box to be found.
    """
    return prec_rec_of(match_detections_voc(*args, **kwargs))


def prec_rec_of(found: VOCMatches) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """`calc_detection_voc_prec_rec` of detections that are matched already."""
    prec, rec = [], []
    for match, n_pos in zip(found.matches, found.n_pos, strict=True):
        tp, fp = np.cumsum(match == 1), np.cumsum(match == 0)
        prec.append(np.divide(tp, tp + fp, out=np.full(len(match), np.nan), where=tp + fp > 0))
        rec.append(tp / n_pos if n_pos else None)
    return prec, rec


def calc_detection_voc_ap(
    prec: Sequence[np.ndarray | None], rec: Sequence[np.ndarray | None], use_07_metric: bool = False
) -> np.ndarray:
    """(L,) float64 average precisions, NaN where `prec` or `rec` of the class is None.

    11-point: the mean over the recalls 0, 0.1, … 1 of the best precision at that recall or above. Area: what lies under
    the precision curve once it is made to fall.
    """
    ap = np.full(len(prec), np.nan)
    for c, (p, r) in enumerate(zip(prec, rec, strict=True)):
        if p is None or r is None:
            continue
        best = np.maximum.accumulate(np.append(np.nan_to_num(p), 0.0)[::-1])[::-1]  # from here on; 0 past the last
        if use_07_metric:
            ap[c] = best[np.searchsorted(r, _RECALLS_07)].mean()
        else:
            ap[c] = (np.diff(r, prepend=0.0) * best[:-1]).sum()
    return ap


def match_detections_voc(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    iou_thresh: float = 0.5,
    plus_one: bool = True,
    n_fg_class: int | None = None,
) -> VOCMatches:
    """Decide for each detection whether it found a box.

    A detection goes to the box of its class and image with which its IoU is greatest (the first of equals), if that is
    `iou_thresh` or more. A difficult box takes any number of detections and none counts; another box is found by
    the best-scored detection that goes to it, and the rest are false alarms, even where a second box would have done.
    Equal scores rank by image, then by place in the image.

    Args:
        pred_bboxes, pred_labels, pred_scores: for each of N images (R, 4) (y_min, x_min, y_max, x_max), (R,) 0..L−1 and
            (R,). Any iterables; each is gone through once.
        gt_bboxes, gt_labels: the same of the ground truth.
        gt_difficults: for each image (R,) bool; None: no box is difficult.
        iou_thresh: 0..1.
        plus_one: count widths and heights as max − min + 1, VOC's inclusive pixels; else the boxes are edges.
        n_fg_class: L; None: the greatest label + 1.

    Raises:
        ValueError: the iterables, or the arrays of an image, differ in length; a label is not in 0..L−1.
    """
    flat = flatten_columns(pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, n_fg_class)
    _, match = match_flat(flat, iou_thresh, plus_one)
    return matches_by_class(flat.det_label, flat.det_score, match, flat.n_pos)


def matches_by_class(label: np.ndarray, score: np.ndarray, match: np.ndarray, n_pos: np.ndarray) -> VOCMatches:
    """Cut (D,) columns that are sorted by label, then falling score, into classes; `n_pos` (L,) goes in as it is."""
    of_class = [slice(*bounds) for bounds in pairwise(np.searchsorted(label, np.arange(len(n_pos) + 1)))]
    return VOCMatches([score[part] for part in of_class], [match[part] for part in of_class], n_pos)


@dataclass(frozen=True, eq=False)
class FlatColumns:
    """Images end to end: detections by class, the best score first; the ground truth by image, then class."""

    det_place: np.ndarray  # (D,) int64: 0..D−1 in the order of images and places, by which equal scores rank
    det_image: np.ndarray  # (D,) int64
    det_bbox: np.ndarray  # (D, 4) float64
    det_label: np.ndarray  # (D,) int64
    det_score: np.ndarray  # (D,) float64
    gt_image: np.ndarray  # (G,) int64
    gt_bbox: np.ndarray  # (G, 4) float64
    gt_label: np.ndarray  # (G,) int64
    difficult: np.ndarray  # (G,) bool
    n_pos: np.ndarray  # (L,) int64: boxes to be found, without the difficult ones


def flatten_columns(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    n_fg_class: int | None = None,
) -> FlatColumns:
    """Check and sort what the evaluations take; arguments and errors as `match_detections_voc`."""
    if gt_difficults is None:
        gt_labels = list(gt_labels)
        gt_difficults = (np.zeros(np.shape(label)) for label in gt_labels)
    columns = _to_lists(pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults)
    det_image, det_bbox, det_label, score = _flatten(columns, "pred_bboxes", "pred_labels", "pred_scores")
    gt_image, gt_bbox, gt_label, difficult = _flatten(columns, "gt_bboxes", "gt_labels", "gt_difficults")
    L = _count_classes(np.append(det_label, gt_label), n_fg_class)
    det_label, gt_label = det_label.astype(np.int64), gt_label.astype(np.int64)
    place = np.lexsort((-score, det_label))  # stable, so equal scores stay in the order of images and places
    rows = np.argsort(gt_image * L + gt_label, kind="stable")  # so equal overlaps still go to the first box
    return FlatColumns(
        det_place=place,
        det_image=det_image[place],
        det_bbox=det_bbox[place],
        det_label=det_label[place],
        det_score=score[place],
        gt_image=gt_image[rows],
        gt_bbox=gt_bbox[rows],
        gt_label=gt_label[rows],
        difficult=difficult[rows] != 0,
        n_pos=np.bincount(gt_label[difficult == 0], minlength=L),
    )


def match_flat(flat: FlatColumns, iou_thresh: float, plus_one: bool) -> tuple[np.ndarray, np.ndarray]:
    """Of each detection the box it goes to, (D,) int64, −1 for none, and (D,) int8 as in `VOCMatches.matches`."""
    L = len(flat.n_pos)
    det_group, gt_group = flat.det_image * L + flat.det_label, flat.gt_image * L + flat.gt_label
    pairs = overlaps(det_group, flat.det_bbox, gt_group, flat.gt_bbox, plus_one)
    target, iou = best_of(pairs, len(det_group))
    target[iou < iou_thresh] = -1
    return target, _judge(target, flat.difficult)


def _to_lists(*columns):
    """Name → list of N flat float64 arrays, for the arguments in `_COLUMNS`."""
    lists = [[np.asarray(array, np.float64).ravel() for array in column] for column in columns]
    if len(set(map(len, lists))) > 1:
        raise ValueError(f"unequal numbers of images: {dict(zip(_COLUMNS, map(len, lists), strict=True))}")
    return dict(zip(_COLUMNS, lists, strict=True))


def _flatten(columns, bboxes, *others):
    """Columns of N images end to end: the image of each of M rows (M,) int64, boxes (M, 4) float64, others (M,)."""
    lengths = {name: [len(array) for array in columns[name]] for name in others}
    lengths[bboxes] = [len(array) / 4 for array in columns[bboxes]]
    for i, row in enumerate(zip(*lengths.values(), strict=True)):
        if len(set(row)) > 1:
            raise ValueError(f"image {i}: unequal lengths: {dict(zip(lengths, row, strict=True))}")
    image = np.repeat(np.arange(len(columns[bboxes])), np.array(lengths[others[0]], np.int64))
    flat = (np.concatenate([np.empty(0), *columns[name]]) for name in others)
    return image, np.concatenate([np.empty(0), *columns[bboxes]]).reshape(-1, 4), *flat


def _count_classes(labels, n_fg_class):
    """L, with every label checked to be a whole number in 0..L−1."""
    L = int(labels.max(initial=-1)) + 1 if n_fg_class is None else n_fg_class
    wrong = labels[(labels < 0) | (labels >= L) | (labels % 1 != 0)]
    if len(wrong):
        raise ValueError(f"label {wrong[0]:g} is not one of the {L} classes 0..{L - 1}")
    return L


def overlaps(
    det_group: np.ndarray, det_bbox: np.ndarray, gt_group: np.ndarray, gt_bbox: np.ndarray, plus_one: bool
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """IoU of each detection with each box of its group: with the first boxes of all groups, then with the second, …

    As many passes as the largest group has boxes, and no memory for all pairs. `det_group` (D,) and `gt_group` (G,),
    which rises, are whole numbers; boxes are (D, 4) and (G, 4). Yields M ≤ D pairs: (M,) int64 into the detections,
    (M,) int64 into the boxes, (M,) float64 IoU, NaN where a box has corners that are not finite, or for 0/0.
    """
    first = np.searchsorted(gt_group, det_group, "left")
    count = np.searchsorted(gt_group, det_group, "right") - first
    det = np.flatnonzero(count)
    det = det[np.argsort(-count[det], kind="stable")]  # so that those with a k-th box to look at come first
    first, minus_count = first[det], -count[det]
    det_box, gt_box = np.ascontiguousarray(det_bbox[det].T), np.ascontiguousarray(gt_bbox.T)
    for k in range(count.max(initial=0)):
        n = np.searchsorted(minus_count, -k)  # how many have more than k
        gt = first[:n] + k
        yield det[:n], gt, _iou(det_box[:, :n], gt_box[:, gt], float(plus_one))


def best_of(pairs: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each of `n` detections the box of the greatest IoU, (n,) int64, and that IoU, (n,) float64; −1 where none is.

    Of equals the first; `pairs` as `overlaps` yields them.
    """
    best, target = np.full(n, -1.0), np.full(n, -1)  # below IoU 0, which a threshold of 0 lets through
    for det, gt, iou in pairs:
        better = iou > best[det]  # false for NaN
        best[det[better]] = iou[better]
        target[det[better]] = gt[better]
    return target, best


def _iou(a, b, offset):
    """(4, R), (4, R) → (R,) IoU of each pair, `offset` added to the maxima; NaN for corners that are, and for 0/0."""
    with np.errstate(invalid="ignore", over="ignore"):
        height = np.minimum(a[2], b[2]) + offset - np.maximum(a[0], b[0])
        width = np.minimum(a[3], b[3]) + offset - np.maximum(a[1], b[1])
        inter = height.clip(0) * width.clip(0)
        area_a, area_b = ((y2 + offset - y1) * (x2 + offset - x1) for y1, x1, y2, x2 in (a, b))
        return inter / (area_a + area_b - inter)


def _judge(target, difficult):
    """(D,) int8 as `VOCMatches.matches` has it, from each detection's target, the best score first."""
    match = np.zeros(len(target), np.int8)
    hit = np.flatnonzero(target >= 0)
    ignored = difficult[target[hit]]
    match[hit[ignored]] = -1
    hit = hit[~ignored]
    _, best_scored = np.unique(target[hit], return_index=True)  # of the detections on one box, the first
    match[hit[best_scored]] = 1
    return match


def names_of(label_names, n_fg_class):
    """The names, or for None the numbers of the classes."""
    return tuple(map(str, range(n_fg_class) if label_names is None else label_names))


def nanmean(values):
    """The mean of those that are numbers, NaN if none is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")  # numpy's nanmean would warn


def plain(value):
    """What JSON and CSV files hold: None for NaN."""
    return None if np.isnan(value) else float(value)


def show(value):
    """What tables show."""
    return "-" if np.isnan(value) else f"{value:.4f}"
