"""Pictures and boxes from a JSON of instances in COCO's form (Lin et al. 2014; cocodataset.org, "Data format").

Letters: R boxes of one picture.
"""

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.bbox_dataset import (
    BboxDataset,
    GroundTruth,
    Picture,
    Problem,
    check_names,
    find_picture,
    label_of,
    look_at_pictures,
    noting,
    refuse,
    size_problems,
    usable_boxes,
)
from utils.bbox_tools import xywh2yxyx
from utils.detections import Names
from utils.errors import UserError
from utils.image_tool import MAX_SIDE
from utils.index_tool import MANY, FileIndex
from utils.json_tool import id_key, id_number, is_finite, is_number, read_json
from utils.progress_tool import progress_bar
from utils.word_tool import few

# Where the tools that people use put the instances of a split, and its pictures: COCO itself, CVAT, Roboflow, ...
_JSONS = (
    "annotations/instances_{split}.json", "annotations/{split}.json", "{split}/_annotations.coco.json",
    "{split}/annotations.json", "instances_{split}.json", "{split}.json",
)  # fmt: skip
_FOLDERS = ("{split}", "images/{split}", "{split}/images", "images", "JPEGImages", ".")
_HALF_CHARACTER = re.compile("[\ud800-\udbff]")  # JSON can hold it, no file can; the others are what no UTF-8 is


class COCOBboxDataset(BboxDataset):
    """The annotated pictures of one split of a folder in COCO's form; see `BboxDataset` for what it offers.

    The file's (x, y, width, height) are 0-based edges. Crowds (`iscrowd`) are its difficult boxes. The classes are
    found by name: the file's category ids may be any numbers.

    Args:
        data_dir: the folder that holds annotations/instances_<split>.json and the pictures in <split>/, or one in the
            layout of another tool that writes COCO's form (see `_JSONS` and `_FOLDERS`).
        split: its name, such as val2017.
        label_names: the classes in label order; None takes the file's categories in the order of their ids.
        use_difficult: keep crowds (evaluation); without it they are left out (training).
        pictures, strict, as_written, index: as of `VOCBboxDataset`.

    Attributes:
        json_path (str): the file of instances.
        ids (list[str]): the id of each picture, in the file's order.
        names (Names): the ids of pictures and categories as the file has them.
        problems (list[Problem]): boxes dropped or clipped, sizes that are not the picture's, boxes of no picture.

    Raises:
        UserError: a missing folder, file or picture; a file that is not in COCO's form, or holds an unknown class.
    """

    def __init__(
        self,
        data_dir: str | os.PathLike,
        split: str = "train2017",
        label_names: Sequence[str] | None = None,
        use_difficult: bool = False,
        *,
        pictures: bool = True,
        strict: bool = True,
        as_written: bool | None = None,
        index: FileIndex | None = None,
    ):
        as_written = use_difficult if as_written is None else as_written
        self.data_dir = os.fspath(data_dir)
        self.json_path = path = _find_json(self.data_dir, split)
        index = index or FileIndex()
        content = index.get("coco", path, _read)
        categories = _categories(path, content)
        label_names = tuple(categories.values()) if label_names is None else check_names(label_names)
        images = _images(path, content)
        folder = _picture_folder(self.data_dir, split, path, images) if pictures else None
        of_image, problems, faults = _group(path, content, images, categories)
        problems += _pictures_again(path, images)
        paths = {key: _picture_path(folder, image) for key, image in images.items()} if pictures else {}
        _refuse_outside(self.data_dir, path, images, paths)
        look_at_pictures(paths.values(), index)
        image_ids, found, truths = [], [], []
        for key, image in progress_bar(images.items(), "annotations", unit="img", disable=len(images) <= MANY):
            with noting(faults):
                picture = Picture(None, _size(image))
                if pictures:
                    picture = find_picture(paths[key], _size(image), index)
                truth, own_problems = _to_truth(path, image, of_image[key], picture.size, label_names, as_written)
                image_ids.append(image["id"])
                found.append(picture)
                truths.append(truth)
                problems += own_problems
        if strict:
            refuse(faults)
        super().__init__(split, use_difficult, label_names, map(str, image_ids), found, truths, problems, faults)
        ids = {name: row["id"] for row in content["categories"] if (name := categories.get(id_key(row["id"])))}
        self._names = Names.of(image_ids, self.label_names, ids)

    @property
    def names(self):
        return self._names

    def splits_there(self) -> list[str]:
        return _jsons_there(self.data_dir)

    def instances(self) -> dict:
        """As the file has them, to the last digit, with boxes that are of no use in training."""
        content = _read(self.json_path)
        categories = _categories(self.json_path, content)
        of_image, *_ = _group(self.json_path, content, _images(self.json_path, content), categories)
        annotations = [
            {"image_id": image_id, "category_id": self.label_names.index(row.name), "bbox": row.xywh,
             "area": row.xywh[2] * row.xywh[3] if math.isnan(row.area) else row.area, "iscrowd": int(row.crowd)}
            for image_id in self.names.image_ids for row in of_image[id_key(image_id)]
        ]  # fmt: skip
        return {"images": [{"id": image_id} for image_id in self.names.image_ids], "annotations": annotations}


