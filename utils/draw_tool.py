"""Boxes on a picture: the one drawing function of the project (dashboard, predict command, notebooks).

Letters: R boxes, (3, H, W) or (H, W, 3) a picture.
"""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from utils import array_tool as at
from utils.caption_tool import IN_REACH, PADDING, caption_texts, font, font_size, ground, place_captions

GOLDEN_RATIO = 0.618034  # its multiples, taken modulo 1, spread evenly however many are taken
SHADES = ((0.85, 1.0), (1.0, 0.72), (0.55, 1.0))  # saturation, value: neighbours in hue differ in shade
POSITIVE, NEGATIVE, UNUSED = (255, 190, 0), (70, 130, 255), (190, 190, 190)  # told apart by colour-blind eyes too
LOW, HIGH = np.array((60, 20, 120)), np.array((255, 230, 60))  # of scores 0 and 1


def draw_bboxes(img, bbox, label=None, score=None, label_names=None, *, enlarge_to=0, letters=None) -> np.ndarray:
    """Draw boxes, one fixed colour per class, each under its name and score.

    A caption stands where it hides least; one that could only lie on others is left out: the colour tells its class.

    Args:
        img (array or tensor): (3, H, W) RGB, 0..255, float or uint8; it is not modified.
        bbox (array or tensor): (R, 4) as (y_min, x_min, y_max, x_max) in pixels; R may be 0. Boxes that reach
            out of the picture are clipped to it; those wholly outside, or with a coordinate that is not finite, are
            left out.
        label (array or tensor, optional): (R,) class indices, 0..L-1.
        score (array or tensor, optional): (R,) shown with two digits.
        label_names (sequence of str, optional): L names; an index outside them is shown as its number.
        enlarge_to: pixels; a picture whose long side has less is enlarged to it, so that names can be read.
        letters: pixels, of the names' font; None: by the picture's size.

    Returns:
        (H, W, 3) uint8 array, RGB; larger where it was enlarged.

    Raises:
        ValueError: `img` is not (3, H, W) with H, W > 0, or the lengths of bbox, label and score differ.
    """
    picture, factor = _enlarged(img, enlarge_to)
    bbox = _rows(bbox)
    label = [None] * len(bbox) if label is None else at.tonumpy(label).reshape(-1).astype(int).tolist()
    score = [None] * len(bbox) if score is None else at.tonumpy(score).reshape(-1).tolist()
    if not len(bbox) == len(label) == len(score):
        raise ValueError(f"{len(bbox)} boxes, {len(label)} labels, {len(score)} scores: one of each per box is needed")
    columns = zip(bbox * factor, label, score, strict=True)
    shown = [(box, *rest) for row, *rest in columns if (box := _clip(row, *picture.size))]
    draw = ImageDraw.Draw(picture, "RGBA")
    for box, index, _ in sorted(shown, key=lambda row: -_area(row[0])):  # small ones over those that they lie in
        _outline(draw, picture.size, box, class_color(index))
    _write_captions(draw, picture.size, shown, label_names, letters or font_size(picture.size))
    return np.array(picture)


def visdom_bbox(img, bbox, label=None, score=None, label_names=None, *, enlarge_to=0) -> np.ndarray:
    """`draw_bboxes` in the layout of the dashboard's pictures: (3, H, W) float32, 0..1."""
    drawn = draw_bboxes(img, bbox, label, score, label_names, enlarge_to=enlarge_to)
    return drawn.transpose(2, 0, 1).astype(np.float32) / 255


def draw_pair(
    img, truth, found, label_names=None, *, enlarge_to=0, letters=None, captions=("truth", "found")
) -> np.ndarray:
    """The true boxes and those found, in one picture: side by side, or of a very wide one, one above the other.

    Args:
        img, label_names, enlarge_to, letters: as of `draw_bboxes`.
        truth: (bbox, label) or (bbox, label, None).
        found: (bbox, label, score), as an image's detections.
        captions: what stands over the two.

    Returns:
        (H', W', 3) uint8 array, RGB.
    """
    look = {"enlarge_to": enlarge_to, "letters": letters}
    halves = [draw_bboxes(img, *own, *[None] * (3 - len(own)), label_names, **look) for own in (truth, found)]
    height, width = halves[0].shape[:2]
    axis = 0 if width > 2 * height else 1
    halves = [_under(text, half, letters) for text, half in zip(captions, halves, strict=True)]
    shape = list(halves[0].shape)
    shape[axis] = max(2, round(max(height, width) / 150))
    return np.concatenate([halves[0], np.full(shape, 255, np.uint8), halves[1]], axis=axis)


