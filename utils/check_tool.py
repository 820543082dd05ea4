"""What a data set holds, and what training would make of it: `train.py check`.

Letters: R boxes, L classes.
"""

import re
from collections import Counter, defaultdict
from functools import cache
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from utils.bbox_tools import pixel_edges, resize_bbox
from utils.errors import UserError
from utils.image_tool import resized_size
from utils.terminal_tool import say, tell, warn
from utils.word_tool import counted, few

_CHUNK = 50_000  # boxes that are compared with their anchors at a time
COVERED = (0.5, 0.7)  # IoU: what a detection is judged by in VOC, and what makes any anchor a positive one


_COLUMNS_MEAN = (
    "√area: the side of a square as large as a box, the least · median · largest, in pixels of the pictures; "
    "IoU: the share of the boxes to learn that some anchor meets so well"
)
LARGER, SMALLER, SHAPE, PLACE = range(4)  # why no anchor meets a box
_ADVICE = (
    "they are larger than the anchors; a smaller --min-size or larger --anchor-scales may help",
    "they are smaller than the anchors; a larger --min-size or smaller --anchor-scales may help",
    "no anchor has their shape; other --anchor-ratios, or --anchor-scales in between, may help",
    "the anchors of their shape stand elsewhere; a larger --allowed-border or --min-size may help",
)


class BestAnchors(NamedTuple):
    """What the anchors make of R boxes, at the size that they have in training."""

    iou: np.ndarray  # (R,) float64, 0..1: with the anchor that covers it best
    why: np.ndarray  # (R,) int64: LARGER … PLACE, of a box that none meets


def best_anchor_ious(model, db):
    """`BestAnchors` of the boxes of `db` that are not difficult.

    Boxes are compared in the prepared pictures, with the anchors that take part in training (see
    `RegionProposalNetwork.best_iou`); a picture that is drawn at another size each time, at `model.min_size`.
    """
    min_size, max_size, _, rule = model.preparation
    bboxes, sizes = [np.empty((0, 4), np.float32)], []
    for i in range(len(db)):
        bbox, _, difficult = db.get_annotation(i)
        size = resized_size(db.size(i), min_size, max_size, rule)
        bboxes.append(resize_bbox(bbox[~difficult], db.size(i), size))
        sizes += [size] * len(bboxes[-1])
    bbox = torch.from_numpy(np.concatenate(bboxes))
    base = pixel_edges(model.rpn.make_anchor_base().flatten(0, 1), model.rpn.convention.plus_one)
    anchor = (base[:, 2:] - base[:, :2]).numpy()
    iou, why = [np.empty(0)], [np.empty(0, np.int64)]
    for k in range(0, len(bbox), _CHUNK):
        part = bbox[k : k + _CHUNK]
        iou.append(model.rpn.best_iou(part, sizes[k : k + _CHUNK], model.allowed_border).numpy())
        why.append(_why_unmet((part[:, 2:] - part[:, :2]).numpy(), anchor))
    return BestAnchors(np.concatenate(iou), np.concatenate(why))


def _why_unmet(box, anchor):
    """(R,) LARGER … PLACE: what keeps anchors of the sides `anchor` (A, 2) from boxes of the sides `box` (R, 2)."""
    inter = np.minimum(box[:, None], anchor).prod(axis=-1)  # as if each anchor stood on each box
    area, anchor_area = box.prod(axis=1), anchor.prod(axis=1)
    iou = (inter / (area[:, None] + anchor_area - inter)).max(axis=1)
    kinds = [area > anchor_area.max(), area < anchor_area.min(), iou < COVERED[0]]
    return np.select(kinds, [LARGER, SMALLER, SHAPE], PLACE)


def anchor_line(best):
    """One line: which share of the boxes some anchor covers. `best` is what `best_anchor_ious` gives."""
    shares = " and ".join(f"{_percent(best.iou >= iou)} of the boxes at IoU {iou}" for iou in COVERED)
    return f"anchors: some anchor covers {shares}"


def data_table(db, best):
    """What `db`, opened with its difficult boxes, has: a few lines on its pictures, and a row for each class.

    Of a class: pictures it is in, boxes, difficult ones among them, the sides of its boxes (√area in pixels of the
    picture: the smallest, the median, the largest), and the share of those to be learned that some anchor covers.
    `best` is what `best_anchor_ious` gives.
    """
    label, difficult, image, bbox = _columns(db)
    iou = np.full(len(label), np.nan)
    iou[~difficult] = best.iou
    side = np.sqrt((bbox[:, 2:] - bbox[:, :2]).prod(axis=1))
    header = ("class", "images", "boxes", "difficult", "√area px", *(f"IoU ≥ {iou}" for iou in COVERED))
    rows = [header]
    for name, mask in [*((name, label == k) for k, name in enumerate(db.label_names)), ("all", label >= 0)]:
        sides = side[mask]
        shown = f"{sides.min():.0f} · {np.median(sides):.0f} · {sides.max():.0f}" if len(sides) else "-"
        counts = (len(np.unique(image[mask])), mask.sum(), difficult[mask].sum())
        learned = iou[mask & ~difficult]
        rows.append((name, *(f"{n:,}" for n in counts), shown, *(_percent(learned >= least) for least in COVERED)))
    lines = [f"{db.split}: {counted(len(db), 'image')}, {_sizes(db)}; {_empty(db):,} without a box"]
    return "\n".join(lines + _aligned(rows))


