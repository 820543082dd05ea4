"""What `train.py eval` says about detections: VOC's and COCO's numbers, where the errors lie, and the files of it."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.analysis_tool import ConfusionMatrix, PrecisionRecall, confusion_matrix, precision_recall
from utils.coco_eval_tool import COCOResult, evaluate_coco
from utils.detections import Detections
from utils.error_tool import ErrorAnalysis, error_analysis
from utils.errors import UserError
from utils.eval_tool import VOCResult, evaluate_detections
from utils.file_tool import whole_file


class Scores(NamedTuple):
    """The results of one set of detections."""

    voc: VOCResult
    coco: COCOResult
    curves: PrecisionRecall
    confusion: ConfusionMatrix
    errors: ErrorAnalysis

    def text(self) -> str:
        """What a terminal shows: AP by class, COCO's twelve numbers, what the errors cost, and the confusions."""
        parts = [
            self.voc.table(),
            "COCO's rules:\n" + self.coco.table(),
            "thresholds where F1 is best:\n" + self.curves.table(),
            "errors of all detections that were kept, whatever their score, and what the mAP (area) would gain without "
            "each kind alone:\n" + self.errors.table(),
            f"confusions of detections above {self.confusion.score_thresh:.3g}, where F1 is best (background: to the "
            "right what was missed, below what is false):\n" + self.confusion.table(),
        ]
        return "\n\n".join(parts)

    def to_json(self) -> dict:
        """All of it, as what `json.dumps` takes."""
        names = {"coco": self.coco, "curves": self.curves, "confusion": self.confusion, "errors": self.errors}
        return self.voc.to_json() | {name: result.to_json() for name, result in names.items()}

    def by_class(self) -> list[tuple]:
        """For a CSV file: a header and a row for each class."""
        header = ("class", "boxes", "detections", "ap07", "ap", "coco_ap", "coco_ap50", "coco_ap75",
                  *(f"best_f1_{name}" for name in ("threshold", "value", "precision", "recall")))  # fmt: skip
        columns = (self.voc.label_names, self.voc.n_gt, self.voc.n_det, self.voc.ap07, self.voc.ap,
                   self.coco.ap, self.coco.ap50, self.coco.ap75)  # fmt: skip
        rows = zip(zip(*columns, strict=True), self.curves.best, strict=True)
        return [header, *((*row, *best) for row, best in rows)]

    @staticmethod
    def files(path) -> list[Path]:
        """What `write` writes: `path`, and beside it the CSV files of the classes, curves, confusions and errors."""
        path = Path(path)
        tables = "classes", "curves", "confusion", "errors"
        return [path, *(path.with_name(f"{path.stem}_{name}.csv") for name in tables)]

    def write(self, path, about: dict) -> list[Path]:
        """Write `path`, a JSON that begins with `about`, and beside it CSV files of its tables. Returns all paths.

        Raises:
            UserError: one can't be written.
        """
        path, *csv_paths = files = self.files(path)
        tables = self.by_class(), self.curves.rows(), self.confusion.rows(), self.errors.rows()
        try:
            with whole_file(path) as partial:
                document = json.dumps(about | self.to_json(), indent=1, ensure_ascii=False)
                partial.write_text(document, "utf-8", errors="backslashreplace")  # names that are no UTF-8
            for csv_path, rows in zip(csv_paths, tables, strict=True):
                csv_file = {"newline": "", "encoding": "utf-8", "errors": "backslashreplace"}
                with whole_file(csv_path) as partial, partial.open("w", **csv_file) as file:
                    csv.writer(file).writerows([_shown(value) for value in row] for row in rows)
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror or error}); name another --out") from None
        return files


def _shown(value):
    """Nothing in place of NaN and None: a spreadsheet reads both as texts."""
    return "" if value is None or (isinstance(value, float) and np.isnan(value)) else value


def score(found: Detections, db, label_names, *, iou_thresh=0.5, plus_one=True) -> Scores:
    """Compare detections with the truth.

    Args:
        found: of the first N images of `db`.
        db: a `BboxDataset`, opened with its difficult boxes, `as_written`.
        label_names: the classes of the detections: the set's own, or one for all objects.
        iou_thresh: from which a detection finds a box, but for COCO's numbers, which have their own.
        plus_one: see `match_detections_voc`; COCO's have none.

    In the confusion matrix are the detections above the threshold at which F1 is best.
    """
    truth = [db.ground_truth(i) for i in range(len(found))]
    bboxes, labels, difficults = ([row[k] for row in truth] for k in range(3))
    instances = db.instances()
    instances["images"] = instances["images"][: len(found)]
    if len(label_names) == 1:  # to an RPN all are objects
        labels = [np.zeros_like(label) for label in labels]
        instances["annotations"] = [row | {"category_id": 0} for row in instances["annotations"]]
    columns = (*found.columns, bboxes, labels, difficults, label_names)
    rule = {"iou_thresh": iou_thresh, "plus_one": plus_one}
    curves = precision_recall(*columns, **rule)
    threshold = 0.0 if np.isnan(curves.overall.score_thresh) else curves.overall.score_thresh
    return Scores(
        voc=evaluate_detections(*columns, **rule),
        coco=evaluate_coco(found, instances, label_names),
        curves=curves,
        confusion=confusion_matrix(*columns, score_thresh=threshold, **rule),
        errors=error_analysis(*columns, bg_thresh=min(0.1, iou_thresh), **rule),
    )
