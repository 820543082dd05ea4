"""Pictures and boxes from a folder in VOC layout: JPEGImages/, Annotations/, ImageSets/Main/.

Letters: R boxes of one picture, (H, W) its height and width.
"""

import difflib
import glob
import math
import os
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from utils.errors import UserError
from utils.image_tool import image_size, read_image
from utils.label_names import VOC_BBOX_LABEL_NAMES

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # in any case; the earlier one wins where two share an id
_CORNERS = ("ymin", "xmin", "ymax", "xmax")
_CLASS_COLUMN = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # VOC's lists of one class say `000012 -1`
_MANY = 2000  # files that take long enough for a progress bar


class Problem(NamedTuple):
    """Something in the data that training can go on without: `what` is 'kind: details'."""

    path: str
    what: str


class _Object(NamedTuple):
    name: str
    corners: tuple[float, ...]  # (ymin, xmin, ymax, xmax) as the file says them, 1-based and inclusive
    difficult: bool


class _Annotation(NamedTuple):
    path: str
    size: tuple[int, int] | None
    objects: list[_Object]


class VOCBboxDataset:
    """The annotated pictures of one split of a VOC folder.

    An example is `(img, bbox, label, difficult)`:

    | name      | shape     | dtype   | what                                                               |
    |-----------|-----------|---------|--------------------------------------------------------------------|
    | img       | (3, H, W) | float32 | RGB, 0..255                                                        |
    | bbox      | (R, 4)    | float32 | (y_min, x_min, y_max, x_max), the file's corners − 1, in the picture |
    | label     | (R,)      | int32   | index into `label_names`                                           |
    | difficult | (R,)      | bool    | all False unless `use_difficult`                                   |

    R may be 0. Every list and annotation is read here, so that what is wrong is known before training starts; of the
    pictures only the headers, the rest when asked for. The annotations and their 1-based corners: the VOC 2007
    development kit, section 5.

    Args:
        data_dir: the folder that holds JPEGImages, Annotations and ImageSets.
        split: the list ImageSets/Main/<split>.txt.
        label_names: the classes in label order; None takes those of this split (see `find_label_names`).
        use_difficult: keep objects marked difficult (evaluation); without it they are left out (training).

    Attributes:
        data_dir, split, use_difficult: as given.
        ids (list[str]): the ids of the split, each once, in the list's order.
        label_names (tuple[str, ...]): the classes in label order.
        problems (list[Problem]): boxes dropped or clipped, difficult ones among them, sizes in the XML that are not the
            picture's, and ids listed twice.

    Raises:
        UserError: a missing folder, list, picture or annotation; an annotation that is broken or holds an unknown
            class; an empty list.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike,
        split: str = "trainval",
        label_names: Sequence[str] | None = None,
        use_difficult: bool = False,
    ):
        self.data_dir = os.fspath(data_dir)
        self.split = split
        self.use_difficult = use_difficult
        pictures = _index_pictures(self.data_dir)
        self.ids, self.problems = _read_ids(self.data_dir, split, pictures)
        self._paths = [_find_picture(self.data_dir, split, pictures, image_id) for image_id in self.ids]
        annotations = _read_annotations(self.data_dir, self.ids)
        annotations = [self._with_true_size(a, path) for a, path in zip(annotations, self._paths, strict=True)]
        self.label_names = _names_in(annotations) if label_names is None else _check_names(label_names)
        self._sizes = [annotation.size for annotation in annotations]
        boxes = [self._to_arrays(annotation) for annotation in annotations]
        self._n_difficult = sum(int(difficult.sum()) for _, _, difficult in boxes)
        self._boxes = boxes if use_difficult else [_without_difficult(*arrays) for arrays in boxes]

    def _with_true_size(self, annotation: _Annotation, picture: str) -> _Annotation:
        """With the size in the picture's own header: what the XML says may be missing, zero or another picture's."""
        size = image_size(picture)
        if annotation.size not in (None, size):
            said, true = (f"{width}×{height}" for height, width in (annotation.size, size))
            self.problems.append(Problem(annotation.path, f"size that is not the picture's: {said}, it has {true}"))
        return annotation._replace(size=size)

    def _to_arrays(self, annotation: _Annotation) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bbox, label, difficult) of a file's usable objects; the others go to `problems`."""
        path, _, objects = annotation
        label = np.array([_label_of(path, obj.name, self.label_names) for obj in objects], np.int32)
        difficult = np.array([obj.difficult for obj in objects], bool)
        bbox, usable, problems = _clean_boxes(annotation)
        self.problems += problems
        return bbox[usable], label[usable], difficult[usable]

    def __len__(self) -> int:
        return len(self.ids)

    def get_example(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(img, bbox, label, difficult) of picture i, 0 <= i < len(self); shapes and dtypes in the class's table.

        Raises:
            UserError: the picture cannot be decoded.
        """
        return read_image(self.path(i)), *self.get_annotation(i)

    __getitem__ = get_example

    def get_annotation(self, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(bbox, label, difficult) of picture i without reading the picture; the arrays are the caller's own."""
        bbox, label, difficult = self._boxes[i]
        return bbox.copy(), label.copy(), difficult.copy()

    def path(self, i: int) -> str:
        """Where picture i lies."""
        return self._paths[i]

    def size(self, i: int) -> tuple[int, int]:
        """(H, W) of picture i in pixels."""
        return self._sizes[i]

    def summary(self) -> str:
        """One line: how many pictures, boxes by class (the five commonest), difficult ones and problems."""
        labels = np.concatenate([label for _, label, _ in self._boxes])
        counts = Counter(self.label_names[label] for label in labels.tolist()).most_common()
        parts = [f"{name} {n:,}" for name, n in counts[:5]]
        if len(counts) > 5:
            parts.append(f"{len(counts) - 5} more classes")
        by_class = f" ({', '.join(parts)})" if parts else ""
        n_empty = sum(len(label) == 0 for _, label, _ in self._boxes)
        return (
            f"{self.split}: {len(self):,} images, {len(labels):,} boxes{by_class}, {self._n_difficult:,} difficult"
            f" {'kept' if self.use_difficult else 'left out'}, {n_empty:,} images without boxes,"
            f" {len(self.problems):,} problems"
        )


def find_label_names(data_dir: str | os.PathLike, splits: Iterable[str]) -> tuple[str, ...]:
    """The classes that the annotations of these splits name, so that one that only `val` has is known too.

    All of VOC's twenty in their order where every name is one of them (labels and checkpoints then mean the same in
    any part of VOC), else the names found, sorted; () where no file has an object.

    Raises:
        UserError: as `VOCBboxDataset`, pictures aside.
    """
    data_dir = os.fspath(data_dir)
    pictures = _index_pictures(data_dir)
    ids = {image_id: None for split in splits for image_id in _read_ids(data_dir, split, pictures)[0]}
    return _names_in(_read_annotations(data_dir, list(ids)))


def report_problems(problems: Sequence[Problem], max_lines: int = 5) -> str:
    """A few lines for a person: how many problems of which kind, then the first `max_lines` of them."""
    if not problems:
        return "no problems in the annotations"
    kinds = Counter(problem.what.partition(":")[0] for problem in problems)
    counts = ", ".join(f"{kind} × {n:,}" for kind, n in kinds.most_common())
    lines = [f"{len(problems):,} in {len({problem.path for problem in problems}):,} files: {counts}"]
    lines += [f"  {os.path.basename(problem.path)}: {problem.what}" for problem in problems[:max_lines]]
    if len(problems) > max_lines:
        lines.append(f"  … and {len(problems) - max_lines:,} more")
    return "\n".join(lines)


def _without_difficult(bbox: np.ndarray, label: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, ...]:
    return bbox[~difficult], label[~difficult], difficult[~difficult]


# Classes


def _names_in(annotations: Iterable[_Annotation]) -> tuple[str, ...]:
    found = {obj.name for annotation in annotations for obj in annotation.objects}
    return VOC_BBOX_LABEL_NAMES if found and found <= set(VOC_BBOX_LABEL_NAMES) else tuple(sorted(found))


def _check_names(label_names: Sequence[str]) -> tuple[str, ...]:
    names = tuple(str(name).strip() for name in label_names)
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        raise UserError(f"label_names: {', '.join(twice)} given twice; name each class once")
    return names


def _label_of(path: str, name: str, label_names: tuple[str, ...]) -> int:
    if name in label_names:
        return label_names.index(name)
    by_lower = {known.lower(): known for known in label_names}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    advice = f"did you mean {by_lower[near[0]]!r}?" if near else "correct the name or add it to label_names"
    known = ", ".join(label_names) or "none"
    raise UserError(f"{path}: class {name!r} is not one of the known classes ({known}); {advice}")


# Lists and pictures


def _folder(data_dir: str, *parts: str) -> str:
    """The folder under `data_dir`, which must be there."""
    folder = os.path.join(data_dir, *parts)
    if os.path.isdir(folder):
        return folder
    # VOCdevkit given in place of VOCdevkit/VOC2007 is the mistake of most first runs
    inner = sorted(glob.glob(os.path.join(glob.escape(data_dir), "*", parts[0])))
    hint = f"; did you mean {os.path.dirname(inner[0])}?" if inner else ""
    raise UserError(f"{folder}: no such folder; give the folder that has Annotations, ImageSets and JPEGImages{hint}")


def _index_pictures(data_dir: str) -> dict[str, str]:
    """id → file name in JPEGImages: one listing of the folder in place of a stat for each id and suffix."""
    with os.scandir(_folder(data_dir, "JPEGImages")) as entries:
        names = sorted(entry.name for entry in entries)
    index: dict[str, str] = {}
    for suffix in reversed(_SUFFIXES):
        index.update((name[: -len(suffix)], name) for name in names if name.lower().endswith(suffix))
    return index


def _list_path(data_dir: str, split: str) -> str:
    return os.path.join(data_dir, "ImageSets", "Main", f"{split}.txt")


def _read_ids(data_dir: str, split: str, pictures: dict[str, str]) -> tuple[list[str], list[Problem]]:
    """The ids of a list, each once, and a problem for each repetition."""
    path = _list_path(data_dir, split)
    ids: dict[str, None] = {}
    problems = []
    for line in filter(None, map(str.strip, _read_list(data_dir, split).splitlines())):
        column = _CLASS_COLUMN.fullmatch(line)
        image_id = column[1] if column and line not in pictures else line  # a picture may be called 'photo 1'
        if image_id in ids:
            problems.append(Problem(path, f"id listed again: {image_id!r} is used once"))
        ids[image_id] = None
    if not ids:
        raise UserError(f"{path}: the list is empty; write one image id a line, without folder or suffix")
    return list(ids), problems


def _read_list(data_dir: str, split: str) -> str:
    folder, path = _folder(data_dir, "ImageSets", "Main"), _list_path(data_dir, split)
    try:
        raw = _read_bytes(path)
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # what PowerShell's > writes
        return raw.decode("utf-16" if utf16 else "utf-8-sig")
    except FileNotFoundError:
        there = sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".txt"))
        # `aeroplane_train` and its sixty sisters would bury the few that are meant
        whole = [name for name in there if "_" not in name or name.split("_")[0] not in VOC_BBOX_LABEL_NAMES] or there
        raise UserError(f"{path}: no such list; the splits there are: {', '.join(whole) or 'none'}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the list is not UTF-8 text; save it as UTF-8") from None


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise  # the callers know what is missing
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file and its rights") from None


