"""What all annotated datasets share: pictures with boxes, and what is wrong with them.

Letters: R boxes of one picture, (H, W) its height and width.
"""

import difflib
import os
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from utils.bbox_tools import yxyx2xywh
from utils.detections import Names
from utils.errors import UserError
from utils.image_tool import image_sizes, read_image
from utils.json_tool import id_key
from utils.word_tool import counted, few


class Problem(NamedTuple):
    """Something in the data that training can go on without: `what` is 'kind: details'."""

    path: str
    what: str


class Picture(NamedTuple):
    """A picture file."""

    path: str | None  # None where the pictures are not looked at
    size: tuple[int, int] | None  # (H, W) as it is read; then, as the annotation says, or None
    upright: bool = True  # turned as its Exif orientation says; see `find_picture`


class GroundTruth(NamedTuple):
    """The true boxes of one picture."""

    bbox: np.ndarray  # (R, 4) (y_min, x_min, y_max, x_max), edges: float32, or float64 as it is written
    label: np.ndarray  # (R,) int32, index into the dataset's `label_names`
    difficult: np.ndarray  # (R,) bool: not to be learned, and neither right nor wrong in evaluation

    def rows(self, wanted):
        """Those of its boxes that `wanted`, a mask or indices, takes."""
        return GroundTruth(*(column[wanted] for column in self))


