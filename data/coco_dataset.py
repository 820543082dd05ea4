"""Pictures and boxes from a JSON of instances in COCO's form (Lin et al. 2014; cocodataset.org, "Data format").

Letters: R boxes of one picture.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.bbox_dataset import (
    BboxDataset,
    Picture,
    Problem,
    Truth,
    box_area,
    check_names,
    find_picture,
    label_of,
    noting,
    refuse,
    size_problems,
    usable_boxes,
)
from utils.bbox_tools import xywh2yxyx
from utils.detections import Names
from utils.errors import UserError
from utils.index_tool import FileIndex

# Where the tools that people use put the instances of a split, and its pictures: COCO itself, CVAT, Roboflow, ...
_JSONS = (
    "annotations/instances_{split}.json", "annotations/{split}.json", "{split}/_annotations.coco.json",
    "{split}/annotations.json", "instances_{split}.json", "{split}.json",
)  # fmt: skip
_FOLDERS = ("{split}", "images/{split}", "{split}/images", "images", "JPEGImages", ".")
_MANY = 2000  # pictures that take long enough for a progress bar


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
        pictures, strict, index: as of `VOCBboxDataset`.

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
        index: FileIndex | None = None,
    ):
        self.data_dir = os.fspath(data_dir)
        self.json_path = path = _find_json(self.data_dir, split)
        content, index = _read(path), index or FileIndex()
        names = _categories(path, content)
        label_names = tuple(names.values()) if label_names is None else check_names(label_names)
        images = _images(path, content)
        folder = _picture_folder(self.data_dir, split, path, images) if pictures else None
        of_image, problems, faults = _group(path, content, images, names)
        image_ids, found, truths = [], [], []
        for image_id, image in tqdm(images.items(), "annotations", unit="img", disable=len(images) <= _MANY):
            with noting(faults):
                picture = Picture(None, _size(image))
                if pictures:
                    picture = find_picture(os.path.join(folder, image["file_name"]), _size(image), index)
                truth, own_problems = _to_truth(path, image, of_image[image_id], picture.size, names, label_names)
                image_ids.append(image_id)
                found.append(picture)
                truths.append(truth)
                problems += own_problems
        if strict:
            refuse(faults)
        super().__init__(split, use_difficult, label_names, map(str, image_ids), found, truths, problems, faults)
        category_of = {name: category for category, name in names.items()}
        self._names = Names(image_ids, {name: category_of.get(name) for name in self.label_names})

    @property
    def names(self):
        return self._names

    def instances(self) -> dict:
        """As the file has them, to the last digit, with boxes that are of no use in training."""
        content = _read(self.json_path)
        label = {category: self.label_names.index(name) for name, category in self.names.category_ids.items()}
        annotations = [
            {"image_id": row["image_id"], "category_id": label[row["category_id"]], "bbox": row["bbox"],
             "area": row.get("area", row["bbox"][2] * row["bbox"][3]), "iscrowd": int(bool(row.get("iscrowd", 0)))}
            for row in content["annotations"]
        ]  # fmt: skip
        return {"images": [{"id": image_id} for image_id in self.names.image_ids], "annotations": annotations}


def find_label_names(data_dir: str | os.PathLike, splits: Iterable[str], **reading) -> tuple[str, ...]:
    """The categories of these splits, each once: in the order of their ids, the first split's first."""
    names: dict[str, None] = {}
    for split in splits:
        path = _find_json(os.fspath(data_dir), split)
        names |= dict.fromkeys(_categories(path, _read(path)).values())
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
    there = sorted(
        str(p.relative_to(data_dir)) for pattern in ("*.json", "*/*.json") for p in Path(data_dir).glob(pattern)
    )
    looked = os.path.join(data_dir, _JSONS[0].format(split=split))
    raise UserError(f"{looked}: no such file, nor any other for split {split!r}; JSON files there: {_few(there)}")


def _few(names, n=5):
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "") if names else "none"


def _read(path):
    """The file's content, its three lists checked."""
    try:
        content = json.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: {error.msg}; mend the JSON") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; save it as UTF-8") from None
    except (OSError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); check the file and its rights") from None
    for part in ("images", "annotations", "categories"):
        rows = content.get(part) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: has no list {part!r} of objects; this is not COCO's form of instances")
    return content