def _find_picture(data_dir: str, split: str, pictures: dict[str, str], image_id: str) -> str:
    folder = os.path.join(data_dir, "JPEGImages")
    if image_id in pictures:
        return os.path.join(folder, pictures[image_id])
    suffixed = os.path.splitext(image_id)[0] in pictures
    advice = "write the id without its suffix" if suffixed else "add the picture or take the id out of the list"
    there = f"{os.path.join(folder, image_id)} with {', '.join(_SUFFIXES)}"
    raise UserError(f"{_list_path(data_dir, split)}: id {image_id!r} has no picture ({there}); {advice}")


# Annotations


def _read_annotations(data_dir: str, ids: Sequence[str]) -> list[_Annotation]:
    folder = _folder(data_dir, "Annotations")
    progress = tqdm(ids, desc="annotations", unit="file", disable=len(ids) <= _MANY)
    return [_read_annotation(os.path.join(folder, f"{image_id}.xml")) for image_id in progress]


def _read_annotation(path: str) -> _Annotation:
    root = _parse_xml(path)
    if root.tag != "annotation":
        raise UserError(f"{path}: begins with <{root.tag}>, not <annotation>; this is not a VOC annotation")
    objects = [_read_object(path, n, element) for n, element in enumerate(root.findall("object"), 1)]
    return _Annotation(path, _read_size(path, root), objects)


