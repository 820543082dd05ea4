"""The sets of a training run: which pictures to learn from, which to be judged by, and of which classes."""

import sys
from pathlib import Path

from data.voc_dataset import VOCBboxDataset, find_label_names, report_problems
from utils.cli_tool import say
from utils.errors import UserError


def training_sets(data_dir, train_split, val_split, label_names=None, known=None, needs_val=False):
    """The training set, and the validation set or None where its list is not there.

    Args:
        label_names: the classes; None finds them in the annotations.
        known: function of these names that returns those of a checkpoint to go on from, or refuses; None for none.
        needs_val: a missing list of the validation set is an error.
    """
    val_list = Path(data_dir, "ImageSets", "Main", f"{val_split}.txt")
    splits = [train_split, val_split] if val_list.exists() or needs_val else [train_split]
    names = find_label_names(data_dir, splits) if label_names is None else label_names
    names = names if known is None else known(names)
    if not names:
        raise UserError(f"{data_dir}: no object in the annotations of {' and '.join(splits)}; name the classes")
    train_db = VOCBboxDataset(data_dir, train_split, names)
    report(train_db)
    if len(splits) == 1:
        say(f"no {val_list}: the run goes on without validation, and keeps last.pth alone")
        return train_db, None
    val_db = VOCBboxDataset(data_dir, val_split, names, use_difficult=True)
    report(val_db)
    n_both = len(set(train_db.ids) & set(val_db.ids))
    if n_both:
        splits = f"{train_split} and {val_split}"
        say(f"warning: {n_both} images are in both {splits}: the mAP is flattered; choose others", file=sys.stderr)
    return train_db, val_db


def report(db):
    """Print what a dataset has, and what is wrong with it."""
    say(db.summary())
    if db.problems:
        say(report_problems(db.problems), file=sys.stderr)
