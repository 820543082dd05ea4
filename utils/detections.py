"""Detections of a whole set, and the two forms of files that other programs write and read them in.

COCO's results are one JSON: [{"image_id", "category_id", "bbox": [x, y, width, height], "score"}, ...], 0-based edges.
VOC's are a text for each class, `comp4_det_test_<class>.txt`, of lines `id score xmin ymin xmax ymax` with 1-based,
inclusive corners (the VOC 2007 development kit, section 8.2).

Letters: N images, R boxes of one image.
"""

import itertools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.bbox_tools import xywh2yxyx, yx2xy, yxyx2xywh
from utils.errors import UserError
from utils.file_tool import prepare_file, prepare_folder, refuse_no_file, text_lines, whole_file
from utils.json_tool import MAX_JSON_BYTES, id_key, id_number, is_finite, read_json
from utils.safe_read import read_bounded


@dataclass(frozen=True)
class Detections:
    """What was found in each of N images, in the order of the data set."""

    bboxes: list  # N arrays (R, 4) (y_min, x_min, y_max, x_max), edges in pixels of the picture
    labels: list  # N arrays (R,) 0..L−1
    scores: list  # N arrays (R,)
    # N arrays (R, 4) (x, y, width, height) where they come from a file in COCO's form: (x + w) − x need not be w
    xywh: list | None = None
    by_number: bool = False  # whether a file told classes by ids that are made up here, see `Names`

    def __len__(self):
        return len(self.bboxes)

    @property
    def columns(self):
        """The first three."""
        return self.bboxes, self.labels, self.scores

    def of_first(self, n: int | None) -> "Detections":
        """Those of the first `n` images; of all for None."""
        return Detections(*(column and column[:n] for column in (*self.columns, self.xywh)), self.by_number)


class Names(NamedTuple):
    """What a data set's images and classes are called in files of detections."""

    image_ids: Sequence  # of N images
    category_ids: Mapping  # class name → its id in COCO's form, in label order
    made_up: frozenset = frozenset()  # the classes whose id no file says: only their place among those known here

    @classmethod
    def of(cls, image_ids, label_names, known: Mapping) -> "Names":
        """With the `known` ids (class name → id), and free numbers for classes that have none."""
        free = itertools.count(1 + max((id_number(id_key(own)) or 0 for own in known.values()), default=0))
        category_ids = {name: known[name] if name in known else next(free) for name in label_names}
        return cls(image_ids, category_ids, frozenset(set(label_names) - known.keys()))


def read_detections(path: str | os.PathLike, names: Names, split: str | None = None) -> tuple[Detections, int]:
    """Detections from a file that someone made.

    Args:
        path: COCO's results (*.json), a text of VOC's for one class, or a folder of such texts. Where ids are made up,
            a `category_name` in the former, as `write_coco_results` puts it there, goes before its id.
        split: its name, where the texts' names may have it.

    Returns:
        `Detections`, float64, and how many boxes of images or classes that are not among `names` were left out.

    Raises:
        UserError: a file that cannot be read or says something else, an unknown category in COCO's form, no text of a
            known class in VOC's, texts of two runs, or no box of a known image.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"--detections={path}: no such file or folder; check the path")
    in_coco_form = path.is_file() and _is_json(path)
    read = _read_coco_results(path, names) if in_coco_form else _read_voc_results(path, names, split)
    image, boxes, label, score, n_foreign, by_number = read
    if n_foreign and not len(image):
        raise UserError(f"--detections={path}: none of its boxes is of a class of this set; name the data it is for")
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
    return Detections(bboxes, labels, scores, boxes if in_coco_form else None, by_number), n_left_out


def make_room_for_detections(path, rpn_only, names: Names):
    """Make the folder that `write_detections` will write to, and refuse what can't be written: before the work."""
    path = Path(path)
    if rpn_only:
        raise UserError("--save-detections: an RPN's boxes are of no class; write them with python train.py propose")
    file_names = Counter(map(path_part, names.category_ids))
    if not _is_json(path) and max(file_names.values()) > 1:
        alike = [name for name in names.category_ids if file_names[path_part(name)] > 1]
        raise UserError(f"--save-detections={path}: {' and '.join(alike)} would share a file; write a .json")
    try:
        if _is_json(path):
            prepare_file(path)
        else:
            prepare_folder(path)
            for file in path.glob("comp4_det_*.txt"):
                refuse_no_file(file)
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
    """One JSON of the detections, which are of the first images. Raises UserError if it can't be written."""
    categories = [
        {"category_id": own_id} | ({"category_name": name} if name in names.made_up else {})
        for name, own_id in names.category_ids.items()
    ]
    rows = [
        {"image_id": image_id, **categories[label], "bbox": [_short(value) for value in box], "score": _short(score)}
        for image_id, bbox, labels, scores in zip(names.image_ids, *detections.columns, strict=False)
        for box, label, score in zip(yxyx2xywh(bbox.astype(np.float64)), labels, scores, strict=True)
    ]
    try:
        with whole_file(path) as partial:
            partial.write_text(json.dumps(rows), "utf-8")
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error}); choose another file") from None