def _parse_xml(path: str) -> ET.Element:
    try:
        raw = _read_bytes(path)
    except FileNotFoundError:
        raise UserError(f"{path}: the annotation is missing; add it or take the id out of the list") from None
    plain = raw.replace(b"\0", b"")  # finds the marks in UTF-16 too
    if b"<!DOCTYPE" in plain or b"<!ENTITY" in plain:
        # a few nested entities expand to gigabytes; no VOC annotation needs one
        raise UserError(f"{path}: has a DOCTYPE or ENTITY declaration, which is refused; remove it")
    try:
        return ET.fromstring(raw)
    except ET.ParseError as error:
        line, column = error.position
        what = str(error).partition(":")[0]
        raise UserError(f"{path}: line {line}, column {column + 1}: {what}; mend the XML") from None
    except (LookupError, ValueError) as error:
        raise UserError(f"{path}: unknown text encoding ({error}); save the file as UTF-8") from None


def _read_object(path: str, n: int, element: ET.Element) -> _Object:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise UserError(f"{path}: object {n} has no <name>; name its class or remove it")
    where = f"{path}: object {n} ({name!r})"
    box = element.find("bndbox")
    if box is None:
        raise UserError(f"{where} has no <bndbox>; add its box or remove it")
    difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true")
    return _Object(name, tuple(_number(where, box, corner) for corner in _CORNERS), difficult)


