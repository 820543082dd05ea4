"""Detections of a whole set, and the two forms of files that other programs write and read them in.

COCO's results are one JSON: [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...], 0-based edges.
VOC's are a text for each class, `comp4_det_test_<class>.txt`, of lines `id score xmin ymin xmax ymax` with 1-based,
inclusive corners (the VOC 2007 development kit, section 8.2).

Letters: N images, R boxes of one image.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.bbox_tools import xywh2yxyx, yx2xy, yxyx2xywh
from utils.errors import UserError
from utils.file_tool import whole_file
from utils.json_tool import is_finite, read_json


class Detections(NamedTuple):
    """What was found in each of N images, in the order of the data set."""

    bboxes: list  # N arrays (R, 4) (y_min, x_min, y_max, x_max), edges in pixels of the picture
    labels: list  # N arrays (R,) 0..L−1
    scores: list  # N arrays (R,)
    xywh: list | None = (
        None  # N arrays (R, 4): the boxes as a file in COCO's form has them, for (x + w) − x need not be w
    )

    def __len__(self):  # of images, not of columns
        return len(self.bboxes)

    @property
    def columns(self):
        """The first three."""
        return self.bboxes, self.labels, self.scores


class Names(NamedTuple):
    """What a data set's images and classes are called in files of detections."""

    image_ids: Sequence  # of N images
    category_ids: Mapping  # class name → its id in COCO's form, in label order


def read_detections(path: str | os.PathLike, names: Names) -> tuple[Detections, int]:
    """Detections from a file that someone made.

    Args:
        path: COCO's results (*.json), a text of VOC's for one class, or a folder of such texts.

    Returns:
        `Detections`, float64, and how many boxes of images or classes that are not among `names` were left out.

    Raises:
        UserError: a file that cannot be read or says something else, an unknown category in COCO's form, no text of a
            known class in VOC's, two of one class, or no box of a known image.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--detections={path}: no such file or folder; check the path")
    in_coco_form = path.is_file() and _is_json(path)
    image, boxes, label, score, n_foreign = (_read_coco_results if in_coco_form else _read_voc_results)(path, names)
    known = image >= 0
    if len(known) and not known.any():
        raise UserError(
            f"--detections={path}: none of its boxes is of an image of this split, such as {names.image_ids[0]}; "
            "name the data and --val-split that they were made for"
        )
    order = np.argsort(image[known], kind="stable")  # those of one image stay in the file's order
    image, boxes, label, score = (column[known][order] for column in (image, boxes, label, score))
    ends = np.searchsorted(image, np.arange(1, len(names.image_ids)))
    boxes, labels, scores = (np.split(column, ends) for column in (boxes, label, score))
    bboxes = [xywh2yxyx(own) for own in boxes] if in_coco_form else [yx2xy(own) - 1 for own in boxes]
    n_left_out = int((~known).sum()) + n_foreign
    return Detections(bboxes, labels, scores, boxes if in_coco_form else None), n_left_out


def make_room_for_detections(path, rpn_only, names: Names):
    """Make the folder that `write_detections` will write to, and refuse what can't be written: before the work."""
    path = Path(path)
    if rpn_only:
        raise UserError("--save-detections: an RPN's boxes are of no class; write them with python train.py propose")
    file_names = Counter(map(in_a_name, names.category_ids))
    if not _is_json(path) and max(file_names.values()) > 1:
        alike = [name for name in names.category_ids if file_names[in_a_name(name)] > 1]
        raise UserError(f"--save-detections={path}: {' and '.join(alike)} would share a file; write a .json")
    try:
        (path.parent if _is_json(path) else path).mkdir(parents=True, exist_ok=True)
        if _is_json(path) and path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
    except OSError as error:
        raise UserError(f"--save-detections={path}: can't be written ({error.strerror}); choose another") from None


def _is_json(path):
    return Path(path).suffix.lower() == ".json"


def write_detections(path, detections: Detections, names: Names, split="test"):
    """COCO's results, where `path` ends in .json, else a folder of VOC's. Raises UserError if it can't be written."""
    make_room_for_detections(path, False, names)
    if _is_json(path):
        write_coco_results(path, detections, names)
    else:
        write_voc_results(path, detections, names, split)


def write_coco_results(path, detections: Detections, names: Names):
    """One JSON of all detections. Raises UserError if it can't be written."""
    category_ids = list(names.category_ids.values())
    rows = [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [_short(value) for value in box],
            "score": _short(score),
        }
        for image_id, bbox, labels, scores in zip(names.image_ids, *detections.columns, strict=True)
        for box, label, score in zip(yxyx2xywh(bbox.astype(np.float64)), labels, scores, strict=True)
    ]
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(rows), "utf-8")
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error}); choose another file") from None