def tell_anchors(model, train_db, val_db):
    """Say, before a run, what its anchors cover, and warn of what `notices` has."""
    best = best_anchor_ious(model, train_db)
    tell(anchor_line(best))
    for line in notices(train_db, val_db, best):
        warn(line)


def notices(train_db, val_db, best):
    """Lines about what is not wrong by itself, but seldom meant; `train` says them too.

    Args:
        val_db: may be None.
        best: what `best_anchor_ious` gives for `train_db`.
    """
    sets = [train_db] if val_db is None else [train_db, val_db]
    columns = [_columns(db) for db in sets]
    lines, alike = [], defaultdict(list)
    for name in train_db.label_names:
        alike[re.sub(r"(?<=.)[\s_-](?=.)", "", name.casefold())].append(name)  # 'c++' and 'c#' are not alike
    lines += [f"classes with nearly the same name: {few(names)}" for names in alike.values() if len(names) > 1]
    counts = np.bincount(np.concatenate([label for label, *_ in columns]), minlength=len(train_db.label_names))
    lines += slips(dict(zip(train_db.label_names, counts.tolist(), strict=True)))
    if val_db is not None:
        in_train, in_val = (set(label.tolist()) for label, *_ in columns)
        for (own, those), (other, others), loss in (
            ((train_db.split, in_train), (val_db.split, in_val), "nothing is learned of them"),
            ((val_db.split, in_val), (train_db.split, in_train), "they have no AP"),
        ):
            only = [name for k, name in enumerate(train_db.label_names) if k in others - those]
            lines += [f"classes with boxes in {other}, but none in {own}, so that {loss}: {few(only)}"] if only else []
        both = {train_db.path(i) for i in range(len(train_db))} & {val_db.path(i) for i in range(len(val_db))}
        if both:
            splits = f"{train_db.split} and {val_db.split}"
            images = f"{counted(len(both), 'image')} {'is' if len(both) == 1 else 'are'}"
            lines.append(f"{images} in both {splits}: the mAP is flattered; choose others")
    twice = [path for db, own in zip(sets, columns, strict=True) for path in _with_a_box_twice(db, own)]
    lines += _by_example("the same box of the same class twice", twice)
    lying = [db.path(i) for db in sets for i in range(len(db)) if not db.upright(i)]
    lines += _by_example("read as stored, not turned as Exif says, because its annotation gives that size", lying)
    label, difficult, _, bbox = columns[0]
    if len(bbox) and bbox.max() <= 1:
        lines.append("no box is larger than a pixel: are they shares of the picture's sides? they must be pixels")
    return lines + _anchor_notices(train_db.label_names, label[~difficult], best)


def slips(counts):
    """A line for each class that may be another's name misspelt; `counts` is name → boxes.

    Careful, since most names that are near each other are meant. The one is rare beside the other, and they differ in
    one word: of five letters or more, by one letter that is wrong, missing, moved or too many; of seven or more, by
    two. So 'class1' and 'class2', 'glove_l' and 'glove_r', 'chair' and 'hair' are two classes, and so are 'masked' and
    'unmasked', which differ in their beginning alone.
    """
    words = {name: re.findall(r"[^\W\d_]+|\d+", name.casefold()) for name in counts}
    lines = []
    for rare, n in counts.items():
        near = [
            name
            for name, n_other in counts.items()
            if 0 < 5 * n <= n_other and (n <= 2 or 20 * n < n_other) and _differ_by_a_slip(words[rare], words[name])
        ]
        if near:
            name = max(near, key=counts.get)
            lines.append(
                f"{rare!r} ({counted(n, 'box')}) looks like {name!r} ({counted(counts[name], 'box')}): a slip?"
            )
    return lines


def _differ_by_a_slip(words, others):
    if len(words) != len(others):
        return False
    differing = [pair for pair in zip(words, others, strict=True) if pair[0] != pair[1]]
    if len(differing) != 1:
        return False
    short, long = sorted(*differing, key=len)
    n_letters = 1 if len(short) < 7 else 2
    if len(short) < 5 or len(long) - len(short) > n_letters or long.endswith(short):
        return False
    return not _shortened(short, n_letters).isdisjoint(_shortened(long, n_letters))