class BboxDataset:
    """The annotated pictures of one split. `VOCBboxDataset` and `COCOBboxDataset` read them.

    An example is `(img, bbox, label, difficult)`:

    | name      | shape     | dtype   | what                                                    |
    |-----------|-----------|---------|---------------------------------------------------------|
    | img       | (3, H, W) | float32 | RGB, 0..255                                             |
    | bbox      | (R, 4)    | float32 | (y_min, x_min, y_max, x_max), edges                     |
    | label     | (R,)      | int32   | index into `label_names`                                |
    | difficult | (R,)      | bool    | all False unless `use_difficult`                        |

    R may be 0. For training, boxes are cut to the picture, and those without area left out. For evaluation
    (`as_written`) they are what the file says, for so other evaluators take them. Every annotation is read when it is
    made, so that what is wrong is known before training starts; of the pictures only the headers, the rest when asked
    for.

    Args:
        split: its name.
        use_difficult: keep objects marked difficult (evaluation); without it they are left out (training).
        label_names: the classes in label order.
        ids: the name of each picture, all different.
        pictures: `Picture` of each.
        truths: `GroundTruth` of each, difficult boxes among them.
        problems: what was left out or changed.
        faults: a line for each picture that is not among these, since it or its annotation can't be read.

    Attributes:
        split, use_difficult, label_names, ids, problems, faults: as given.
    """

    def __init__(self, split, use_difficult, label_names, ids, pictures, truths, problems, faults=()):
        self.split, self.use_difficult, self.label_names = split, use_difficult, tuple(label_names)
        self.ids, self.problems, self.faults = list(ids), problems, list(faults)
        self._pictures = list(pictures)
        self._n_difficult = sum(int(truth.difficult.sum()) for truth in truths)
        self._truths = truths if use_difficult else [truth.rows(~truth.difficult) for truth in truths]

    def __len__(self) -> int:
        return len(self.ids)

    def get_example(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(img, bbox, label, difficult) of picture i, 0 <= i < len(self); shapes and dtypes in the class's table.

        Raises:
            UserError: the picture cannot be decoded.
        """
        path, _, upright = self._pictures[i]
        return read_image(path, upright), *self.get_annotation(i)

    __getitem__ = get_example

    def get_annotation(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bbox, label, difficult) of picture i without reading the picture; the arrays are the caller's own."""
        bbox, label, difficult = self._truths[i]
        return bbox.astype(np.float32), label.copy(), difficult.copy()

    def ground_truth(self, i: int) -> GroundTruth:
        """What evaluation compares with: of float32 boxes an IoU of 0.5 may become less. Not to be changed."""
        return self._truths[i]

    def splits_there(self) -> list[str]:
        """The splits that its folder has, or the files that may be some, sorted."""
        raise NotImplementedError

    def path(self, i: int) -> str | None:
        """Where picture i lies; None where the pictures were not looked at."""
        return self._pictures[i].path

    def size(self, i: int) -> tuple[int, int] | None:
        """(H, W) of picture i in pixels; None where it was not looked at, and its annotation does not say."""
        return self._pictures[i].size

    @property
    def n_learned(self) -> int:
        """How many boxes there are to learn from: those that are not difficult."""
        return sum(int((~truth.difficult).sum()) for truth in self._truths)

    def upright(self, i: int) -> bool:
        """Whether picture i is turned as its Exif orientation says, see `find_picture`."""
        return self._pictures[i].upright

    @property
    def names(self) -> Names:
        """What its images and classes are called in files of detections: by their ids, and from 1 on."""
        return Names.of(self.ids, self.label_names, known={})

    def instances(self) -> dict:
        """The lists `images` and `annotations` of COCO's form, in which `category_id` is the label.

        Difficult boxes are crowds there: nothing else of COCO's takes any number of detections, none of which counts.
        """
        annotations = [
            {"image_id": image_id, "category_id": int(label), "bbox": box, "area": box[2] * box[3],
             "iscrowd": int(difficult)}
            for image_id, truth in zip(self.names.image_ids, self._truths, strict=True)
            for box, label, difficult in zip(yxyx2xywh(truth.bbox).tolist(), *truth[1:], strict=True)
        ]  # fmt: skip
        return {"images": [{"id": image_id} for image_id in self.names.image_ids], "annotations": annotations}

    def summary(self) -> str:
        """One line: how many pictures, boxes by class (the five commonest), difficult ones and problems."""
        labels = np.concatenate([np.empty(0, np.int32), *(truth.label for truth in self._truths)])
        counts = Counter(self.label_names[label] for label in labels.tolist()).most_common()
        parts = [f"{name} {n:,}" for name, n in counts[:5]]
        if len(counts) > 5:
            parts.append(counted(len(counts) - 5, "more class"))
        by_class = f" ({', '.join(parts)})" if parts else ""
        n_empty = sum(len(truth.label) == 0 for truth in self._truths)
        return (
            f"{self.split}: {counted(len(self), 'image')}, {counted(len(labels), 'box')}{by_class},"
            f" {self._n_difficult:,} difficult {'kept' if self.use_difficult else 'left out'},"
            f" {counted(n_empty, 'image')} without boxes, {counted(len(self.problems), 'problem')}"
        )


class UnionDataset(BboxDataset):
    """Datasets of the same classes, one after the other; `VOCBboxDataset`s of 2007 and 2012, say.

    An id that two of them have gets its place in `parts` in front.
    """

    def __init__(self, parts: Sequence[BboxDataset]):
        n_parts_with = Counter(image_id for part in parts for image_id in part.ids)
        ids = [f"{k}/{i}" if n_parts_with[i] > 1 else i for k, part in enumerate(parts, 1) for i in part.ids]
        pictures, truths = ([row for part in parts for row in getattr(part, name)] for name in ("_pictures", "_truths"))
        split = " + ".join(part.split for part in parts)
        problems, faults = ([row for part in parts for row in getattr(part, name)] for name in ("problems", "faults"))
        first = parts[0]
        super().__init__(split, first.use_difficult, first.label_names, ids, pictures, truths, problems, faults)
        self._n_difficult = sum(part._n_difficult for part in parts)
        self._parts = parts

    def splits_there(self) -> list[str]:
        return sorted({split for part in self._parts for split in part.splits_there()})

    @property
    def names(self) -> Names:
        """Its parts' names: of pictures whose name two parts have, by their ids here.

        Where two parts have two ids for one class, or one for two, all ids are made up.
        """
        parts = [part.names for part in self._parts]
        image_ids = [own for part in parts for own in part.image_ids]
        n_with = Counter(map(str, image_ids))
        image_ids = [own if n_with[str(own)] == 1 else i for own, i in zip(image_ids, self.ids, strict=True)]
        said = {(name, own) for part in parts for name, own in part.category_ids.items() if name not in part.made_up}
        by_name = dict(said)
        clear = len(by_name) == len(said) == len({id_key(own) for own in by_name.values()})
        return Names.of(image_ids, self.label_names, known=by_name if clear else {})

    def instances(self) -> dict:
        images, annotations = [{"id": own} for own in self.ids], []
        own_ids = iter(self.ids)
        for part in self._parts:
            content = part.instances()
            own_id = {image["id"]: own for image, own in zip(content["images"], own_ids, strict=False)}
            rows = (row for row in content["annotations"] if row["image_id"] in own_id)
            annotations += [row | {"image_id": own_id[row["image_id"]]} for row in rows]
        return {"images": images, "annotations": annotations}


def report_problems(problems: Sequence[Problem], max_lines: int = 5) -> str:
    """A few lines for a person: how many problems of which kind, then the first `max_lines` of them."""
    if not problems:
        return "no problems in the annotations"
    kinds = Counter(problem.what.partition(":")[0] for problem in problems)
    counts = ", ".join(f"{kind} × {n:,}" for kind, n in kinds.most_common())
    lines = [f"{len(problems):,} in {counted(len({problem.path for problem in problems}), 'file')}: {counts}"]
    lines += [f"  {os.path.basename(problem.path)}: {problem.what}" for problem in problems[:max_lines]]
    if len(problems) > max_lines:
        lines.append(f"  … and {len(problems) - max_lines:,} more")
    return "\n".join(lines)


# What can't be read


@contextmanager
def noting(faults: list):
    """Add what a UserError says to `faults`, and go on behind the block: one broken file does not hide the others."""
    try:
        yield
    except UserError as error:
        faults.append(str(error))


def refuse(faults):
    """Raise the first of `faults`, if there are any."""
    if faults:
        more = f" (and {len(faults) - 1:,} more: python train.py check names all)" if len(faults) > 1 else ""
        raise UserError(faults[0] + more)


# Classes


class CheckpointNames(tuple):
    """Class names of a checkpoint: who has data of another class can't just name it too."""


def check_names(label_names: Sequence[str]) -> tuple[str, ...]:
    """The names without spaces around them. Raises UserError for one that is there twice."""
    names = tuple(str(name).strip() for name in label_names)
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise UserError(f"label_names: {', '.join(twice)} given twice; name each class once")
    return CheckpointNames(names) if isinstance(label_names, CheckpointNames) else names


def label_of(path: str, name: str, label_names: tuple[str, ...]) -> int:
    """Its index; a UserError that suggests the nearest where it is none of them."""
    if name in label_names:
        return label_names.index(name)
    by_lower = {known.lower(): known for known in label_names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    known, whose, advice = few(label_names, 10), "known", "correct it, or name it in --label-names"
    if isinstance(label_names, CheckpointNames):
        whose, advice = "checkpoint's", "these data have other classes: choose a checkpoint for them, or train one"
    if near:
        advice = f"did you mean {by_lower[near[0]]!r}?"
    raise UserError(f"{path}: class {name!r} is not one of the {whose} classes ({known}); {advice}")


# Pictures and boxes


def look_at_pictures(paths, index):
    """Find the sizes of those that the index does not know yet, side by side: `find_picture` takes them from there."""
    index.fill("picture", paths, image_sizes, "pictures")


def find_picture(path, annotated_size, index):
    """`Picture` of a file whose annotation says that it has the size `annotated_size`, (H, W) or None; see `FileIndex`.

    Some tools annotate the stored pixels, and leave the Exif orientation aside. Where the stored pixels have the size
    that was said, and the upright ones have not, the boxes are of the former: so the picture is read that way.
    """
    size, stored = map(tuple, index.get("picture", path, image_sizes))
    return Picture(path, stored, upright=False) if annotated_size == stored != size else Picture(path, size)


def size_problems(path, annotated_size, size, name="it"):
    """A problem with the file `path`, in a list, where it says another size than the picture `name` has."""
    if None in (annotated_size, size) or annotated_size == size:
        return []
    (height, width), (true_height, true_width) = annotated_size, size
    what = f"size that is not the picture's: {width:g}×{height:g}, {name} has {true_width}×{true_height}"
    return [Problem(path, what)]


def usable_boxes(path, bbox, size, describe, as_written):
    """Boxes of a picture, cut to it or as they are.

    Args:
        path: the file that says them.
        bbox: (R, 4) float64 (y_min, x_min, y_max, x_max), 0-based edges.
        size: (H, W) of the picture, or None if that is not known.
        describe: r → box r in the words of the file.
        as_written: keep all that are finite as they are.

    Returns:
        bbox (R, 4) float32, or float64 as they are; usable (R,) bool; and a problem for each box that is not usable
        or was cut by more than a pixel. Up to a pixel is what mixing 0-based and 1-based tools leaves, and is cut
        without a word.
    """
    bbox = np.asarray(bbox, np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinite corners are sorted out below
        if not as_written:
            bbox = bbox.astype(np.float32)  # judged so, since two corners can become one in the rounding
        limit = np.array(size * 2 if size else np.inf, np.float32)
        inside = np.isfinite(bbox) & (bbox >= 0) & (bbox <= limit)
        if inside.all() and (bbox[:, 2:] > bbox[:, :2]).all():  # as most are
            return bbox, np.ones(len(bbox), bool), []
        cut = bbox if as_written else np.clip(bbox, 0, limit)
        moved = np.abs(bbox - cut).max(axis=1, initial=0)
    kinds = {
        "corner that is not finite": ~np.isfinite(bbox).all(axis=1),
        "box without area": (bbox[:, 2:] <= bbox[:, :2]).any(axis=1) & (not as_written),
        "box outside the picture": (cut[:, 2:] <= cut[:, :2]).any(axis=1) & (not as_written),
        "box cut to the picture": moved > 1,
    }
    *unusable, _ = kinds.values()
    problems = []
    for r in np.flatnonzero(np.any(list(kinds.values()), axis=0)):
        kind = next(kind for kind, mask in kinds.items() if mask[r])
        where = f" in {size[1]}×{size[0]}" if size else ""
        problems.append(Problem(path, f"{kind}: {describe(r)}{where}"))
    return cut, ~np.any(unusable, axis=0), problems