def find_label_names(
    data_dir: str | os.PathLike,
    splits: Iterable[str],
    *,
    pictures: bool = True,
    strict: bool = True,
    index: FileIndex | None = None,
) -> tuple[str, ...]:
    """The categories of these splits, each once: in the order of their ids, the first split's first.

    Of the other arguments `index` alone matters here.
    """
    names: dict[str, None] = {}
    for split in splits:
        path = _find_json(os.fspath(data_dir), split)
        names |= dict.fromkeys(_categories(path, (index or FileIndex()).get("coco", path, _read)).values())
    return tuple(names)


def has_split(data_dir, split):
    """Whether there is a file of instances for `split`."""
    return any(Path(data_dir, name.format(split=split)).is_file() for name in _JSONS)


# The file


def _find_json(data_dir, split):
    if not os.path.isdir(data_dir):
        raise UserError(f"{data_dir}: no such folder; give the one that has COCO's annotations/ and the pictures")
    for name in _JSONS:
        path = os.path.join(data_dir, name.format(split=split))
        if os.path.isfile(path):
            return path
    looked, there = os.path.join(data_dir, _JSONS[0].format(split=split)), _jsons_there(data_dir)
    raise UserError(f"{looked}: no such file, nor any other for split {split!r}; JSON files there: {few(there)}")


def _jsons_there(data_dir):
    files = (path for pattern in ("*.json", "*/*.json") for path in Path(data_dir).glob(pattern))
    return sorted(str(path.relative_to(data_dir)) for path in files)


_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
    "categories": ("id", "name"),
}


def _read(path):
    """The file's three lists, checked to be lists of objects; of these what is used here, which leaves out masks."""
    content, lean = read_json(path), {}
    for part, names in _FIELDS.items():
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: has no list {part!r} of objects; this is not COCO's form of instances")
        lean[part] = [{name: row[name] for name in names if name in row} for row in rows]
    return lean


def _required_key(path, where, row, name):
    key = id_key(row.get(name))
    if key is None:
        raise UserError(f"{path}: {where} has {row.get(name)!r} as {name!r}; correct it")
    return key


def _required_text(path, where, row, name):
    text = row.get(name)
    if not isinstance(text, str) or not text.strip() or _HALF_CHARACTER.search(text):
        raise UserError(f"{path}: {where} has {text!r} as {name!r}; correct it")
    return text


def _categories(path, content):
    """Key of the id → name, in the order of the ids."""
    names, used = {}, {id_key(row.get("category_id")) for row in content["annotations"]}
    rows = {_required_key(path, f"category {k}", row, "id"): row for k, row in enumerate(content["categories"], 1)}
    if len(rows) < len(content["categories"]):
        twice = next(key for key, n in Counter(id_key(row["id"]) for row in content["categories"]).items() if n > 1)
        raise UserError(f"{path}: category {twice} is there twice; each id and name once")
    named = {key: _required_text(path, f"category {key}", row, "name").strip() for key, row in rows.items()}
    names_used = {name for key, name in named.items() if key in used}
    for key in sorted(named, key=_number_or_text):
        name = named[key]
        if key not in used and name in names_used:  # Roboflow's first category has the name of another, and no box
            continue
        if name in names.values():
            raise UserError(f"{path}: category {key} ({name!r}) is there twice; each id and name once")
        names[key] = name
    if not names:
        raise UserError(f"{path}: has no categories; name the classes there")
    return names


def _number_or_text(key):
    """Sorts numbers before texts."""
    number = id_number(key)
    return (1, 0, key) if number is None else (0, number, "")


def _images(path, content):
    """Key of the id → row."""
    images = {}
    for k, row in enumerate(content["images"], 1):
        key = _required_key(path, f"image {k}", row, "id")
        _required_text(path, f"image {key}", row, "file_name")
        if key in images:
            raise UserError(f"{path}: image id {key} is there twice; each picture needs its own")
        if (size := _size(row)) and max(size) > MAX_SIDE:
            raise UserError(f"{path}: image {key} says {size[1]:g}×{size[0]:g} px, which no picture has; correct it")
        images[key] = row
    if len({isinstance(row["id"], str) for row in images.values()}) > 1:
        raise UserError(f"{path}: some image ids are numbers and some are texts; write all in one way")
    if not images:
        raise UserError(f"{path}: has no images; give a split that has some")
    return images