def draw_many(img, bbox, *, score=None, target=None, truth=None, caption=None, enlarge_to=0) -> np.ndarray:
    """Many boxes without names, in thin lines: anchors or proposals, coloured by what is known of them.

    The picture is darkened under them, so that each colour is seen on any ground.

    Args:
        img, bbox, enlarge_to: as of `draw_bboxes`.
        score (array or tensor, optional): (R,) from faint violet, 0 or the least, to yellow, 1 or the most, on top.
        target (array or tensor, optional): (R,) positive (> 0) in yellow on top, negative (0) in blue, and what takes
            no part (< 0) in grey at the bottom; the more there are of the latter two, the fainter they are.
        truth (array or tensor, optional): (R', 4) true boxes, in white on top of all.
        caption: a line over the picture, or None.

    Returns:
        (H', W', 3) uint8 array, RGB.

    Raises:
        ValueError: both of `score` and `target` are given, or their number is not that of the boxes.
    """
    picture, factor = _enlarged(img, enlarge_to)
    bbox = _rows(bbox)
    rank, colors = _ranked(len(bbox), score, target)
    picture = Image.blend(picture, Image.new("RGB", picture.size), 0.5)
    draw = ImageDraw.Draw(picture, "RGBA")
    width = max(1, round(max(picture.size) / 600))
    for i in np.argsort(rank, kind="stable"):
        if box := _clip(bbox[i] * factor, *picture.size):
            draw.rectangle(box, outline=colors[i], width=width)
    for row in _rows(() if truth is None else truth) * factor:
        if box := _clip(row, *picture.size):
            _outline(draw, picture.size, box, (255, 255, 255))
    drawn = np.array(picture)
    return drawn if caption is None else _under(caption, drawn)


def class_color(index) -> tuple[int, int, int]:
    """The fixed colour of a class: (red, green, blue), 0..255. `None` (no label given) has the colour of class 0."""
    index = (index or 0) % 3000
    saturation, value = SHADES[index % len(SHADES)]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, saturation, value))


def _enlarged(img, enlarge_to):
    """(3, H, W) array or tensor, 0..255 → (a new Pillow picture, how many times as large)."""
    img = at.tonumpy(img)
    if img.ndim != 3 or img.shape[0] != 3 or 0 in img.shape:
        raise ValueError(f"a picture of shape {img.shape}: (3, H, W) is needed")
    if img.dtype != np.uint8:
        img = np.fmin(np.fmax(img, 0), 255).round().astype(np.uint8)  # NaN becomes 0
    picture = Image.fromarray(np.ascontiguousarray(img.transpose(1, 2, 0)))
    factor = enlarge_to / max(picture.size)
    if factor <= 1:
        return picture, 1.0
    return picture.resize([max(1, round(side * factor)) for side in picture.size], Image.Resampling.BICUBIC), factor


def _rows(bbox):
    return at.tonumpy(bbox).reshape(-1, 4).astype(np.float64)


