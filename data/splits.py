"""The sets of a run: which pictures to learn from, which to be judged by, and of which classes."""

import os
import sys

from data import coco_dataset, voc_dataset
from data.bbox_dataset import BboxDataset, UnionDataset, report_problems
from utils.cli_tool import say
from utils.detections import Detections, read_detections
from utils.errors import UserError
from utils.index_tool import FileIndex
from utils.label_names import VOC_BBOX_LABEL_NAMES

READERS = {  # --data → its dataset, and the module that has `find_label_names` and `has_split`
    "voc": (voc_dataset.VOCBboxDataset, voc_dataset),
    "coco": (coco_dataset.COCOBboxDataset, coco_dataset),
}


def sources(data_dir: str, split: str) -> list[tuple[str, str]]:
    """(folder, split) of each part of a union: 'A,B' with the splits 'x,y', or with one split for both.

    The split '-' leaves its folder out: VOC 2007 and 2012 are both learned from, and 2007 alone has a test set.

    Raises:
        UserError: another number of splits than of folders, or no folder is left.
    """
    folders = [data_dir] if os.path.isdir(data_dir) else [part.strip() for part in data_dir.split(",")]
    splits = [part.strip() for part in split.split(",")]
    if len(splits) == 1:
        splits *= len(folders)
    if len(splits) != len(folders):
        raise UserError(
            f"{split}: {len(splits)} splits for {len(folders)} folders ({data_dir}); name one split, or one for each"
        )
    parts = [(folder, own) for folder, own in zip(folders, splits, strict=True) if own != "-"]
    if not parts:
        raise UserError(f"{split}: leaves out every folder of {data_dir}; name a split for one of them")
    return parts


def open_split(kind, data_dir, split, label_names=None, use_difficult=False, **reading) -> BboxDataset:
    """The dataset of a split, or of a union's.

    Args:
        kind: a key of READERS.
        data_dir, split: see `sources`.
        label_names, use_difficult: see `BboxDataset`; None takes the names of all parts.
        reading: `pictures`, `strict` and `index`, see `VOCBboxDataset`.
    """
    dataset, _ = READERS[kind]
    parts = sources(data_dir, split)
    if label_names is None and len(parts) > 1:
        label_names = find_label_names(kind, data_dir, [split], **reading)
    parts = [dataset(folder, own, label_names, use_difficult, **reading) for folder, own in parts]
    return parts[0] if len(parts) == 1 else UnionDataset(parts)


def find_label_names(kind, data_dir, splits, **reading):
    """The classes of all these splits; VOC's in their own order if they are all VOC's. `reading` as of `open_split`."""
    of_folder = {}  # folder → its splits
    for split in splits:
        for folder, own in sources(data_dir, split):
            of_folder.setdefault(folder, []).append(own)
    found = [READERS[kind][1].find_label_names(folder, own, **reading) for folder, own in of_folder.items()]
    names = tuple(dict.fromkeys(name for own in found for name in own))
    if len(found) == 1 or names == found[0]:
        return names
    return VOC_BBOX_LABEL_NAMES if names and set(names) <= set(VOC_BBOX_LABEL_NAMES) else tuple(sorted(names))


def training_sets(kind, data_dir, train_split, val_split, label_names=None, known=None, needs_val=False,
                  use_difficult=False, strict=True):  # fmt: skip
    """The training set, and the validation set or None where it is not there.

    What their files say is kept in a `FileIndex`, so that the next run starts sooner.

    Args:
        label_names: the classes; None finds them in the annotations.
        known: function of these names that returns those of a checkpoint to go on from, or refuses; None for none.
        needs_val: a missing validation set is an error.
        use_difficult: keep difficult boxes in the training set too.
        strict: see `VOCBboxDataset`.
    """
    has_split = READERS[kind][1].has_split
    has_val = needs_val or all(has_split(*source) for source in sources(data_dir, val_split))
    splits = [train_split, val_split] if has_val else [train_split]
    reading = {"strict": strict, "index": FileIndex.of(data_dir)}
    try:
        names = find_label_names(kind, data_dir, splits, **reading) if label_names is None else label_names
        names = names if known is None else known(names)
        if not names:
            raise UserError(f"{data_dir}: no object in the annotations of {' and '.join(splits)}; name the classes")
        train_db = open_split(kind, data_dir, train_split, names, use_difficult, **reading)
        val_db = open_split(kind, data_dir, val_split, names, use_difficult=True, **reading) if has_val else None
    finally:
        reading["index"].save()
    return train_db, val_db


def report(db):
    """Print what a dataset has, and what is wrong with it."""
    say(db.summary())
    if db.problems:
        say(report_problems(db.problems), file=sys.stderr)


def report_both(train_db, val_db, val_split, data_dir):
    """`report` of a training set and its validation set or None, and what is wrong between them."""
    report(train_db)
    if val_db is None:
        say(f"no split {val_split} in {data_dir}: the run goes on without validation, and keeps last.pth alone")
        return
    report(val_db)
    n_both = len(in_both(train_db, val_db))
    if n_both:
        splits = f"{train_db.split} and {val_db.split}"
        say(f"warning: {n_both} images are in both {splits}: the mAP is flattered; choose others", file=sys.stderr)


def in_both(train_db, val_db):
    """The pictures that are in both sets."""
    return {train_db.path(i) for i in range(len(train_db))} & {val_db.path(i) for i in range(len(val_db))}


def open_scored(kind, data_dir, split, path, label_names=None, max_images=None):
    """The dataset of a split, whose pictures need not be there, and the `Detections` for it in the file `path`.

    Args:
        kind, data_dir, split, label_names: see `open_split`; None takes the names in the annotations.
        path: see `read_detections`.
        max_images: detections of so many images at most.
    """
    label_names = label_names or find_label_names(kind, data_dir, [split], pictures=False)
    db = open_split(kind, data_dir, split, label_names, use_difficult=True, pictures=False)
    report(db)
    found, n_left_out = read_detections(path, db.names)
    if n_left_out:
        say(f"warning: {n_left_out:,} detections are of images that are not in {db.split}: left out", file=sys.stderr)
    return db, Detections(*(column[:max_images] for column in found))
