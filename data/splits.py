"""The sets of a run: which pictures to learn from, which to be judged by, and of which classes."""

import os
import sys
from collections import Counter
from contextlib import nullcontext

from data import coco_dataset, voc_dataset
from data.bbox_dataset import BboxDataset, CheckpointNames, UnionDataset, report_problems
from utils.detections import read_detections
from utils.errors import UserError
from utils.index_tool import FileIndex
from utils.label_names import VOC_BBOX_LABEL_NAMES
from utils.terminal_tool import say, tell, warn
from utils.word_tool import counted, few

READERS = {  # --data → its dataset, and the module that has `find_label_names` and `has_split`
    "voc": (voc_dataset.VOCBboxDataset, voc_dataset),
    "coco": (coco_dataset.COCOBboxDataset, coco_dataset),
}


def sources(data_dir: str, split: str) -> list[tuple[str, str]]:
    """(folder, split) of each part of a union: 'A,B' with the splits 'x,y', or with one split for both.

    The split '-' leaves its folder out: VOC 2007 and 2012 are both learned from, and 2007 alone has a test set.

    Raises:
        UserError: another number of splits than of folders, no folder is left, or one is there twice.
    """
    folders = [data_dir] if os.path.isdir(data_dir) else [part.strip() for part in data_dir.split(",") if part.strip()]
    splits = [part.strip() for part in split.split(",")]
    if len(splits) == 1:
        # A,A may have two splits to learn from, and has one to be judged by
        folders = list({os.path.realpath(own): own for own in folders}.values())
        splits *= len(folders)
    if len(splits) != len(folders):
        raise UserError(
            f"{split}: {counted(len(splits), 'split')} for {counted(len(folders), 'folder')} ({data_dir}); "
            "name one split, or one for each"
        )
    parts = [(folder, own) for folder, own in zip(folders, splits, strict=True) if own != "-"]
    counts = Counter((os.path.realpath(folder), own) for folder, own in parts)
    twice = next((part for part in parts if counts[os.path.realpath(part[0]), part[1]] > 1), None)
    if twice:
        raise UserError(f"{twice[0]} with the split {twice[1]} is there twice; name each part of a union once")
    if not parts:
        raise UserError(f"{split}: leaves out every folder of {data_dir}; name a split for one of them")
    return parts


def open_split(
    kind,
    data_dir,
    split,
    label_names=None,
    use_difficult=False,
    as_written=None,
    *,
    of_checkpoint=True,
    **reading,
) -> BboxDataset:
    """The dataset of a split, or of a union's.

    Args:
        kind: a key of READERS.
        data_dir, split: see `sources`.
        label_names, use_difficult, as_written: see `VOCBboxDataset`; without names those of all parts are taken.
        of_checkpoint: the names are a checkpoint's, as is told where the data have a class that is not among them;
            False: the user's, or the data's own.
        reading: `pictures`, `strict` and `index`, see `VOCBboxDataset`; without an index the folder's own is used.
    """
    dataset, _ = READERS[kind]
    parts = sources(data_dir, split)
    with nullcontext(reading["index"]) if "index" in reading else FileIndex.of(data_dir) as index:
        reading = reading | {"index": index}
        if label_names is None and len(parts) > 1:
            label_names = find_label_names(kind, data_dir, [split], **reading)
        elif label_names is not None and of_checkpoint:
            label_names = CheckpointNames(label_names)
        parts = [dataset(*part, label_names, use_difficult, as_written=as_written, **reading) for part in parts]
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
    all_of_voc = kind == "voc" and names and set(names) <= set(VOC_BBOX_LABEL_NAMES)
    return VOC_BBOX_LABEL_NAMES if all_of_voc else tuple(sorted(names))


def training_sets(kind, data_dir, train_split, val_split, label_names=None, known=None, needs_val=False, strict=True):
    """The training set, and the validation set or None where it is not there.

    What their files say is kept in a `FileIndex`, so that the next run starts sooner.

    Args:
        label_names: the classes; None finds them in the annotations.
        known: function of these names that returns those of a checkpoint to go on from, or refuses; None for none.
        needs_val: a missing validation set is an error.
        strict: refuse what can't be read; else it is left out and named in `faults`, and the boxes of both sets are
            those of training, with the difficult ones.
    """
    has_split = READERS[kind][1].has_split
    has_val = needs_val or all(has_split(*source) for source in sources(data_dir, val_split))
    splits = [train_split, val_split] if has_val else [train_split]
    as_written = None if strict else False
    with FileIndex.of(data_dir) as index:
        reading = {"strict": strict, "index": index}
        names = find_label_names(kind, data_dir, splits, **reading) if label_names is None else label_names
        names = names if known is None else known(names)
        reading["of_checkpoint"] = known is not None
        if not names and strict:
            raise UserError(f"{data_dir}: no object in the annotations of {' and '.join(splits)}; name the classes")
        train_db = open_split(kind, data_dir, train_split, names, not strict, as_written, **reading)
        if strict and names and not train_db.n_learned:
            raise UserError(
                f"{data_dir}: {train_split} has no box to learn from, only difficult ones at most; add some"
            )
        val_db = open_split(kind, data_dir, val_split, names, True, as_written, **reading) if has_val else None
    return train_db, val_db


def report(db):
    """Print what a dataset has, and what is wrong with it."""
    tell(db.summary())
    if db.problems:
        say(f"{report_problems(db.problems)}\n  python train.py check names each", file=sys.stderr)


def report_both(train_db, val_db, val_split, data_dir):
    """`report` of a training set and of its validation set or None."""
    report(train_db)
    if val_db is None:
        there = few(train_db.splits_there())
        what = f"no split {val_split} in {data_dir} (there: {there})"
        tell(f"{what}: the run goes on without validation, and keeps last.pth alone")
        return
    report(val_db)


def open_scored(kind, data_dir, split, path, label_names=None, max_images=None):
    """The dataset of a split, whose pictures need not be there, and the `Detections` for it in the file `path`.

    Args:
        kind, data_dir, split, label_names: see `open_split`; None takes the names in the annotations.
        path: see `read_detections`.
        max_images: detections of so many images at most.
    """
    db = open_split(kind, data_dir, split, label_names, use_difficult=True, of_checkpoint=False, pictures=False)
    report(db)
    found, n_left_out = read_detections(path, db.names, split)
    if found.by_number and kind == "coco":
        raise UserError(f"{path}: has categories without category_name whose number no file of {split} says; name them")
    if found.by_number:
        numbers = ", ".join(f"{own_id} {name}" for name, own_id in db.names.category_ids.items())
        tell(f"{path}: its categories are taken as {numbers}; --label-names=a,b,c says others")
    if n_left_out:
        left_out = f"{counted(n_left_out, 'detection')} {'is' if n_left_out == 1 else 'are'}"
        warn(f"{left_out} of images or classes that {db.split} has not: left out")
    return db, found.of_first(max_images)