def write_voc_results(folder, detections: Detections, names: Names, split="test"):
    """`comp4_det_<split>_<class>.txt` for each class. Returns the paths. Raises UserError if one can't be written."""
    lines = {name: [] for name in names.category_ids}
    of_label = list(lines.values())
    for image_id, bbox, labels, scores in zip(names.image_ids, *detections.columns, strict=True):
        for box, label, score in zip(yx2xy(bbox.astype(np.float64)) + 1, labels, scores, strict=True):
            numbers = " ".join(f"{value:.10g}" for value in (score, *box))
            of_label[label].append(f"{image_id} {numbers}\n")
    folder = Path(folder)
    paths = {name: folder / f"comp4_det_{in_a_name(split)}_{in_a_name(name)}.txt" for name in lines}
    try:
        for name, path in paths.items():
            with whole_file(path) as partial:
                partial.write_text("".join(lines[name]), "utf-8")
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error}); choose another folder") from None
    return list(paths.values())


def _short(value):
    """Nine digits bring every float32 back."""
    return float(f"{value:.9g}")


def in_a_name(text):
    """A class or a split as a part of a file's name."""
    return text.replace("/", "_").replace(os.sep, "_")


# Each reader returns (image, boxes, label, score) of the boxes of known classes, and how many others there are: of each
# box the place of its image, or −1, and its numbers as the file has them


def _read_coco_results(path, names):
    rows = read_json(path)
    if isinstance(rows, dict):  # some tools write them like instances, with scores
        rows = rows.get("annotations")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of objects with image_id, category_id, bbox and score, as COCO's are")
    image_of = {str(image_id): i for i, image_id in enumerate(names.image_ids)}
    label_of = {str(category): label for label, category in enumerate(names.category_ids.values())}
    image, xywh, labels, scores = [], [], [], []
    for k, row in enumerate(rows, 1):
        missing = {"image_id", "category_id", "bbox", "score"} - row.keys()
        if missing:
            raise UserError(f"{path}: detection {k} has no {', '.join(sorted(missing))}; results have all four")
        label = label_of.get(str(row["category_id"]))
        if label is None:
            known = ", ".join(f"{category} {name}" for name, category in list(names.category_ids.items())[:8])
            raise UserError(f"{path}: detection {k} has category {row['category_id']!r}; there are {known}, …")
        box = row["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, [*box, row["score"]])):
            raise UserError(
                f"{path}: detection {k}: bbox and score must be finite numbers, [x, y, width, height] first"
            )
        if min(box[2:]) < 0:
            raise UserError(f"{path}: detection {k} has a negative side: bbox is [x, y, width, height]; correct it")
        image.append(image_of.get(str(row["image_id"]), -1))
        xywh.append(box)
        labels.append(label)
        scores.append(row["score"])
    boxes = np.array(xywh, np.float64).reshape(-1, 4)
    return np.array(image, np.int64), boxes, np.array(labels, np.int64), np.array(scores, np.float64), 0


def _read_voc_results(path, names):
    paths = [path] if path.is_file() else list(path.glob("*_det_*.txt"))
    if not paths:
        raise UserError(f"--detections={path}: no files such as comp4_det_test_CLASS.txt there; check the path")
    of_file = {file: _label_of_file(file, names.category_ids) for file in paths}
    twice = [label for label, n in Counter(of_file.values()).items() if n > 1 and label is not None]
    if twice:
        first, second, *_ = sorted(file.name for file, label in of_file.items() if label == twice[0])
        raise UserError(f"--detections={path}: {first} and {second} are of one class; keep those of one run there")
    known = sorted((label, file) for file, label in of_file.items() if label is not None)
    if not known:
        known_names = ", ".join(list(names.category_ids)[:8])
        raise UserError(
            f"{paths[0]}: its name ends with none of the classes ({known_names}, …); rename it, or --label-names"
        )
    n_foreign = sum(len(_lines(file)) for file, label in of_file.items() if label is None)
    image_of = {str(image_id): i for i, image_id in enumerate(names.image_ids)}
    image, labels, numbers = [], [], []
    for label, file in known:
        for n, line in _lines(file):
            image_id, *own = line.rsplit(maxsplit=5)
            try:
                own = [float(value) for value in own]
            except ValueError:
                own = []
            if len(own) != 5 or not all(map(math.isfinite, own)):
                raise UserError(f"{file}: line {n}: {line!r} is not 'id score xmin ymin xmax ymax'; correct it")
            image.append(image_of.get(image_id, -1))
            labels.append(label)
            numbers.append(own)
    numbers = np.array(numbers, np.float64).reshape(-1, 5)
    return np.array(image, np.int64), numbers[:, 1:], np.array(labels, np.int64), numbers[:, 0], n_foreign


def _lines(file):
    """(number, text) of the lines that are not blank."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give detections in VOC's or COCO's form") from None
    return [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]


def _label_of_file(file, category_ids):
    """The class whose name the file's ends with; the longest, where 'bus' and 'minibus' both fit; None for none."""
    fitting = [name for name in category_ids if f"_{file.stem}".endswith(f"_{in_a_name(name)}")]
    return list(category_ids).index(max(fitting, key=len)) if fitting else None