@cache
def _shortened(word, n_letters):
    """What is left of the word without up to `n_letters` of its letters."""
    kept = (combinations(word, len(word) - n) for n in range(n_letters + 1))
    return {"".join(letters) for some in kept for letters in some}


def say_what_is_there(model, train_db, val_db, val_split="val"):
    """Print the tables of both sets, `val_db` may be None, the notices, and each problem with its file.

    Args:
        model: whose anchors are looked at; None where there is no class.
        val_split: the name under which `val_db` was looked for.

    Raises:
        UserError: there are problems.
    """
    sets = [db for db in (train_db, val_db) if db is not None]
    best = [best_anchor_ious(model, db) for db in sets] if model else []
    for db, own in zip(sets, best, strict=False):
        say(f"{data_table(db, own)}\n")
    if model:
        say(f"{_COLUMNS_MEAN}\n")
    lines = [] if val_db is not None else [_no_validation(train_db, val_split)]
    lines += notices(train_db, val_db, best[0]) if model else []
    for line in lines:
        say(f"notice: {line}")
    problems = dict.fromkeys(line for db in sets for line in problem_lines(db))  # once, if the sets share a picture
    for line in problems:
        say(line)
    if problems:
        what = "named above: training would leave these out, or stop at them"
        raise UserError(f"{counted(len(problems), 'problem')}, {what}")
    if not model:
        raise UserError(f"no object in the annotations of {' and '.join(db.split for db in sets)}; name the classes")
    if not train_db.n_learned:
        raise UserError(f"{train_db.split} has no box to learn from, only difficult ones at most; add some")
    if lines:
        say(f"no problems in the files, which training reads as they stand; {counted(len(lines), 'notice')} above")
    else:
        say("no problems: training reads all of it as it stands")


def _no_validation(train_db, val_split):
    there = few(train_db.splits_there())
    return f"no list {val_split} to validate on: no mAP and no best.pth; name one with --val-split (there: {there})"


def _anchor_notices(label_names, label, best):
    """Lines on classes most of whose boxes, of which `best` is, no anchor meets: one for each reason."""
    unmet = best.iou < COVERED[0]
    classes = defaultdict(list)
    for k, name in enumerate(label_names):
        if (label == k).any() and unmet[label == k].mean() > 0.5:
            classes[np.bincount(best.why[(label == k) & unmet]).argmax()].append(name)
    what = f"meet an anchor at IoU {COVERED[0]}"
    return [f"fewer than half of the boxes of {few(classes[why])} {what}: {_ADVICE[why]}" for why in sorted(classes)]


def _by_example(what, paths):
    """A line on pictures, if there are any, that names the first."""
    first, *others = dict.fromkeys(paths) or [None]
    more = f" and {counted(len(others), 'more picture')}" if others else ""
    return [f"{what}: {first}{more}"] if first else []


def _columns(db):
    """Of all R boxes: label, difficult, place of the image (R,), and box (R, 4)."""
    rows = [db.get_annotation(i) for i in range(len(db))]
    none = np.empty((0, 4), np.float32), np.empty(0, np.int32), np.empty(0, bool)
    bbox, label, difficult = map(np.concatenate, zip(none, *rows, strict=True))
    return label, difficult, np.repeat(np.arange(len(db)), [len(row[1]) for row in rows]), bbox


def _with_a_box_twice(db, columns):
    """Paths of the pictures that have the same box of the same class more than once."""
    label, _, image, bbox = columns
    _, first = np.unique(np.column_stack([image, label, bbox]), axis=0, return_index=True)
    again = np.delete(image, first)
    return [db.path(i) for i in np.unique(again)]


def _sizes(db):
    """Of a few sizes how often each is there, of many the smallest and the largest side."""
    sizes = Counter(db.size(i) for i in range(len(db)))
    if not sizes:
        return "none that can be read"
    if len(sizes) <= 3:
        return ", ".join(f"{n:,} of {width}×{height} px" for (height, width), n in sizes.most_common())
    short, long = min(map(min, sizes)), max(map(max, sizes))
    median = np.median([size for size, n in sizes.items() for _ in range(n)], axis=0)
    return f"sides from {short} to {long} px, at the median {median[1]:.0f}×{median[0]:.0f}"


def _empty(db):
    return sum(len(db.get_annotation(i)[1]) == 0 for i in range(len(db)))


def _percent(mask):
    return f"{100 * mask.mean():.1f} %" if len(mask) else "-"


def _aligned(rows):
    """Rows of texts as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]


def problem_lines(db):
    """A line for each thing that training would leave out or change, by file; first what can't be read at all."""
    return [*db.faults, *(f"{problem.path}: {problem.what}" for problem in sorted(db.problems))]
