"""Detections written as a folder in VOC's layout, for a person to correct and a network to learn: pre-labelling.

`data.voc_dataset` reads it, and so does labelImg. Letters: R boxes of one picture, (H, W) its height and width.
"""

import filecmp
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

from utils.bbox_tools import yx2xy
from utils.errors import UserError
from utils.file_tool import whole_file
from utils.image_tool import IMAGE_SUFFIXES, write_jpeg

SPLIT = "predicted"  # the list of this run's pictures: ImageSets/Main/predicted.txt
CORNERS = ("xmin", "ymin", "xmax", "ymax")
# What XML 1.0 can't hold, ends a line of a list, or has no place in a file's name as UTF-8
_UNWRITABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


def voc_corners(bbox, size) -> np.ndarray:
    """Boxes as VOC says them: 1-based, inclusive corners in whole pixels.

    The inverse of what `data.voc_dataset` does (it takes 1 from each corner) to half a pixel, and to one at the right
    and lower border, where the edge W would become a column W + 1 that no picture has. Whole numbers, since most
    readers of VOC's files cut decimals off (labelImg's 12.9 is 12) or don't take them: rounded is nearer.

    Args:
        bbox (array): (R, 4) float (y_min, x_min, y_max, x_max), edges in pixels.
        size: (H, W) of the picture.

    Returns:
        (R, 4) int64 (xmin, ymin, xmax, ymax), at least a pixel wide and high as they are read; 1..W and 1..H but in a
        picture one pixel wide or high.
    """
    corners = yx2xy(np.round(np.asarray(bbox, np.float64).reshape(-1, 4)).astype(np.int64)) + 1
    last = np.array([size[1], size[0]])
    low = np.clip(corners[:, :2], 1, np.maximum(last - 1, 1))
    high = np.maximum(np.minimum(corners[:, 2:], last), low + 1)
    return np.concatenate([low, high], axis=1)


def voc_annotation(path, size, bbox, names) -> bytes:
    """The XML of one picture, UTF-8, as labelImg lays it out.

    Args:
        path: where the picture lies, in JPEGImages.
        size: (H, W) of the picture.
        bbox (array): (R, 4) float (y_min, x_min, y_max, x_max), edges in pixels.
        names: R class names; of one with characters that XML can't hold, these become `_`.
    """
    path, (height, width) = Path(path), size
    root = ET.Element("annotation")
    _add(root, "folder", path.parent.name)
    _add(root, "filename", path.name)
    _add(root, "path", path.absolute())
    about = ET.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        _add(about, tag, value)
    _add(root, "segmented", 0)
    for name, corners in zip(names, voc_corners(bbox, size).tolist(), strict=True):
        element = ET.SubElement(root, "object")
        touches = min(corners[:2]) <= 1 or corners[2] >= width or corners[3] >= height
        for tag, value in (("name", name), ("pose", "Unspecified"), ("truncated", int(touches)), ("difficult", 0)):
            _add(element, tag, value)
        box = ET.SubElement(element, "bndbox")
        for tag, value in zip(CORNERS, corners, strict=True):
            _add(box, tag, value)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8", xml_declaration=True)


def _add(parent, tag, value):
    ET.SubElement(parent, tag).text = _UNWRITABLE.sub("_", str(value))


