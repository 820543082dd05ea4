"""What is drawn anew for each training picture: which part of it is kept, whether it is mirrored, and its size.

Letters: R boxes, (H, W) pixels.
"""

import math
from typing import NamedTuple

import numpy as np

from utils.bbox_tools import flip_bbox


class Augmentation(NamedTuple):
    """What happens to one picture and its boxes, in this order."""

    window: tuple  # (y_min, x_min, y_max, x_max) whole pixels that are kept
    flip: bool  # left to right
    min_size: float  # pixels that the short side is then resized to
    plus_one: int = 0  # 1 where boxes have the indices of their first and last pixel, see `Convention`

    @property
    def size(self):
        """(H, W) of what is kept."""
        return self.window[2] - self.window[0], self.window[3] - self.window[1]

    def picture(self, img):
        """The (3, H, W) array, cut and mirrored."""
        y_min, x_min, y_max, x_max = self.window
        img = img[:, y_min:y_max, x_min:x_max]
        return np.ascontiguousarray(img[:, :, ::-1] if self.flip else img)

    def boxes(self, bbox):
        """The (R, 4) boxes, cut and mirrored; a box that lies outside of what is kept has no area left."""
        ends = height, width = [side - self.plus_one for side in self.size]
        bbox = (bbox - np.array(self.window[:2] * 2, dtype=bbox.dtype)).clip(0, np.array(ends * 2, dtype=bbox.dtype))
        return flip_bbox(bbox, (height, width)) if self.flip else bbox


def draw_augmentation(rng, size, bbox, flip=True, min_sizes=(600,), max_ratio=None, plus_one=0):
    """An `Augmentation` for a picture of `size` (H, W).

    Args:
        rng: numpy's Generator; the same draws are made whatever the options are.
        bbox: (R, 4) its boxes.
        flip: mirror it with probability ½.
        min_sizes: short sides, one of which is taken.
        max_ratio: a long side of more than so many short ones is cut to that; None cuts nothing.
        plus_one: see `Augmentation`.
    """
    mirrored, which, where = rng.random(3)
    window = (0, 0, *size)
    if max_ratio is not None and max(size) > max_ratio * min(size):
        axis = int(size[1] > size[0])  # of the long side
        edges = bbox + np.array([0, 0, plus_one, plus_one], dtype=bbox.dtype)
        window = cut(size, edges, axis, max(1, math.floor(min(size) * max_ratio)), where)
    return Augmentation(window, bool(flip and mirrored < 0.5), min_sizes[int(which * len(min_sizes))], plus_one)


def cut(size, bbox, axis, length, where):
    """The window of `length` pixels along `axis` (0: y, 1: x) around the boxes, as in jwyang's faster-rcnn.pytorch.

    It holds all boxes if it can, else it lies between the first one's beginning and the last one's end. Of the places
    that are left, `where` (0..1) chooses one.
    """
    first, last = 0, size[axis] - length
    if len(bbox):
        begin, end = float(bbox[:, axis].min()), float(bbox[:, axis + 2].max())
        low, high = sorted((math.ceil(end - length), math.floor(begin)))
        first, last = (min(max(place, 0), last) for place in (low, high))
    start = min(first + int(where * (last - first + 1)), last)
    window = [0, 0, *size]
    window[axis], window[axis + 2] = start, start + length
    return tuple(window)
