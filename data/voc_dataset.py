"""Pictures and boxes from a folder in VOC layout: JPEGImages/, Annotations/, ImageSets/Main/.

Letters: R boxes of one picture, (H, W) its height and width.
"""

import glob
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
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
from data.voc_xml import CORNERS, VOCObject, read_annotation, read_bytes
from utils.errors import UserError
from utils.file_tool import text_lines
from utils.index_tool import MANY, FileIndex
from utils.label_names import VOC_BBOX_LABEL_NAMES
from utils.progress_tool import progress_bar
from utils.word_tool import few

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")  # in any case; the earlier one wins where two share an id
_CLASS_COLUMN = re.compile(r"(.*\S)\s+(?:-1|0|1)")  # VOC's lists of one class say `000012 -1`


class _Annotation(NamedTuple):
    path: str
    size: tuple[int, int] | None
    objects: list[VOCObject]


class VOCBboxDataset(BboxDataset):
    """The annotated pictures of one split of a VOC folder; see `BboxDataset` for what it offers.

    The files say 1-based, inclusive corners (the VOC 2007 development kit, section 5): the boxes are these − 1.

    Args:
        data_dir: the folder that holds JPEGImages, Annotations and ImageSets.
        split: the list ImageSets/Main/<split>.txt.
        label_names: the classes in label order; None takes those of this split (see `find_label_names`).
        use_difficult: keep objects marked difficult (evaluation); without it they are left out (training).
        pictures: False does not look at the pictures, which need not be there: enough to score detections.
        strict: False leaves out what can't be read, and says so in `faults`.
        as_written: boxes as the file has them, see `BboxDataset`; None: if `use_difficult`.
        index: see `FileIndex`.

    Attributes:
        data_dir (str): as given.
        ids (list[str]): the ids of the split, each once, in the list's order.
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
        *,
        pictures: bool = True,
        strict: bool = True,
        as_written: bool | None = None,
        index: FileIndex | None = None,
    ):
        as_written = use_difficult if as_written is None else as_written
        self.data_dir = data_dir = os.fspath(data_dir)
        index = index or FileIndex()
        files = _index_files(data_dir, pictures)
        listed, problems = _read_ids(data_dir, split, files)
        paths, faults = _picture_paths(data_dir, split, files, listed, pictures)
        annotations, own_faults = _read_annotations(data_dir, paths, index)
        faults += own_faults
        label_names = _names_in(annotations.values()) if label_names is None else check_names(label_names)
        if pictures:
            problems += _shared_ids(files, paths)
            look_at_pictures([paths[image_id] for image_id in annotations], index)
        ids, found, truths = [], [], []
        for image_id, annotation in annotations.items():
            with noting(faults):
                path, annotated_size = paths[image_id], annotation.size
                picture = find_picture(path, annotated_size, index) if pictures else Picture(None, annotated_size)
                truth, own_problems = _to_truth(annotation, picture.size, label_names, as_written)
                ids.append(image_id)
                found.append(picture)
                truths.append(truth)
                problems += own_problems
        if strict:
            refuse(faults)
        super().__init__(split, use_difficult, label_names, ids, found, truths, problems, faults)

    def splits_there(self) -> list[str]:
        return _splits_there(self.data_dir)


def find_label_names(
    data_dir: str | os.PathLike,
    splits: Iterable[str],
    *,
    pictures: bool = True,
    strict: bool = True,
    index: FileIndex | None = None,
) -> tuple[str, ...]:
    """The classes that the annotations of these splits name, so that one that only `val` has is known too.

    All of VOC's twenty in their order where every name is one of them (labels and checkpoints then mean the same in
    any part of VOC), else the names found, sorted; () where no file has an object. Arguments as of `VOCBboxDataset`.

    Raises:
        UserError: as `VOCBboxDataset`, pictures aside.
    """
    data_dir = os.fspath(data_dir)
    files, ids, faults = _index_files(data_dir, pictures), {}, []
    for split in splits:
        paths, own_faults = _picture_paths(data_dir, split, files, _read_ids(data_dir, split, files)[0], pictures)
        ids |= paths
        faults += own_faults
    annotations, own_faults = _read_annotations(data_dir, ids, index or FileIndex())
    faults += own_faults
    if strict:
        refuse(faults)
    return _names_in(annotations.values())


# Classes


def _names_in(annotations: Iterable[_Annotation]) -> tuple[str, ...]:
    found = {obj.name for annotation in annotations for obj in annotation.objects}
    return VOC_BBOX_LABEL_NAMES if found and found <= set(VOC_BBOX_LABEL_NAMES) else tuple(sorted(found))


def has_split(data_dir: str | os.PathLike, split: str) -> bool:
    """Whether there is a list of the split."""
    return os.path.exists(_list_path(os.fspath(data_dir), split))


# Lists and pictures


def _folder(data_dir: str, *parts: str) -> str:
    """The folder under `data_dir`, which must be there."""
    folder = os.path.join(data_dir, *parts)
    if os.path.isdir(folder):
        return folder
    hint = _folder_meant(data_dir, parts[0])
    hint = f"; did you mean {hint}?" if hint else ""
    raise UserError(f"{folder}: no such folder; give the folder that has Annotations, ImageSets and JPEGImages{hint}")


def _folder_meant(data_dir: str, part: str) -> str | None:
    """The folder that has `part`, near `data_dir`: most first runs name VOCdevkit, or VOC2007/JPEGImages."""
    inner = glob.glob(os.path.join(glob.escape(data_dir), "*", part))
    above = [os.path.join(folder, part) for folder in list(Path(data_dir).parents)[:2]]  # ImageSets/Main is two deep
    found = [*sorted(inner), *filter(os.path.isdir, above)]
    return os.path.dirname(found[0]) or "." if found else None


def _index_files(data_dir: str, pictures: bool) -> dict[str, list[str]]:
    """id → its files' names in JPEGImages, or in Annotations, the one that is read in front.

    One listing in place of a stat for each id and suffix.
    """
    folder, suffixes = ("JPEGImages", _SUFFIXES) if pictures else ("Annotations", (".xml",))
    with os.scandir(_folder(data_dir, folder)) as entries:
        names = sorted((entry.name for entry in entries), reverse=True)
    index: dict[str, list[str]] = {}
    for suffix in suffixes:
        for name in names:
            if name.lower().endswith(suffix):
                index.setdefault(name[: -len(suffix)], []).append(name)
    return index


def _files_of(files: dict[str, list[str]], image_id: str) -> list[str]:
    """Those of an id; macOS writes é as two characters, and a list from elsewhere may have one."""
    return next((files[form] for form in (image_id, *_forms(image_id)) if form in files), [])


def _forms(image_id: str):
    return (unicodedata.normalize(form, image_id) for form in ("NFC", "NFD"))


def _list_path(data_dir: str, split: str) -> str:
    return os.path.join(data_dir, "ImageSets", "Main", f"{split}.txt")


def _read_ids(data_dir: str, split: str, files: dict[str, list[str]]) -> tuple[list[str], list[Problem]]:
    """The ids of a list, each once, and a problem for each repetition."""
    path = _list_path(data_dir, split)
    ids: dict[str, None] = {}
    problems = []
    for _, line in text_lines(_read_list(data_dir, split)):
        column = _CLASS_COLUMN.fullmatch(line)
        image_id = column[1] if column and line not in files else line  # a picture may be called 'photo 1'
        if image_id in ids:
            problems.append(Problem(path, f"id listed again: {image_id!r} is used once"))
        ids[image_id] = None
    if not ids:
        raise UserError(f"{path}: the list is empty; write one image id a line, without folder or suffix")
    return list(ids), problems


def _splits_there(data_dir: str) -> list[str]:
    folder = os.path.join(data_dir, "ImageSets", "Main")
    there = sorted(name[:-4] for name in os.listdir(folder) if name.endswith(".txt")) if os.path.isdir(folder) else []
    # `aeroplane_train` and its sixty sisters would bury the few that are meant
    return [name for name in there if "_" not in name or name.split("_")[0] not in VOC_BBOX_LABEL_NAMES] or there


def _read_list(data_dir: str, split: str) -> str:
    path = _list_path(data_dir, split)
    try:
        raw = read_bytes(path)
        utf16 = raw.startswith((b"\xff\xfe", b"\xfe\xff"))  # what PowerShell's > writes
        return raw.decode("utf-16" if utf16 else "utf-8-sig")
    except FileNotFoundError:
        there, meant = _splits_there(data_dir), os.path.splitext(os.path.basename(split))[0]
        if not there:
            what = f"there are no lists (*.txt); write {split}.txt there, an image name a line"
            raise UserError(f"{os.path.dirname(path)}: {what}") from None
        hint = f"did you mean {meant!r}?" if meant in there else f"the splits there are: {few(there, 10)}"
        raise UserError(f"{path}: no such list; {hint}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: the list is not UTF-8 text; save it as UTF-8") from None


def _shared_ids(files: dict[str, list[str]], paths: dict[str, str]) -> list[Problem]:
    """A problem for each id that several pictures share: which of them is meant?"""
    problems = []
    for image_id, path in paths.items():
        others = _files_of(files, image_id)[1:]
        if others:
            what = f"picture of the same id: {', '.join(others)} is not read; give each an id of its own"
            problems.append(Problem(path, what))
    return problems


def _picture_paths(data_dir: str, split: str, files: dict[str, list[str]], ids: Sequence[str], pictures: bool):
    """id → path, None without `pictures`, of those that are there, and a line for each of the others."""
    paths, faults, suffixed = {}, [], []
    for image_id in ids:
        if pictures and not _files_of(files, image_id) and os.path.splitext(image_id)[0] in files:
            suffixed.append(image_id)
            continue
        with noting(faults):
            paths[image_id] = _picture_path(data_dir, split, files, image_id) if pictures else None
    if suffixed:  # once: who writes one so writes all so
        have = f"and {len(suffixed) - 1:,} more like it have" if len(suffixed) > 1 else "has"
        advice = f"leave it out, as in {os.path.splitext(suffixed[0])[0]!r}"
        faults.insert(0, f"{_list_path(data_dir, split)}: id {suffixed[0]!r} {have} a suffix; {advice}")
    return paths, faults


def _picture_path(data_dir: str, split: str, pictures: dict[str, list[str]], image_id: str) -> str:
    folder = os.path.join(data_dir, "JPEGImages")
    names = _files_of(pictures, image_id)
    if names:
        return os.path.join(folder, names[0])
    there = f"{os.path.join(folder, image_id)} with {', '.join(_SUFFIXES)}"
    raise UserError(f"{_list_path(data_dir, split)}: id {image_id!r} has no picture ({there}); "
                    "add the picture or take the id out of the list")  # fmt: skip


# Annotations


def _read_annotations(data_dir: str, ids: Collection[str], index: FileIndex):
    """id → `_Annotation`, and a line for each that can't be read."""
    folder, annotations, faults = _folder(data_dir, "Annotations"), {}, []
    files = _index_files(data_dir, pictures=False)
    for image_id in progress_bar(ids, desc="annotations", unit="file", disable=len(ids) <= MANY):
        names = _files_of(files, image_id)
        path = os.path.join(folder, names[0] if names else f"{image_id}.xml")
        with noting(faults):
            if not names:
                raise UserError(f"{path}: the annotation is missing; add it or take the id out of the list")
            size, objects = index.get("voc", path, read_annotation)
            annotations[image_id] = _Annotation(path, size and tuple(size), [VOCObject(*row) for row in objects])
    return annotations, faults


def _to_truth(annotation: _Annotation, size: tuple[int, int] | None, label_names: tuple[str, ...], as_written: bool):
    """`GroundTruth` of a file's usable objects in a picture of `size` (H, W), and the problems with the others.

    The size is the picture's own: what the XML says may be missing, zero or another picture's.
    """
    path, annotated_size, objects = annotation
    label = np.array([label_of(path, obj.name, label_names) for obj in objects], np.int32)
    difficult = np.array([obj.difficult for obj in objects], bool)
    corners = np.array([obj.corners for obj in objects], np.float64).reshape(-1, 4)
    bbox, usable, own = usable_boxes(path, corners - 1, size, lambda r: _describe(objects[r]), as_written)
    return GroundTruth(bbox, label, difficult).rows(usable), size_problems(path, annotated_size, size) + own


def _describe(obj: VOCObject) -> str:
    corners = ", ".join(f"{tag} {value:g}" for tag, value in zip(CORNERS, obj.corners, strict=True))
    return f"{obj.name} ({corners})"
