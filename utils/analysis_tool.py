"""Where a detector's errors lie: precision-recall curves with the best thresholds, and the confusion matrix.

Both match detections to boxes as the VOC evaluation of `eval_tool` does, whose letters and arguments these are, so that
their counts agree with its average precision. The error analysis in the manner of TIDE is in `error_tool`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from utils.eval_tool import (
    Arrays,
    flatten_columns,
    match_detections_voc,
    match_flat,
    names_of,
    overlaps,
    plain,
    prec_rec_of,
    show,
)

BACKGROUND = "background"
_MOST_COLUMNS = 20  # classes of a matrix that still fits a terminal
_MOST_CONFUSIONS = 20  # rows that stand for a larger one


class OperatingPoint(NamedTuple):
    """The threshold of the best F1. NaN: no ground truth, and all but f1, which is 0, where nothing is found."""

    score_thresh: float  # keep scores above it, as predict's --score-thresh; halfway to the next lower score
    f1: float  # 0..1: harmonic mean of precision and recall
    precision: float  # 0..1
    recall: float  # 0..1


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall after each detection, by class, and the best thresholds."""

    label_names: tuple[str, ...]  # L, in label order
    iou_thresh: float
    scores: list[np.ndarray]  # L arrays (D_l,) float64, falling
    precision: list[np.ndarray]  # L arrays (D_l,) float64, 0..1; NaN while all detections were on difficult boxes
    recall: list[np.ndarray | None]  # L arrays (D_l,) float64, 0..1, rising; None: no box to be found
    n_gt: np.ndarray  # (L,) int64: boxes to be found, without the difficult ones
    best: tuple[OperatingPoint, ...]  # L: by class
    overall: OperatingPoint  # of the detections of all classes together, as one threshold for all would do

    def table(self) -> str:
        """A row for each class at its own best threshold, and one for all classes at a common one."""
        width = max(map(len, (*self.label_names, "all, one threshold")))
        lines = [f"{'class':<{width}}  {'boxes':>9}  {'threshold':>9}  {'F1':>6}  {'precision':>9}  {'recall':>6}"]
        rows = [*zip(self.label_names, self.n_gt, self.best, strict=True)]
        for name, n_gt, at in [*rows, ("all, one threshold", self.n_gt.sum(), self.overall)]:
            lines.append(
                f"{name:<{width}}  {n_gt:>9,}  {show(at.score_thresh):>9}  {show(at.f1):>6}  {show(at.precision):>9}"
                f"  {show(at.recall):>6}"
            )
        return "\n".join(lines)

    def to_json(self, max_points: int = 200) -> dict:
        """What `json.dumps` takes, NaN as None, with at most `max_points` ≥ 4 points of each curve: see `thin`."""
        curves = []
        for c in range(len(self.label_names)):
            i = self._thinned(c, max_points)
            recall = self.recall[c]
            curves.append(
                {
                    "scores": [plain(v) for v in self.scores[c][i]],
                    "precision": [plain(v) for v in self.precision[c][i]],
                    "recall": None if recall is None else recall[i].tolist(),
                }
            )
        return {
            "label_names": list(self.label_names),
            "iou_thresh": self.iou_thresh,
            "n_gt": self.n_gt.tolist(),
            "best": [_plain_point(point) for point in self.best],
            "overall": _plain_point(self.overall),
            "curves": curves,
        }

    def rows(self, max_points: int = 200) -> list[tuple]:
        """For a CSV file: a header and the points that `to_json` keeps; classes without ground truth are left out."""
        rows = [("class", "score", "precision", "recall")]
        for c, (name, recall) in enumerate(zip(self.label_names, self.recall, strict=True)):
            if recall is not None:
                i = self._thinned(c, max_points)
                columns = ([plain(v) for v in column[c][i]] for column in (self.scores, self.precision, self.recall))
                rows += [(name, *point) for point in zip(*columns, strict=True)]
        return rows

    def _thinned(self, c, max_points):
        if self.recall[c] is None:
            return np.zeros(0, np.int64)
        last_kept = np.sum(self.scores[c] > self.best[c].score_thresh) - 1  # −1, the curve's end, where none is best
        return thin(self.precision[c], self.recall[c], max_points, also=last_kept)


def precision_recall(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    label_names: Sequence[str] | None = None,
    iou_thresh: float = 0.5,
    plus_one: bool = True,
) -> PrecisionRecall:
    """The curves under which `evaluate_detections` finds its AP, and the thresholds of the best F1.

    A threshold keeps all of equal scores or none, so F1 is looked for where the score falls; of equal F1 the highest
    threshold is taken. Arguments and errors as `evaluate_detections`.
    """
    L = None if label_names is None else len(label_names)
    found = match_detections_voc(
        pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, iou_thresh, plus_one, n_fg_class=L
    )
    precision, recall = prec_rec_of(found)
    scores, matches = np.concatenate([np.empty(0), *found.scores]), np.concatenate([np.empty(0), *found.matches])
    order = np.argsort(-scores, kind="stable")
    return PrecisionRecall(
        label_names=names_of(label_names, len(found.n_pos)),
        iou_thresh=iou_thresh,
        scores=found.scores,
        precision=precision,
        recall=recall,
        n_gt=found.n_pos,
        best=tuple(map(_best_point, found.scores, found.matches, found.n_pos)),
        overall=_best_point(scores[order], matches[order], found.n_pos.sum()),
    )