def _required(path, where, row, name, kinds):
    """The value of `name`, which must be of one of `kinds`."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise UserError(f"{path}: {where} has {value!r} as {name!r}; correct it")
    return value


def _categories(path, content):
    """Category id → name, in the order of the ids."""
    names = {}
    for k, row in enumerate(content["categories"], 1):
        category = _required(path, f"category {k}", row, "id", int)
        name = _required(path, f"category {k}", row, "name", str).strip()
        if not name:
            raise UserError(f"{path}: category {category} has an empty name; name it")
        if category in names or name in names.values():
            raise UserError(f"{path}: category {category} ({name!r}) is there twice; each id and name once")
        names[category] = name
    if not names:
        raise UserError(f"{path}: has no categories; name the classes there")
    return dict(sorted(names.items()))


def _images(path, content):
    """Image id → row."""
    images, seen = {}, set()
    for k, row in enumerate(content["images"], 1):
        image_id = _required(path, f"image {k}", row, "id", (int, str))
        _required(path, f"image {image_id}", row, "file_name", str)
        if str(image_id) in seen:
            raise UserError(f"{path}: image id {image_id} is there twice; each picture needs its own")
        seen.add(str(image_id))
        images[image_id] = row
    if len(set(map(type, images))) > 1:
        raise UserError(f"{path}: some image ids are numbers and some are texts; write all in one way")
    if not images:
        raise UserError(f"{path}: has no images; give a split that has some")
    return images


def _picture_folder(data_dir, split, path, images):
    """The folder that the first picture is in."""
    first = next(iter(images.values()))["file_name"]
    folders = dict.fromkeys([*(os.path.normpath(os.path.join(data_dir, name.format(split=split))) for name in _FOLDERS),
                             os.path.dirname(path)])  # fmt: skip
    for folder in folders:
        if os.path.isfile(os.path.join(folder, first)):
            return folder
    raise UserError(f"{path}: its picture {first} is in none of {', '.join(folders)}; put the pictures there")


def _group(path, content, images, names):
    """Image id → rows of annotations, a problem for those that are of no picture, a line for those that are wrong."""
    of_image = {image_id: [] for image_id in images}
    problems, faults = [], []
    for k, row in enumerate(content["annotations"], 1):
        with noting(faults):
            where = f"annotation {row.get('id', f'number {k}')}"
            category = _required(path, where, row, "category_id", int)
            if category not in names:
                raise UserError(f"{path}: {where} has category {category}, which is not in the list; add it there")
            _check_box(path, where, row)
            image_id = _required(path, where, row, "image_id", (int, str))
            if image_id in of_image:
                of_image[image_id].append(row)
            else:
                what = f"box of no picture: {where} is of image {image_id}, which is not listed"
                problems.append(Problem(path, what))
    return of_image, problems, faults


def _to_truth(path, image, rows, size, names, label_names):
    """`Truth` of a picture of `size` (H, W), and the problems with the boxes that are left out."""
    xywh = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    bbox, usable, own = usable_boxes(path, xywh2yxyx(xywh), size, lambda r: _describe(image, rows[r], names))
    label = np.array([label_of(path, names[row["category_id"]], label_names) for row in rows], np.int32)
    crowd = np.array([bool(row.get("iscrowd", 0)) for row in rows], bool)
    area = [_area(row) for row in rows]
    area = np.where(np.isnan(area), box_area(bbox), area).astype(np.float32)
    return Truth(bbox, label, crowd, area).rows(usable), size_problems(
        path, _size(image), size, image["file_name"]
    ) + own


def _size(image):
    """(H, W) that the file says, or None."""
    said = image.get("height"), image.get("width")
    return said if all(_is_number(side) and side > 0 for side in said) else None


def _check_box(path, where, row):
    box = row.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
        raise UserError(f"{path}: {where} has {box!r} as 'bbox'; must be [x, y, width, height]")


def _area(row):
    """The mask's area, or NaN where it is not said."""
    area = row.get("area")
    return float(area) if _is_number(area) and 0 < area < math.inf else math.nan


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _describe(image, row, names):
    numbers = ", ".join(f"{value:g}" for value in row["bbox"])
    return f"{names[row['category_id']]} (x, y, width, height {numbers}) of {image['file_name']}"