def write_voc_results(folder, detections: Detections, names: Names, split="test"):
    """`comp4_det_<split>_<class>.txt` for each class. Raises UserError if one can't be written."""
    lines = {name: [] for name in names.category_ids}
    of_label = list(lines.values())
    for image_id, bbox, labels, scores in zip(names.image_ids, *detections.columns, strict=False):
        for box, label, score in zip(yx2xy(bbox.astype(np.float64)) + 1, labels, scores, strict=True):
            numbers = " ".join(f"{value:.10g}" for value in (score, *box))
            of_label[label].append(f"{image_id} {numbers}\n")
    folder = Path(folder)
    paths = {name: folder / f"comp4_det_{path_part(split)}_{path_part(name)}.txt" for name in lines}
    try:
        for name, path in paths.items():
            with whole_file(path) as partial:
                partial.write_text("".join(lines[name]), "utf-8", errors="backslashreplace")
    except OSError as error:
        raise UserError(f"{folder}: can't be written ({error.strerror or error}); choose another folder") from None


def _short(value):
    """Nine digits bring every float32 back."""
    return float(f"{value:.9g}")


def path_part(text):
    """A class or a split as a part of a file's name."""
    return re.sub(r"[/\\\0\ud800-\udfff]", "_", text)


_VOC_LINE = re.compile(r"(.+?)" + r"[ \t]+([^ \t]+)" * 5)  # an id may have spaces

# Each reader returns (image, boxes, label, score) of the boxes of known classes, how many others there are, and whether
# classes were told by made-up ids: of each box the place of its image, or −1, and its numbers as the file has them