def thin(precision: np.ndarray, recall: np.ndarray, max_points: int, also: int = -1) -> np.ndarray:
    """Indices (M,) int64, rising, M ≤ `max_points` ≥ 4, of a curve's points that draw its envelope.

    The envelope at a recall is the best precision at that recall or above: what lies under it is the AP. A short curve
    is kept whole; of a longer one the corners that give the envelope at evenly spaced recalls, with the first point,
    the last one and `also`. So the thinned envelope is exact at those recalls and never above the whole one.
    """
    if len(precision) <= max_points:
        return np.arange(len(precision))
    p = np.nan_to_num(precision)
    after = np.append(np.maximum.accumulate(p[::-1])[::-1][1:], -1.0)  # the best of what follows each point
    corners = np.flatnonzero(p > after)
    at = np.searchsorted(recall, np.linspace(0, recall[-1], max_points - 3))
    return np.unique(np.append(corners[np.searchsorted(corners, at)], [0, len(p) - 1, also % len(p)]))


def _best_point(scores, matches, n_pos):
    """The `OperatingPoint` of one class: (D_l,) scores, falling, (D_l,) matches as in `VOCMatches`."""
    nan = float("nan")
    if n_pos == 0:
        return OperatingPoint(nan, nan, nan, nan)
    tp, fp = np.cumsum(matches == 1), np.cumsum(matches == 0)
    f1 = 2 * tp / (tp + fp + n_pos)
    f1[:-1][scores[:-1] == scores[1:]] = 0  # no threshold separates equal scores
    f1[np.isnan(scores)] = 0  # nor is such a score above any
    if not f1.any():
        return OperatingPoint(nan, 0.0, nan, nan)
    i = int(f1.argmax())
    score, lower = float(scores[i]), float(scores[i + 1]) if i + 1 < len(scores) else np.nan
    if np.isnan(lower):
        lower = 0.0 if score > 0 else score - 1
    # Halfway, because predict keeps what is above its threshold, and a number rounded for a command line will do then
    thresh = (score + lower) / 2
    thresh = thresh if thresh < score else lower
    return OperatingPoint(thresh, float(f1[i]), float(tp[i] / (tp[i] + fp[i])), float(tp[i] / n_pos))


def _plain_point(point):
    return {name: plain(value) for name, value in point._asdict().items()}


@dataclass(frozen=True, eq=False)
class ConfusionMatrix:
    """How many boxes of each class were taken for which; background stands last."""

    label_names: tuple[str, ...]  # L, in label order, without the background
    iou_thresh: float
    score_thresh: float
    matrix: np.ndarray  # (L + 1, L + 1) int64: row = truth, column = prediction; [c, L] missed, [L, c] false boxes

    def table(self) -> str:
        """The matrix, its columns by number, dots for zeros; of more than 20 classes the 20 largest confusions."""
        names = (*self.label_names, BACKGROUND)
        L = len(self.label_names)
        if L > _MOST_COLUMNS:
            return self._largest()
        numbers = [*map(str, range(L)), "bg"]
        cells = [[f"{n:,}" if n else "." for n in row] for row in self.matrix.tolist()]
        titles = [f"{number:>2} {name}" for number, name in zip(numbers, names, strict=True)]
        widths = [max(map(len, column)) for column in zip(numbers, *cells, strict=True)]
        left = max(map(len, (*titles, "truth")))
        lines = [[f"{'truth':<{left}}", *(f"{number:>{w}}" for number, w in zip(numbers, widths, strict=True))]]
        for title, row in zip(titles, cells, strict=True):
            lines.append([f"{title:<{left}}", *(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True))])
        return "\n".join("  ".join(line) for line in lines)

    def _largest(self):
        names = (*self.label_names, BACKGROUND)
        wrong = self.matrix * ~np.eye(len(names), dtype=bool)
        largest = np.argsort(-wrong, axis=None, kind="stable")[:_MOST_CONFUSIONS]
        pairs = [divmod(i, len(names)) for i in largest.tolist() if wrong.flat[i]]
        width = max(map(len, (*names, "prediction")))
        lines = [f"{'truth':<{width}}  {'prediction':<{width}}  {'boxes':>9}"]
        lines += [f"{names[t]:<{width}}  {names[p]:<{width}}  {self.matrix[t, p]:>9,}" for t, p in pairs]
        return "\n".join(lines)

    def to_json(self) -> dict:
        """The fields as what `json.dumps` takes; the names with the background's at the end, as the matrix has it."""
        return {
            "label_names": [*self.label_names, BACKGROUND],
            "iou_thresh": self.iou_thresh,
            "score_thresh": self.score_thresh,
            "matrix": self.matrix.tolist(),
        }

    def rows(self) -> list[tuple]:
        """For a CSV file: a header with the names of the predictions, then a row for each truth."""
        names = (*self.label_names, BACKGROUND)
        rows = ((name, *row) for name, row in zip(names, self.matrix.tolist(), strict=True))
        return [("truth", *names), *rows]


