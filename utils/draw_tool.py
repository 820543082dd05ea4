"""Boxes on a picture: the one drawing function of the project (dashboard, predict command, notebooks).

Letters: R boxes, (3, H, W) or (H, W, 3) a picture.
"""

import colorsys
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils import array_tool as at

GOLDEN_RATIO = 0.618034  # its multiples, taken modulo 1, spread evenly however many are taken
SHADES = ((0.85, 1.0), (1.0, 0.72), (0.55, 1.0))  # saturation, value: neighbours in hue differ in shade
MIN_FONT, MAX_FONT = 9, 48  # pixels; below 9 letters run together


def draw_bboxes(img, bbox, label=None, score=None, label_names=None) -> np.ndarray:
    """Draw boxes, one fixed colour per class, each under its name and score.

    Args:
        img (array or tensor): (3, H, W) RGB, 0..255, float or uint8; it is not modified.
        bbox (array or tensor): (R, 4) as (y_min, x_min, y_max, x_max) in pixels; R may be 0. Boxes that reach
            out of the picture are clipped to it; those wholly outside, or with a coordinate that is not finite, are
            left out.
        label (array or tensor, optional): (R,) class indices, 0..L-1.
        score (array or tensor, optional): (R,) shown with two digits.
        label_names (sequence of str, optional): L names; an index outside them is shown as its number.

    Returns:
        (H, W, 3) uint8 array, RGB.

    Raises:
        ValueError: `img` is not (3, H, W) with H, W > 0, or the lengths of bbox, label and score differ.
    """
    picture = Image.fromarray(_to_hwc(img))
    bbox = at.tonumpy(bbox).reshape(-1, 4).astype(np.float64)
    label = [None] * len(bbox) if label is None else at.tonumpy(label).reshape(-1).astype(int).tolist()
    score = [None] * len(bbox) if score is None else at.tonumpy(score).reshape(-1).tolist()
    if not len(bbox) == len(label) == len(score):
        raise ValueError(f"{len(bbox)} boxes, {len(label)} labels, {len(score)} scores: one of each per box is needed")
    draw = ImageDraw.Draw(picture)
    width = max(1, round(max(picture.size) / 300))
    shown = [(box, *rest) for row, *rest in zip(bbox, label, score, strict=True) if (box := _clip(row, *picture.size))]
    for box, index, _ in shown:
        draw.rectangle(box, outline=class_color(index), width=width)
    for box, index, value in shown:  # after all the outlines: a name stays readable where boxes overlap
        text = _caption(index, value, label_names)
        if text:
            _draw_caption(draw, picture.size, box, text, class_color(index))
    return np.array(picture)


def visdom_bbox(img, bbox, label=None, score=None, label_names=None) -> np.ndarray:
    """`draw_bboxes` in the layout of the dashboard's pictures: (3, H, W) float32, 0..1."""
    drawn = draw_bboxes(img, bbox, label, score, label_names)
    return drawn.transpose(2, 0, 1).astype(np.float32) / 255


def class_color(index) -> tuple[int, int, int]:
    """The fixed colour of a class: (red, green, blue), 0..255. `None` (no label given) has the colour of class 0."""
    index = (index or 0) % 3000
    saturation, value = SHADES[index % len(SHADES)]
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(index * GOLDEN_RATIO % 1, saturation, value))


def _to_hwc(img):
    """(3, H, W) array or tensor, 0..255 → a new (H, W, 3) uint8 array."""
    img = at.tonumpy(img)
    if img.ndim != 3 or img.shape[0] != 3 or 0 in img.shape:
        raise ValueError(f"a picture of shape {img.shape}: (3, H, W) is needed")
    if img.dtype != np.uint8:
        img = np.nan_to_num(img, nan=0, posinf=255, neginf=0).clip(0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(img.transpose(1, 2, 0))


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


def _caption(index, value, label_names):
    """Name (or number) and score; empty when neither is known."""
    parts = []
    if index is not None:
        known = label_names is not None and 0 <= index < len(label_names)
        parts.append(str(label_names[index]) if known else str(index))
    if value is not None:
        parts.append(f"{value:.2f}")
    return " ".join(parts)


def _draw_caption(draw, size, box, text, color):
    """`text` on a filled ground at the box's upper left corner, moved and if need be made smaller to stay inside."""
    width, height = size
    font_size = int(np.clip(max(size) / 40, MIN_FONT, MAX_FONT))
    font = _font(font_size)
    while font_size > MIN_FONT and font.getlength(text) + 4 > width:
        font_size -= 1
        font = _font(font_size)
    left, top, right, bottom = font.getbbox(text)
    ground_width, ground_height = right - left + 4, bottom - top + 4
    x = max(0, min(box[0], width - ground_width))
    above = box[1] - ground_height
    y = max(0, min(above if above >= 0 else box[1], height - ground_height))
    draw.rectangle((x, y, x + ground_width - 1, y + ground_height - 1), fill=color)
    brightness = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]  # Rec. 601 luma
    draw.text((x + 2 - left, y + 2 - top), text, font=font, fill=(0, 0, 0) if brightness > 140 else (255, 255, 255))


@cache
def _font(size):
    return ImageFont.load_default(size)