def _pictures_again(path, images):
    """A problem for each picture under more than one id: each time it would be learned without the others' boxes."""
    keys_of = defaultdict(list)
    for key, image in images.items():
        keys_of[os.path.normpath(image["file_name"])].append(key)
    return [
        Problem(path, f"picture listed again: {name} is image {' and '.join(keys)}; give its boxes to one of them")
        for name, keys in keys_of.items() if len(keys) > 1
    ]  # fmt: skip


def _picture_folder(data_dir, split, path, images):
    """The folder that the pictures are in: where the first that is found is."""
    folders = dict.fromkeys([*(os.path.normpath(os.path.join(data_dir, name.format(split=split))) for name in _FOLDERS),
                             os.path.dirname(path)])  # fmt: skip
    for image in images.values():
        for folder in folders:
            if _is_file(_picture_path(folder, image)):
                return folder
    first = next(iter(images.values()))["file_name"]
    raise UserError(f"{path}: its picture {first} is in none of {', '.join(folders)}; put the pictures there")


def _picture_path(folder, image):
    """Where a picture lies; programs on Windows write `sub\\picture.jpg`."""
    path = os.path.join(folder, image["file_name"])
    return path if _is_file(path) else os.path.join(folder, image["file_name"].replace("\\", "/"))


def _refuse_outside(data_dir, path, images, paths):
    """A link to elsewhere is the user's own doing, a name that leads out of the folder the file's."""
    inside = os.path.join(os.path.abspath(data_dir), "")
    for key, own in paths.items():
        name = images[key]["file_name"]
        if (".." in name or name.startswith(("/", "\\"))) and not os.path.abspath(own).startswith(inside):
            raise UserError(f"{path}: image {key} has {name!r} as 'file_name', outside {data_dir}; put it in there")


def _is_file(path):
    try:
        return os.path.isfile(path)
    except ValueError:  # a name that no file system has
        return False


class _Row(NamedTuple):
    """An annotation, checked."""

    name: str  # of the class
    xywh: list
    area: float  # px² of its mask; NaN where it is not said
    crowd: bool


def _group(path, content, images, names):
    """Image's key → `_Row`s, a problem for those that are of no picture, a line for those that are wrong."""
    of_image = {key: [] for key in images}
    problems, faults = [], []
    for k, row in enumerate(content["annotations"], 1):
        where = f"annotation {row.get('id', f'number {k}')}"
        try:
            category = _required_key(path, where, row, "category_id")
            if category not in names:
                raise UserError(f"{path}: {where} has category {category}, which is not in the list; add it there")
            own = _Row(names[category], _box(path, where, row), _area(row), _crowd(path, where, row))
            image = _required_key(path, where, row, "image_id")
        except UserError as error:  # `noting` would take longer than all this, for each of a million
            faults.append(str(error))
            continue
        if image in of_image:
            of_image[image].append(own)
        else:
            problems.append(Problem(path, f"box of no picture: {where} is of image {image}, which is not listed"))
    return of_image, problems, faults


def _to_truth(path, image, rows, size, label_names, as_written):
    """`GroundTruth` of a picture of `size` (H, W), and the problems with the boxes that are left out."""
    xywh = np.array([row.xywh for row in rows], np.float64).reshape(-1, 4)
    bbox, usable, own = usable_boxes(path, xywh2yxyx(xywh), size, lambda r: _describe(image, rows[r]), as_written)
    label = np.array([label_of(path, row.name, label_names) for row in rows], np.int32)
    crowd = np.array([row.crowd for row in rows], bool)
    problems = size_problems(path, _size(image), size, image["file_name"]) + own
    return GroundTruth(bbox, label, crowd).rows(usable), problems


def _size(image):
    """(H, W) that the file says, or None."""
    size = image.get("height"), image.get("width")
    return size if all(is_finite(side) and side > 0 for side in size) else None


def _box(path, where, row):
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        raise UserError(f"{path}: {where} has {box!r} as 'bbox'; must be [x, y, width, height]")
    return box


def _area(row):
    area = row.get("area")
    return float(area) if is_finite(area) else math.nan


def _crowd(path, where, row):
    crowd = row.get("iscrowd")
    if crowd not in (0, 1, None):
        raise UserError(f"{path}: {where} has {crowd!r} as 'iscrowd'; must be 0 or 1")
    return bool(crowd)


def _describe(image, row):
    numbers = ", ".join(f"{value:g}" for value in row.xywh)
    return f"{row.name} (x, y, width, height {numbers}) of {image['file_name']}"
