"""Captions of boxes in a picture: fonts that have the letters, texts that fit, and places where they hide little.

Letters: R boxes, C captions. Boxes are whole numbers (x_min, y_min, x_max, y_max) in pixels here, as Pillow draws them.
"""

import importlib.util
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np
from PIL import ImageFont

MIN_FONT, MAX_FONT = 10, 160  # pixels; below 10 letters run together
PADDING = 3  # pixels around a caption's letters
# Beside Pillow's own font, which has English letters only: the first that is there and has all of a name's.
FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc",
         "NotoSansCJKsc-Regular.otf", "Arial Unicode.ttf", "PingFang.ttc", "msyh.ttc", "wqy-microhei.ttc")  # fmt: skip
N_PLACES = 13
IN_REACH = 200  # captions of a picture; of more boxes than this few would find a place
HIDDEN = 0.05  # share of a caption that another one may cover


def font_size(size):
    """Pixels of the letters in a picture of `size` (width, height): a fortieth of its long side, but legible, and no
    more than a quarter of the short one.
    """
    return int(np.clip(min(max(size) / 40, min(size) / 4), MIN_FONT, MAX_FONT))


@cache
def font(size, text="") -> ImageFont.FreeTypeFont:
    """A font of `size` pixels that can write `text`; Pillow's own where none can."""
    return _load(_font_for(text), size)


def ground(font, text):
    """(width, height) in pixels of the ground that `text` stands on: of one height for all texts of a font."""
    ascent, descent = font.getmetrics()
    return round(font.getlength(text)) + 2 * PADDING, ascent + descent + 2


def caption_texts(name, index, score, size, room):
    """What a box may be called, best first: with its score, or else without, each shortened to fit.

    Args:
        name: of the class, or None.
        index: shown in place of a name whose letters no font here has.
        score: a float or None.
        size: pixels of the font.
        room: pixels that the ground may be wide.

    Returns:
        0, 1 or 2 pairs (text, font).
    """
    number = None if score is None else f"{score:.2f}"
    if name is None:
        name = number if number is not None else ""
        number = None
    name = _writable(name, index)
    if not name:
        return []
    own = font(size, name)
    if size > MIN_FONT and ground(own, f"{name} {number or ''}".strip())[0] > room:
        own = font(max(MIN_FONT, round(0.75 * size)), name)
    alone = _shortened(name, "", own, room)
    if number is None:
        return [(alone, own)]
    whole = _shortened(name, f" {number}", own, room)
    return [(text, own) for text in (whole, alone) if text]


def _shortened(name, end, own, room):
    """`name` + `end`, with … for the name's last letters if need be; '' where too few of them would be left."""
    if ground(own, name + end)[0] <= room:
        return name + end
    fits = [k for k in range(3, len(name)) if ground(own, f"{name[:k]}…{end}")[0] <= room]
    if fits:
        return f"{name[: fits[-1]].rstrip()}…{end}"
    return "" if end else name[:3]


def place_captions(boxes, grounds, size):
    """A place for each caption at its box: where it hides least of small boxes and of the captions before it.

    Args:
        boxes: (R, 4) array, all boxes of the picture, those that have captions first.
        grounds: C lists, C ≤ R: for each caption its (width, height), best text first.
        size: (width, height) of the picture.

    Returns:
        C triples (which of the texts, x, y of the ground's upper left corner); None for a caption that could only lie
        on others.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    places, taken = [], np.empty((0, 4))
    for box, choices in zip(boxes, grounds, strict=False):
        best = None
        for k, (width, height) in enumerate(choices):
            at = _corners(box, width, height, size)  # (N_PLACES, 2)
            here = np.concatenate([at, at + np.array([width, height])], axis=1)
            hidden = _shares(here, taken)  # (N_PLACES, captions so far)
            cost = np.arange(N_PLACES) * 0.02 + _shares(here, boxes).sum(axis=1) + 4 * hidden.sum(axis=1)
            place = cost.argmin()
            if hidden[place].max(initial=0) <= HIDDEN:
                best = k, *map(int, at[place])
                taken = np.concatenate([taken, here[place, None]])
                break
        places.append(best)
    return places


def _corners(box, width, height, size):
    """(N_PLACES, 2) whole upper left corners (x, y) for a caption of a box, the usual first, all in the picture."""
    x_min, y_min, x_max, y_max = box
    middle = (x_min + x_max - width) / 2
    corners = [(x_min, y_min - height), (x_max - width + 1, y_min - height), (x_min, y_max + 1),
               (x_max - width + 1, y_max + 1), (x_min, y_min), (x_min, y_max - height + 1), (x_max + 1, y_min),
               (x_min - width, y_min), (x_max + 1, y_max - height + 1), (x_min - width, y_max - height + 1),
               (middle, y_min - height), (middle, y_min), (middle, y_max - height + 1)]  # fmt: skip
    return np.clip(np.floor(corners), 0, np.maximum(np.array(size) - (width, height), 0))


def _shares(some, others):
    """(P, R) which share of each of `others` (R, 4) lies under each of `some` (P, 4)."""
    low = np.maximum(some[:, None, :2], others[None, :, :2])
    high = np.minimum(some[:, None, 2:], others[None, :, 2:])
    area = (others[:, 2:] - others[:, :2]).clip(min=1).prod(axis=1)
    return ((high - low).clip(min=0).prod(axis=2) / area).clip(max=1)


def _writable(name, index):
    """`name` if a font here has all its letters, else without its accents, else the class's number."""
    name = " ".join(str(name).split())
    plain = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    for text in (name, plain):
        if _has(_font_for(text), text):
            return text
    return str(index)


@cache
def _font_for(text):
    """The name of a font that has the letters of `text`; None is Pillow's own."""
    return next((name for name in (None, *FONTS) if _has(name, text)), None)


@cache
def _has(name, text):
    try:
        letters = _load(name, 20)
    except OSError:  # not on this machine
        return False
    absent = bytes(letters.getmask("\uffff"))
    return all(c.isspace() or bytes(letters.getmask(c)) != absent for c in set(text))


@cache
def _load(name, size):
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:  # on a machine without fonts: matplotlib, which is required, has one
        return ImageFont.truetype(_fonts_of_matplotlib() / name, size)


@cache
def _fonts_of_matplotlib():
    """The folder; matplotlib itself, which takes a while to load, is not imported."""
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise OSError("no matplotlib")
    return Path(found.origin).parent / "mpl-data/fonts/ttf"
