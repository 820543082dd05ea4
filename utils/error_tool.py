"""Which kinds of errors cost how much average precision, in the manner of TIDE (Bolya et al., ECCV 2020).

Letters as in `eval_tool`, whose matching and area AP are used throughout, so that the analysis explains the AP that the
evaluation prints.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from utils.eval_tool import (
    Arrays,
    FlatColumns,
    best_of,
    calc_detection_voc_ap,
    flatten_columns,
    match_flat,
    matches_by_class,
    names_of,
    nanmean,
    overlaps,
    plain,
    prec_rec_of,
    show,
)

CLS, LOC, BOTH, DUPE, BKG, MISS = range(6)
ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")  # the paper's names, section 2.2
SPECIAL = ("FalsePos", "FalseNeg")  # section 2.3: of all false positives, of all boxes not found
MEANINGS = (
    "class wrong, place right",
    "class right, place wrong",
    "class and place wrong",
    "box found already",
    "nothing there",
    "box with no detection near",
    "any of the first five",
    "boxes not found",
)


@dataclass(frozen=True, eq=False)
class ErrorAnalysis:
    """Errors by kind, and the AP that an oracle would add which mends one kind alone."""

    label_names: tuple[str, ...]  # L, in label order
    iou_thresh: float
    bg_thresh: float
    ap: np.ndarray  # (L,) float64, 0..1: area AP as it is; NaN for a class without a box to be found
    counts: np.ndarray  # (L, 8) int64: `ERRORS`, then `SPECIAL`; false positives by their own class, the rest by truth
    delta_ap: np.ndarray  # (L, 8) float64, 0..1: what mending each kind adds to `ap`; NaN likewise

    @property
    def map(self) -> float:
        """Mean of `ap` over the classes that have ground truth; NaN where none has."""
        return nanmean(self.ap)

    @property
    def delta_map(self) -> np.ndarray:
        """(8,) float64: what mending each kind adds to `map`."""
        return np.array([nanmean(column) for column in self.delta_ap.T])

    def table(self) -> str:
        """A row for each kind of error: its number and what it costs."""
        lines = [f"{'error':<8}  {'what':<26}  {'number':>9}  {'ΔmAP':>6}"]
        columns = (ERRORS + SPECIAL, MEANINGS, self.counts.sum(0), self.delta_map)
        for name, meaning, n, delta in zip(*columns, strict=True):
            lines.append(f"{name:<8}  {meaning:<26}  {n:>9,}  {show(delta):>6}")
        return "\n".join(lines)

    def to_json(self) -> dict:
        """The fields, mean and sums as what `json.dumps` takes, by the names of the errors; NaN becomes None."""
        kinds = ERRORS + SPECIAL
        return {
            "label_names": list(self.label_names),
            "iou_thresh": self.iou_thresh,
            "bg_thresh": self.bg_thresh,
            "map": plain(self.map),
            "ap": [plain(ap) for ap in self.ap],
            "counts": dict(zip(kinds, self.counts.sum(0).tolist(), strict=True)),
            "delta_map": dict(zip(kinds, map(plain, self.delta_map), strict=True)),
            "counts_by_class": dict(zip(kinds, self.counts.T.tolist(), strict=True)),
            "delta_ap_by_class": {
                kind: [plain(delta) for delta in column] for kind, column in zip(kinds, self.delta_ap.T, strict=True)
            },
        }

    def rows(self) -> list[tuple]:
        """For a CSV file: a header, a row for each class and kind, and a row "mAP" for each kind."""
        rows = [("class", "error", "number", "delta_ap")]
        counts, deltas = [*self.counts, self.counts.sum(0)], [*self.delta_ap, self.delta_map]
        for name, *values in zip((*self.label_names, "mAP"), counts, deltas, strict=True):
            rows += [(name, kind, int(n), plain(d)) for kind, n, d in zip(ERRORS + SPECIAL, *values, strict=True)]
        return rows


def error_analysis(
    pred_bboxes: Arrays,
    pred_labels: Arrays,
    pred_scores: Arrays,
    gt_bboxes: Arrays,
    gt_labels: Arrays,
    gt_difficults: Arrays | None = None,
    label_names: Sequence[str] | None = None,
    iou_thresh: float = 0.5,
    bg_thresh: float = 0.1,
    plus_one: bool = True,
) -> ErrorAnalysis:
    """Give each false positive one kind of error, and find what each kind costs (TIDE, sections 2.2 and 2.3).

    The kinds overlap in the paper; each false positive gets the first that fits, in the order of the authors' program
    (github.com/dbolya/tide). `own` is its greatest IoU with a box of its class in its image, `other` with a box of
    another class (of equals the lowest class's, then the first), found already or not.

        Loc   bg_thresh ≤ own < iou_thresh
        Cls   other ≥ iou_thresh
        Dupe  own ≥ iou_thresh: the box has a better-scored detection
        Both  bg_thresh ≤ other < iou_thresh
        Bkg   the rest
        Miss  a box that was not found and that no Loc or Cls aims at

    What mends a kind: the best-scored Loc or Cls error that aims at a box not found is made its detection, at its own
    score and with the box's class; all other errors of the kind are taken away; missed boxes are no longer asked for.
    FalsePos takes all false positives away, FalseNeg no longer asks for any box that was not found. A class that is
    left with no box has AP 1 if it has no false positive left, else 0. No kind can lower an AP.

    Difficult boxes are no part of it: detections on them are not errors, and none aims at one.

    Where this departs from the authors' program: detections are matched as VOC does, which does not exchange a taken
    box for the next best; AP is the area, not COCO's 101 points; mAP is over the classes with ground truth, whatever
    is mended; detections on difficult boxes go there by plain IoU, not the crowd's, and are not counted as errors; and
    each oracle chooses among the errors it mends, where the program lets a better-scored Loc stop a Cls from being
    mended, and the other way round.

    Args:
        iou_thresh, bg_thresh: 0 ≤ bg_thresh ≤ iou_thresh ≤ 1, the paper's t_f and t_b; else a ValueError.

    Other arguments and errors as `evaluate_detections`.
    """
    if not 0 <= bg_thresh <= iou_thresh <= 1:
        raise ValueError(
            f"bg_thresh {bg_thresh:g} and iou_thresh {iou_thresh:g}: must be 0 ≤ bg_thresh ≤ iou_thresh ≤ 1"
        )
    L = None if label_names is None else len(label_names)
    flat = flatten_columns(pred_bboxes, pred_labels, pred_scores, gt_bboxes, gt_labels, gt_difficults, L)
    L = len(flat.n_pos)
    errors = find_errors(flat, iou_thresh, bg_thresh, plus_one)

    def count(labels):
        return np.bincount(labels, minlength=L)

    false = errors.kind >= 0
    not_found, missed = flat.gt_label[errors.not_found], flat.gt_label[errors.missed]
    counts = [count(flat.det_label[errors.kind == kind]) for kind in range(MISS)]
    counts += [count(missed), count(flat.det_label[false]), count(not_found)]

    ap = mended_ap(flat, errors, [], 0)
    mended = [mended_ap(flat, errors, [kind], 0) for kind in range(MISS)]
    mended += [mended_ap(flat, errors, [], count(missed))]
    mended += [mended_ap(flat, errors, range(MISS), 0, correct=False), mended_ap(flat, errors, [], count(not_found))]
    return ErrorAnalysis(
        label_names=names_of(label_names, L),
        iou_thresh=iou_thresh,
        bg_thresh=bg_thresh,
        ap=ap,
        counts=np.stack(counts, axis=1),
        delta_ap=np.stack(mended, axis=1) - ap[:, None],
    )


class Errors(NamedTuple):
    """What became of each row of a `FlatColumns`."""

    match: np.ndarray  # (D,) int8 as in `VOCMatches.matches`
    kind: np.ndarray  # (D,) int8: CLS … BKG of a false positive, −1 of any other detection
    aim: np.ndarray  # (D,) int64: the box that a Cls or Loc error is about, −1 otherwise
    not_found: np.ndarray  # (G,) bool; never of a difficult box
    missed: np.ndarray  # (G,) bool: not found, and no Cls or Loc aims there


def find_errors(flat: FlatColumns, iou_thresh: float, bg_thresh: float, plus_one: bool) -> Errors:
    """Kinds of errors by the rules that `error_analysis` states."""
    target, match = match_flat(flat, iou_thresh, plus_one)
    not_found = ~flat.difficult
    not_found[target[match == 1]] = False

    false, boxes = np.flatnonzero(match == 0), np.flatnonzero(~flat.difficult)
    det_image, det_label, det_bbox = flat.det_image[false], flat.det_label[false], flat.det_bbox[false]
    gt_image, gt_label, gt_bbox = flat.gt_image[boxes], flat.gt_label[boxes], flat.gt_bbox[boxes]
    L = len(flat.n_pos)
    same_class = overlaps(det_image * L + det_label, det_bbox, gt_image * L + gt_label, gt_bbox, plus_one)
    own_box, own = best_of(same_class, len(false))
    any_class = overlaps(det_image, det_bbox, gt_image, gt_bbox, plus_one)
    other_class = ((d, g, np.where(det_label[d] != gt_label[g], iou, -1.0)) for d, g, iou in any_class)
    other_box, other = best_of(other_class, len(false))

    is_loc = (own >= bg_thresh) & (own < iou_thresh)
    is_cls = other >= iou_thresh
    kind, aim = np.full(len(match), -1, np.int8), np.full(len(match), -1)
    kind[false] = np.select([is_loc, is_cls, own >= iou_thresh, other >= bg_thresh], [LOC, CLS, DUPE, BOTH], BKG)
    aim[false[is_loc]] = boxes[own_box[is_loc]]
    is_cls &= ~is_loc
    aim[false[is_cls]] = boxes[other_box[is_cls]]
    missed = not_found.copy()
    missed[aim[aim >= 0]] = False
    return Errors(match, kind, aim, not_found, missed)


def mended_ap(
    flat: FlatColumns, errors: Errors, kinds: Sequence[int], n_dropped: np.ndarray | int, correct: bool = True
) -> np.ndarray:
    """(L,) area AP once the errors of `kinds`, CLS … BKG, are mended as `error_analysis` states.

    `n_dropped` (L,): the boxes of each class that are no longer asked for. `correct` False: the errors are taken away,
    Cls and Loc too.
    """
    mended = np.isin(errors.kind, list(kinds))
    label, match = flat.det_label.copy(), errors.match.copy()
    match[mended] = -1  # not counted
    if correct:
        able = np.flatnonzero(mended & (errors.aim >= 0))
        able = able[errors.not_found[errors.aim[able]]]
        able = able[np.lexsort((flat.det_place[able], -flat.det_score[able]))]
        boxes, best_scored = np.unique(errors.aim[able], return_index=True)
        able = able[best_scored]
        label[able], match[able] = flat.gt_label[boxes], 1

    rows = np.flatnonzero(match >= 0)
    if (label != flat.det_label).any():  # else they are sorted still
        rows = rows[np.lexsort((flat.det_place[rows], -flat.det_score[rows], label[rows]))]
    label, match, n_pos = label[rows], match[rows], flat.n_pos - n_dropped
    ap = calc_detection_voc_ap(*prec_rec_of(matches_by_class(label, flat.det_score[rows], match, n_pos)))
    emptied = (flat.n_pos > 0) & (n_pos == 0)
    ap[emptied] = np.bincount(label, minlength=len(n_pos))[emptied] == 0
    return ap