def _number(where: str, parent: ET.Element, tag: str) -> float:
    text = parent.findtext(tag)
    if text is None:
        raise UserError(f"{where} has no <{tag}>; add it")
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where} has {text.strip()!r} as <{tag}>, which is not a number; correct it") from None


def _read_size(path: str, root: ET.Element) -> tuple[int, int] | None:
    element = root.find("size")
    if element is None or not all((element.findtext(tag) or "").strip() for tag in ("height", "width")):
        return None
    height, width = (_number(f"{path}: <size>", element, tag) for tag in ("height", "width"))
    return (int(height), int(width)) if 1 <= height < math.inf and 1 <= width < math.inf else None


def _clean_boxes(annotation: _Annotation) -> tuple[np.ndarray, np.ndarray, list[Problem]]:
    """0-based boxes of a file, cut to the picture.

    Returns:
        bbox (R, 4) float32, usable (R,) bool, and a problem for each box that is not usable or was cut by more than
        a pixel. Up to a pixel is what mixing 0-based and 1-based tools leaves, and is cut without a word.
    """
    height, width = annotation.size
    corners = np.array([obj.corners for obj in annotation.objects], np.float64).reshape(-1, 4)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinite corners are sorted out below
        # judged as float32, since two corners can become one in the rounding
        bbox = (corners - 1).astype(np.float32)
        cut = np.clip(bbox, 0, np.array([height, width, height, width], np.float32))
        moved = np.abs(bbox - cut).max(axis=1, initial=0)
    kinds = {
        "corner that is not finite": ~np.isfinite(bbox).all(axis=1),
        "box without area": (bbox[:, 2:] <= bbox[:, :2]).any(axis=1),
        "box outside the picture": (cut[:, 2:] <= cut[:, :2]).any(axis=1),
        "box cut to the picture": moved > 1,
    }
    *unusable, _ = kinds.values()
    problems = []
    for r in np.flatnonzero(np.any(list(kinds.values()), axis=0)):
        kind = next(kind for kind, mask in kinds.items() if mask[r])
        problems.append(Problem(annotation.path, f"{kind}: {_describe(annotation.objects[r], annotation.size)}"))
    return cut, ~np.any(unusable, axis=0), problems


def _describe(obj: _Object, size: tuple[int, int]) -> str:
    corners = ", ".join(f"{tag} {value:g}" for tag, value in zip(_CORNERS, obj.corners, strict=True))
    return f"{obj.name} ({corners}) in {size[1]}×{size[0]}"