class VOCWriter:
    """JPEGImages/, Annotations/ and, when it is closed, the list ImageSets/Main/predicted.txt of what was added.

    A picture is linked into JPEGImages (a hard link: no second copy on the disk, and it stays where the original is
    removed), copied where the file system has none, and left as it is where it lies there already. One of a kind that
    VOC's readers don't know becomes PNG. A frame of a video is written as `NAME_000012.jpg`.

    Args:
        folder: of the three.
        sources: (path, name, whether it is a video) of all that may be added; the names as `voc_id` makes them, and all
            different.
        overwrite: annotations and frames of a former run may be replaced. Another picture never is.

    Raises:
        UserError: at once, before anything is written: there are annotations that may have been corrected by hand, or
            another picture has the name of one of these.
        OSError: the folder can't be written.
    """

    def __init__(self, folder, sources, overwrite=False):
        self.folder, self.ids = Path(folder), {}  # of those added, in their order
        self._images, self._annotations = self.folder / "JPEGImages", self.folder / "Annotations"
        _check_room(self.folder, _files_by_stem(self._images), _files_by_stem(self._annotations), sources, overwrite)
        for path in (self._images, self._annotations):
            path.mkdir(parents=True, exist_ok=True)

    def add_picture(self, path, name, img, bbox, names):
        """A picture file, the img (3, H, W) that was read of it, and its R boxes with their class names."""
        target = self._images / _picture_name(path, self._free(name))
        if target.suffix != path.suffix:
            with whole_file(target, durable=False) as partial:
                Image.fromarray(_to_hwc(img)).save(partial, "PNG")
        elif not _same(target, path):
            with whole_file(target, durable=False) as partial:
                _link(path.resolve(), partial)
        self._annotate(target, img.shape[1:], bbox, names)

    def add_frame(self, name, index, img, bbox, names):
        """Frame `index` of the video `name`: img (3, H, W), 0..255, and its R boxes with their class names."""
        target = self._images / f"{self._free(f'{name}_{index:06}')}.jpg"
        write_jpeg(target, _to_hwc(img))
        self._annotate(target, img.shape[1:], bbox, names)

    def close(self):
        """Write the list, unless nothing was added."""
        if self.ids:
            with whole_file(self.folder / "ImageSets" / "Main" / f"{SPLIT}.txt") as partial:
                partial.write_text("".join(f"{name}\n" for name in self.ids), "utf-8")

    def _free(self, name):
        """`name`, made another where a picture is called as a video's frame is."""
        while name in self.ids:
            name += "_"
        return name

    def _annotate(self, picture, size, bbox, names):
        with whole_file(self._annotations / f"{picture.stem}.xml", durable=False) as partial:
            partial.write_bytes(voc_annotation(picture, size, bbox, names))
        self.ids[picture.stem] = None


def voc_id(name) -> str:
    """A file's stem as an id that VOC's lists can hold, one a line."""
    return _UNWRITABLE.sub("_", name).strip() or "_"


def _picture_name(path, name):
    return name + (path.suffix if path.suffix.lower() in IMAGE_SUFFIXES else ".png")


def _to_hwc(img):
    return np.ascontiguousarray(img.transpose(1, 2, 0)).astype(np.uint8)


def _files_by_stem(folder):
    """stem → names of the files with it."""
    files = defaultdict(list)
    for name in os.listdir(folder) if folder.is_dir() else ():
        files[os.path.splitext(name)[0]].append(name)
    return files


def _check_room(folder, images, annotations, sources, overwrite):
    """Raises the UserError of `VOCWriter`; `images` and `annotations` are what lies there, by stem."""
    for path, name, video in sources:
        former = annotations.get(name, [])
        if video:
            pattern = re.compile(re.escape(name) + r"_\d{6,}_*")
            former = [
                file for there in (annotations, images) for k in there if pattern.fullmatch(k) for file in there[k]
            ]
        if former and not overwrite:
            raise UserError(
                f"--out={folder}: has {former[0]} of a former run, perhaps corrected by hand; choose another folder, "
                "or allow to replace it with --overwrite"
            )
        for file in images.get(name, []):  # of any kind, since a reader might take it for the one annotated
            converted = file == _picture_name(path, name) != name + path.suffix  # by a former run
            if not video and not (converted and overwrite) and not _same(folder / "JPEGImages" / file, path):
                raise UserError(f"--out={folder}: JPEGImages/{file} is another picture; choose another folder")


def _same(a, b):
    """Whether both are there and are one file, or two of the same content."""
    try:
        return os.path.samefile(a, b) or filecmp.cmp(a, b, shallow=False)
    except OSError:
        return False


def _link(source, target):
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
