"""What a report shows of the JSON file that `train.py eval` wrote."""

from utils.error_tool import ERRORS, MEANINGS, SPECIAL
from utils.event_check import is_matrix
from utils.plot_tool import MAX_CLASSES, matrix_figure, precision_recall_figure


def scores_shown(content: dict) -> tuple[list, list]:
    """Tables and plots, as a page takes them, of what is in the file; older ones have only VOC's part.

    Raises:
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError: it is not such a file.
    """
    names = [str(name) for name in content["label_names"]]
    coco, curves, confusion, errors = (content.get(part, {}) for part in ("coco", "curves", "confusion", "errors"))
    means = [["mAP, VOC07 11-point", _digits(content["map07"])], ["mAP, VOC area", _digits(content["map"])]]
    means += [[f"COCO {name}", _digits(value)] for name, value in coco.get("stats", {}).items()]
    columns = {"boxes": content["n_gt"], "detections": content["n_det"], "AP07": content["ap07"], "AP": content["ap"]}
    if coco:
        columns |= {"COCO AP": coco["ap"], "AP50": coco["ap50"], "AP75": coco["ap75"]}
    plots = []
    if curves:
        points = {"threshold": "score_thresh", "F1": "f1", "precision": "precision", "recall": "recall"}
        columns |= {title: [at[name] for at in curves["best"]] for title, name in points.items()}
        known = [curve for curve in curves["curves"] if curve["recall"] is not None]
        of = [name for name, curve in zip(names, curves["curves"], strict=True) if curve["recall"] is not None]
        recall, precision = ([curve[axis] for curve in known] for axis in ("recall", "precision"))
        figure = precision_recall_figure(of, recall, precision)
        plots.append(("Precision and recall", "of the evaluation", figure, []))
    by_class = [[name, *map(_digits, row)] for name, *row in zip(names, *columns.values(), strict=True)]
    tables = [("Means", "", ["", "value"], means), ("By class", "", ["class", *columns], by_class)]
    if errors:
        what = dict(zip(ERRORS + SPECIAL, MEANINGS, strict=True))
        rows = [[kind, what.get(kind, ""), _digits(n), _digits(errors["delta_map"][kind])]
                for kind, n in errors["counts"].items()]  # fmt: skip
        tables.append(("Errors", "and what the mAP gains without each", ["error", "what", "count", "mAP gained"], rows))
    if confusion and is_matrix(confusion["matrix"]) and len(confusion["matrix"]) <= MAX_CLASSES:
        figure = matrix_figure(confusion["matrix"], [str(name) for name in confusion["label_names"]])
        below = (
            f"detections above {_digits(confusion['score_thresh'])}; to the right what was missed, below what is false"
        )
        plots.append(("Confusions", "of the detector", figure, [below]))
    return tables, plots


def _digits(value):
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