def _clip(row, width, height):
    """(y_min, x_min, y_max, x_max) → whole (x_min, y_min, x_max, y_max) inside the picture; None if all is outside."""
    if not np.isfinite(row).all():
        return None
    y_min, y_max = sorted((row[0], row[2]))
    x_min, x_max = sorted((row[1], row[3]))
    if x_max < 0 or y_max < 0 or x_min > width or y_min > height:
        return None
    x_min, x_max = (int(np.clip(round(x), 0, width - 1)) for x in (x_min, x_max))
    y_min, y_max = (int(np.clip(round(y), 0, height - 1)) for y in (y_min, y_max))
    return x_min, y_min, x_max, y_max


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def _outline(draw, size, box, color):
    """A box's four lines, inwards, with a thin one around them that stands out where the ground has their colour."""
    short_side = min(box[2] - box[0], box[3] - box[1])
    width = max(1, min(round(max(size) / 300), round(short_side / 8)))
    halo = max(1, width // 3)
    around = box[0] - halo, box[1] - halo, box[2] + halo, box[3] + halo
    draw.rectangle(around, outline=(*_on(color), 130), width=halo)
    draw.rectangle(box, outline=color, width=width)


def _on(color):
    """Black or white: what can be read on a ground of `color`."""
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]  # Rec. 601 luma
    return (0, 0, 0) if brightness > 140 else (255, 255, 255)


def _write_captions(draw, size, shown, label_names, letters):
    """Name and score of each of the (box, index, score) in `shown`, the best first, as far as there is room."""
    shown = sorted(shown, key=lambda row: -row[2] if row[2] is not None else 0)
    texts = [caption_texts(_name(index, label_names), index, score, letters, size[0])
             for _, index, score in shown[:IN_REACH]]  # fmt: skip
    grounds = [[ground(own, text) for text, own in choices] for choices in texts]
    places = place_captions([box for box, _, _ in shown], grounds, size)
    for (_, index, _), choices, sizes, place in zip(shown, texts, grounds, places, strict=False):
        if place:
            k, x, y = place
            text, own = choices[k]
            color = class_color(index)
            rim = (*_on(color), 110)  # between captions of one class that touch
            draw.rectangle((x, y, x + sizes[k][0] - 1, y + sizes[k][1] - 1), fill=color)
            draw.rectangle((x, y, x + sizes[k][0] - 1, y + sizes[k][1] - 1), outline=rim)
            draw.text((x + PADDING, y + sizes[k][1] / 2), text, font=own, fill=_on(color), anchor="lm")


def _name(index, label_names):
    if index is None:
        return None
    known = label_names is not None and 0 <= index < len(label_names)
    return str(label_names[index]) if known else str(index)


def _under(text, drawn, letters=None):
    """The picture (H, W, 3) under a line of text."""
    width = drawn.shape[1]
    letters = letters or font_size((width, drawn.shape[0]))
    (line, own), *_ = caption_texts(text, "", None, letters, width) or [("", font(10))]
    strip = Image.new("RGB", (width, ground(own, line)[1] + 2 * PADDING), (255, 255, 255))
    ImageDraw.Draw(strip).text((width / 2, strip.height / 2), line, font=own, fill=(0, 0, 0), anchor="mm")
    return np.concatenate([np.array(strip), drawn])


def _ranked(n, score, target):
    """Of each of n boxes: what is drawn later has more; its colour with opacity, 0..255."""
    if score is not None and target is not None:
        raise ValueError("boxes are coloured by score or by target; give one of them")
    given = score if target is None else target
    if given is None:
        return np.zeros(n), [(*POSITIVE, _opacity(n))] * n
    rank = np.nan_to_num(at.tonumpy(given).reshape(-1).astype(np.float64))
    if len(rank) != n:
        raise ValueError(f"{n} boxes, {len(rank)} scores or targets: one per box is needed")
    if target is not None:
        rank = np.sign(rank).astype(int)
        counts = {k: int((rank == k).sum()) for k in (-1, 0)}
        colors = {-1: (*UNUSED, _opacity(3 * counts[-1])), 0: (*NEGATIVE, _opacity(counts[0])), 1: (*POSITIVE, 255)}
        return rank, [colors[k] for k in rank.tolist()]
    low, high = min(rank.min(initial=0), 0), max(rank.max(initial=1), 1)
    shares = (rank - low) / (high - low)
    return rank, [(*(LOW + share * (HIGH - LOW)).round().astype(int).tolist(), 60 + int(195 * share**2))
                  for share in shares]  # fmt: skip


def _opacity(n):
    """Of each of n boxes: the more there are, the fainter, or the picture would be lost under them."""
    return int(np.clip(10_000 / max(n, 1), 12, 160))
