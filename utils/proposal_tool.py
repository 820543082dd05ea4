"""Proposals in a file: written by `train.py propose`, read for Fast R-CNN, and how many of the true boxes they find.

The file is numpy's npz: for each image the arrays `bbox/ID`, (P, 4) float32, (y_min, x_min, y_max, x_max) in pixels of
the picture, best first, and `score/ID`, (P,) float32.

Letters: P proposals and R boxes of one image.
"""

import numpy as np
import torch

from utils.bbox_tools import bbox_iou
from utils.errors import UserError
from utils.file_tool import whole_file
from utils.safe_read import opened_npz

COUNTS = (50, 100, 300, 1000, 2000)  # proposals an image, best first
IOUS = (0.5, 0.6, 0.7, 0.8, 0.9)


def write_proposals(path, ids, proposals):
    """Write (bbox, score) of each image of `ids` to `path`, whole or not at all."""
    arrays = {}
    for image_id, (bbox, score) in zip(ids, proposals, strict=True):
        arrays[f"bbox/{image_id}"], arrays[f"score/{image_id}"] = bbox, score
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror or error}); choose another file") from None


def read_proposals(paths, ids):
    """The (P, 4) boxes of each image of `ids`, a list, from the files `paths`.

    Raises:
        UserError: a file that can't be read, an image that is in none of them, or something else than boxes.
    """
    found = {}
    for path in paths:
        try:
            with opened_npz(path) as arrays:
                found |= {name: (path, arrays[name]) for i in ids if (name := f"bbox/{i}") in arrays}
        except UserError:
            raise
        except FileNotFoundError:
            raise UserError(f"--proposals={path}: no such file; write one with python train.py propose") from None
        except Exception:  # numpy answers damaged files with whatever breaks first
            raise UserError(
                f"--proposals={path}: not a file of proposals; write one with python train.py propose"
            ) from None
    missing = [i for i in ids if f"bbox/{i}" not in found]
    if missing:
        files = ",".join(map(str, paths))
        raise UserError(
            f"--proposals={files}: has none for {missing[0]} and {len(missing) - 1} more; add a file of this split"
        )
    for path, bbox in found.values():
        # what is no array in such a file comes as bytes
        if (
            not isinstance(bbox, np.ndarray)
            or bbox.ndim != 2
            or bbox.shape[1] != 4
            or bbox.dtype.kind != "f"
            or not np.isfinite(bbox).all()
        ):
            raise UserError(
                f"--proposals={path}: its boxes are not (P, 4) finite floats; write one with python train.py propose"
            )
    return [np.ascontiguousarray(found[f"bbox/{i}"][1], np.float32) for i in ids]


def recall_table(proposals, truths):
    """How many of the true boxes some proposal finds.

    Args:
        proposals: (P, 4) of each image, best first; truths: (R, 4) of each.

    Returns:
        (COUNTS, IOUS) float64: the share of the boxes that one of the image's first n proposals meets at an IoU of at
        least t; NaN without boxes.
    """
    best = [[] for _ in COUNTS]  # of each true box, its best IoU with the first n
    for roi, bbox in zip(proposals, truths, strict=True):
        iou = bbox_iou(torch.from_numpy(roi), torch.from_numpy(bbox))  # (P, R)
        for own, n in zip(best, COUNTS, strict=True):
            own.append(iou[:n].amax(dim=0).numpy() if len(roi) else np.zeros(len(bbox)))
    best = np.array([np.concatenate(own) if own else [] for own in best])  # (COUNTS, boxes)
    # as float32 has it: a proposal at exactly 0.7 counts
    return np.array([[(own >= np.float32(t)).mean() if len(own) else np.nan for t in IOUS] for own in best])


def show_recall(recall):
    """Lines of text for `recall_table`'s numbers."""
    lines = ["proposals" + "".join(f"  IoU {t:.1f}" for t in IOUS)]
    lines += [f"{n:>9}" + "".join(f"  {value:>7.3f}" for value in row) for n, row in zip(COUNTS, recall, strict=True)]
    return "\n".join(lines)