def confusion_matrix(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    label_names: Sequence[str] | None = None,
    iou_thresh: float = 0.5,
    score_thresh: float = 0.7,
    plus_one: bool = True,
) -> ConfusionMatrix:
    """Count which boxes were taken for which, one box for one detection.

    1. Detections scored above `score_thresh` (0.7: what predict shows) find boxes of their own class as the VOC
       evaluation has it: the diagonal is its number of boxes found at that score.
    2. Those left over, the best score first, each take the box of another class, not taken yet, with which their IoU is
       greatest (of equals the lowest class's, then the first), if that is `iou_thresh` or more.
    3. A detection that takes none is not counted if it lies on a difficult box: of its own class by the VOC rule, of
       another by `iou_thresh`. Otherwise it is a false box, a second detection of one box too; a box that none takes
       is missed.

    So row c adds up to the boxes of class c that are not difficult, and column c to its counted detections. Matching
    by IoU alone, as the matrices of ultralytics and supervision do, lets a detection of a wrong class displace the
    right one beside it, and the matrix then contradicts the AP; one that scores a class confusion as a missed and a
    false box besides counts it twice.

    Other arguments and errors as `evaluate_detections`.
    """
    L = None if label_names is None else len(label_names)
    flat = flatten_columns(pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, L)
    L = len(flat.n_pos)
    flat = _above(flat, score_thresh)
    target, match = match_flat(flat, iou_thresh, plus_one)

    truth = np.full(len(match), L)  # of each detection; −1 for one that is not counted
    truth[match == 1] = flat.det_label[match == 1]
    truth[match == -1] = -1
    taken = np.zeros(len(flat.gt_label), bool)
    taken[target[match == 1]] = True
    for det, gt in _other_class_pairs(flat, np.flatnonzero(match == 0), np.flatnonzero(~taken), iou_thresh, plus_one):
        if truth[det] != L:
            continue  # it has its box, a better one
        if flat.difficult[gt]:
            truth[det] = -1
        elif not taken[gt]:
            truth[det] = flat.gt_label[gt]
            taken[gt] = True

    matrix = np.zeros((L + 1, L + 1), np.int64)
    counted = truth >= 0
    np.add.at(matrix, (truth[counted], flat.det_label[counted]), 1)
    missed = flat.gt_label[~taken & ~flat.difficult]
    matrix[:L, L] = np.bincount(missed, minlength=L)
    return ConfusionMatrix(names_of(label_names, L), iou_thresh, score_thresh, matrix)


def errors_by_image(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    label_names: Sequence[str] | None = None,
    iou_thresh: float = 0.5,
    score_thresh: float = 0.7,
    plus_one: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each image how many of its boxes no detection found, and how many detections found none: (N,) int64 each.

    Of detections scored above `score_thresh`, by the rule of `match_detections_voc`; other arguments and errors as
    `evaluate_detections`.
    """
    pred_scores = list(pred_scores)
    L, n = None if label_names is None else len(label_names), len(pred_scores)
    flat = flatten_columns(pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, L)
    flat = _above(flat, score_thresh)
    target, match = match_flat(flat, iou_thresh, plus_one)
    missed = ~flat.difficult
    missed[target[match == 1]] = False
    return tuple(np.bincount(image, minlength=n) for image in (flat.gt_image[missed], flat.det_image[match == 0]))


def _above(flat, score_thresh):
    """`flat` without the detections that are not scored above `score_thresh`."""
    kept = flat.det_score > score_thresh
    return replace(flat, **{name: column[kept] for name, column in vars(flat).items() if name.startswith("det_")})


def _other_class_pairs(flat, dets, gts, iou_thresh, plus_one):
    """Pairs (detection, box) of different classes that overlap by `iou_thresh`, as a greedy choice goes through them.

    By falling score of the detections `dets`; of each detection the difficult boxes after the others, and by falling
    IoU. `dets` (D,) and `gts` (G,), rising, are rows of `flat`.
    """
    found = [[np.zeros(0, np.int64)] * 2 + [np.zeros(0)]]
    pairs = overlaps(flat.det_image[dets], flat.det_bbox[dets], flat.gt_image[gts], flat.gt_bbox[gts], plus_one)
    for det, gt, iou in pairs:
        det, gt = dets[det], gts[gt]
        close = (iou >= iou_thresh) & (flat.det_label[det] != flat.gt_label[gt])
        found.append([det[close], gt[close], iou[close]])
    det, gt, iou = map(np.concatenate, zip(*found, strict=True))
    order = np.lexsort((gt, -iou, flat.difficult[gt], flat.det_place[det], -flat.det_score[det]))
    return zip(det[order].tolist(), gt[order].tolist(), strict=True)