def _read_coco_results(path, names):
    rows = read_json(path)
    if isinstance(rows, dict):  # some tools write them like instances, with scores
        rows = rows.get("annotations")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of objects with image_id, category_id, bbox and score, as COCO's are")
    image_of = {id_key(image_id): i for i, image_id in enumerate(names.image_ids)}
    label_of = {id_key(category): label for label, category in enumerate(names.category_ids.values())}
    class_names = list(names.category_ids)
    label_of_name = {name: label for label, name in enumerate(class_names)}
    image, xywh, labels, scores, n_foreign, by_number = [], [], [], [], 0, False
    for k, row in enumerate(rows, 1):
        missing = {"image_id", "category_id", "bbox", "score"} - row.keys()
        if missing:
            raise UserError(f"{path}: detection {k} has no {', '.join(sorted(missing))}; results have all four")
        name, label = row.get("category_name"), label_of.get(id_key(row["category_id"]))
        named = isinstance(name, str)
        if named and (names.made_up or label is None):
            label = label_of_name.get(name.strip())
            if label is None:
                n_foreign += 1
                continue
        if label is None:
            known = ", ".join(f"{category} {name}" for name, category in list(names.category_ids.items())[:8])
            raise UserError(f"{path}: detection {k} has category {row['category_id']!r}; there are {known}, …")
        by_number = by_number or (not named and class_names[label] in names.made_up)
        box = row["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_finite, [*box, row["score"]])):
            raise UserError(
                f"{path}: detection {k}: bbox and score must be finite numbers, [x, y, width, height] first"
            )
        if min(box[2:]) < 0:
            raise UserError(f"{path}: detection {k} has a negative side: bbox is [x, y, width, height]; correct it")
        image.append(image_of.get(id_key(row["image_id"]), -1))
        xywh.append(box)
        labels.append(label)
        scores.append(row["score"])
    boxes = np.array(xywh, np.float64).reshape(-1, 4)
    columns = np.array(image, np.int64), boxes, np.array(labels, np.int64), np.array(scores, np.float64)
    return *columns, n_foreign, by_number


def _read_voc_results(path, names, split):
    paths = [path] if path.is_file() else list(path.glob("*_det_*.txt"))
    if not paths:
        raise UserError(f"--detections={path}: no files such as comp4_det_test_CLASS.txt there; check the path")
    of_file = _labels_of_files(paths, names.category_ids, split)
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
            parts = _VOC_LINE.fullmatch(line)
            image_id, *own = parts.groups() if parts else [None]
            try:
                own = [float(value) for value in own]
            except ValueError:
                own = []
            if not own or not all(map(math.isfinite, own)):
                raise UserError(f"{file}: line {n}: {line!r} is not 'id score xmin ymin xmax ymax'; correct it")
            if own[3] < own[1] or own[4] < own[2]:
                raise UserError(f"{file}: line {n}: {line!r} is not 'id score xmin ymin xmax ymax', but has a maximum "
                                "below its minimum; correct it")  # fmt: skip
            image.append(image_of.get(image_id, -1))
            labels.append(label)
            numbers.append(own)
    numbers = np.array(numbers, np.float64).reshape(-1, 5)
    return np.array(image, np.int64), numbers[:, 1:], np.array(labels, np.int64), numbers[:, 0], n_foreign, False


def _lines(file):
    """`text_lines` of a file."""
    try:
        return text_lines(read_bounded(file, MAX_JSON_BYTES).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); give detections in VOC's or COCO's form") from None


def _labels_of_files(paths, category_ids, split):
    """File → the label of the class whose name the file's ends with, or None.

    What stands before the class is the same in all files of one run: of the beginnings that some class would leave it
    is that of most files, and of several such the shortest. So 'comp4_det_val_wild_cat.txt' is of no class 'cat', if
    there is a 'comp4_det_val_dog.txt'.

    Raises:
        UserError: files of more than one run.
    """
    label_of = {path_part(name): label for label, name in enumerate(category_ids)}
    beginnings = {file: _beginnings(file.stem, label_of, split) for file in paths}
    votes = Counter(beginning for own in beginnings.values() for beginning in own)
    beginning = min(votes, key=lambda text: (-votes[text], len(text)), default="")
    others = sorted(file.name for file in paths if beginnings[file] and not file.stem.startswith(beginning))
    if others:
        raise UserError(
            f"--detections={paths[0].parent}: {others[0]} is of another run than {beginning}CLASS.txt; keep one there"
        )
    return {file: label_of.get(file.stem.removeprefix(beginning)) for file in paths}


def _beginnings(stem, label_of, split):
    """What may stand before a class in a file's name; that is known of this split, and of VOC's own."""
    for name in (re.escape(path_part(split or "")), "(train|val|trainval|test)"):
        known = re.match(f"comp[0-9]+_det_{name}_", stem)
        if known:
            return [known[0]] if stem[known.end() :] in label_of else []
    return [stem.removesuffix(end) for end in label_of if f"_{stem}".endswith(f"_{end}")]
