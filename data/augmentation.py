"""What is drawn anew for each training picture: the part of it that is kept, mirrored or not, its colours and its size.

Letters: R boxes, T trials, (H, W) pixels.
"""

import math
from typing import NamedTuple

import numpy as np
import torch

from utils.bbox_tools import bbox_iou, flip_bbox

# SSD's random patches (Liu et al. 2016, §2.2): a least IoU with some box, of which one is drawn; 0 takes any patch. The
# sides' least share and the trials are torchvision's `RandomIoUCrop`'s, the aspect ratios both's.
CROP_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
CROP_MIN_SHARE, CROP_MAX_ASPECT, CROP_TRIALS = 0.3, 2, 40

# Television's: luma of RGB (Rec. 601), and U = 0.492 (B − Y), V = 0.877 (R − Y), the plane in which a turn is a hue.
LUMA = np.array([0.299, 0.587, 0.114])
RGB_TO_YUV = np.stack([LUMA, 0.492 * (np.eye(3)[2] - LUMA), 0.877 * (np.eye(3)[0] - LUMA)])
YUV_TO_RGB = np.linalg.inv(RGB_TO_YUV)
# The hue's turn in shares of the strength: 0.5 is then 0.5 to 1.5 of contrast and saturation and ±18 of OpenCV's 180
# hues, SSD's published settings; its brightness moves less, by ±32 of 255.
HUE_SHARE = 0.2


class Colour(NamedTuple):
    """What is done to a picture's colours: factors, as in torchvision's `ColorJitter`, and turns of the hue."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


class Augmentation(NamedTuple):
    """What happens to one picture and its boxes, in this order."""

    window: tuple  # (y_min, x_min, y_max, x_max) whole pixels that are kept
    flip: bool  # left to right
    min_size: float  # pixels that the short side is then resized to
    plus_one: int = 0  # 1 where boxes have the indices of their first and last pixel, see `Convention`
    colour: Colour | None = None  # None leaves the pixels as they are, to the bit
    crop: tuple | None = None  # the scale crop, in which the window lies; None where there is none

    @property
    def size(self):
        """(H, W) of what is kept."""
        return self.window[2] - self.window[0], self.window[3] - self.window[1]

    def picture(self, img):
        """The (3, H, W) float32 array, 0..255, cut, mirrored and in other colours."""
        y_min, x_min, y_max, x_max = self.window
        img = img[:, y_min:y_max, x_min:x_max]
        # A copy where it is mirrored: numpy calls a single column contiguous, whose negative stride torch refuses.
        img = img[:, :, ::-1].copy() if self.flip else np.ascontiguousarray(img)
        return img if self.colour is None else recolour(img, *self.colour)

    def boxes(self, bbox):
        """The (R, 4) boxes, cut and mirrored; a box that lies outside of what is kept has no area left."""
        ends = height, width = [side - self.plus_one for side in self.size]
        bbox = (bbox - np.array(self.window[:2] * 2, dtype=bbox.dtype)).clip(0, np.array(ends * 2, dtype=bbox.dtype))
        return flip_bbox(bbox, (height, width)) if self.flip else bbox

    def belong(self, bbox):
        """(R,) bool: which of the (R, 4) boxes of the whole picture are of the part that a scale crop keeps.

        Those whose centre is in it (SSD, §2.2). Without a scale crop all are; the area that is left has its say too.
        """
        if self.crop is None:
            return np.ones(len(bbox), dtype=bool)
        return centres_inside(_edges(bbox, self.plus_one), np.array([self.crop]))[0]


def draw_augmentation(
    rng, size, bbox, flip=True, min_sizes=(600,), max_ratio=None, plus_one=0, jitter=0.0, scale_crop=0.0
):
    """An `Augmentation` for a picture of `size` (H, W).

    Args:
        rng: numpy's Generator; the same draws are made whatever the options are.
        bbox: (R, 4) its boxes.
        flip: mirror it with probability ½.
        min_sizes: short sides, one of which is taken.
        max_ratio: a long side of more than so many short ones is cut to that; None cuts nothing.
        plus_one: see `Augmentation`.
        jitter: 0..1, by how much brightness, contrast and saturation move from 1 at most; the hue by a fifth of it.
        scale_crop: probability, 0..1, of a `random_window`; what it leaves is cut to `max_ratio`.
    """
    mirrored, which, where = rng.random(3)
    moves, (cropped, wanted), trials = rng.random(4), rng.random(2), rng.random((CROP_TRIALS, 4))
    edges, window, crop = _edges(bbox, plus_one), (0, 0, *size), None
    if cropped < scale_crop:
        crop = random_window(size, edges, CROP_IOUS[int(wanted * len(CROP_IOUS))], trials)
    if crop is not None:
        window = crop
        edges = edges[centres_inside(edges, np.array([crop]))[0]]
    y_min, x_min, y_max, x_max = window
    left = y_max - y_min, x_max - x_min
    if max_ratio is not None and max(left) > max_ratio * min(left):
        axis = int(left[1] > left[0])  # of the long side
        edges = edges - np.array([y_min, x_min] * 2, dtype=edges.dtype)
        inner = cut(left, edges, axis, max(1, math.floor(min(left) * max_ratio)), where)
        window = y_min + inner[0], x_min + inner[1], y_min + inner[2], x_min + inner[3]
    colour = None
    if jitter > 0:
        brightness, contrast, saturation, hue = (jitter * (2 * moves - 1)).tolist()
        colour = Colour(1 + brightness, 1 + contrast, 1 + saturation, HUE_SHARE * hue)
    min_size = min_sizes[int(which * len(min_sizes))]
    return Augmentation(window, bool(flip and mirrored < 0.5), min_size, plus_one, colour, crop)


def _edges(bbox, plus_one):
    return bbox + np.array([0, 0, plus_one, plus_one], dtype=bbox.dtype)


def centres_inside(bbox, windows):
    """(T, R) bool: whether the centre of each of the (R, 4) boxes lies in each of the (T, 4) windows."""
    centre = (bbox[:, :2] + bbox[:, 2:]) / 2
    return ((centre >= windows[:, None, :2]) & (centre < windows[:, None, 2:])).all(axis=2)


def random_window(size, bbox, min_iou, trials):
    """The first window of `trials` that shows a box well enough, or None: SSD's random patch.

    Windows have 0.3 to 1 of the picture's height and of its width, whole pixels, at most twice as long as wide. A box
    with an area has its centre inside and an IoU of at least `min_iou` with the window; of a picture without such boxes
    any window will do.

    Args:
        size: (H, W).
        bbox: (R, 4) edges of the boxes, 0 ≤ R.
        min_iou: 0..1.
        trials: (T, 4) float64, 0 ≤ t < 1: height, width and place of each window.

    Returns:
        (y_min, x_min, y_max, x_max), ints; or None.
    """
    side = np.rint(np.array(size) * (CROP_MIN_SHARE + (1 - CROP_MIN_SHARE) * trials[:, :2])).clip(1)  # (T, 2)
    start = np.floor(trials[:, 2:] * (np.array(size) - side + 1))
    windows = np.concatenate([start, start + side], axis=1)  # (T, 4)
    fits = side.max(axis=1) <= CROP_MAX_ASPECT * side.min(axis=1)
    bbox = bbox[(bbox[:, 2:] > bbox[:, :2]).all(axis=1)]
    if len(bbox):
        iou = bbox_iou(torch.from_numpy(windows), torch.from_numpy(bbox.astype(np.float64))).numpy()  # (T, R)
        fits &= (centres_inside(bbox, windows) & (iou >= min_iou)).any(axis=1)
    return tuple(windows[fits.argmax()].astype(int).tolist()) if fits.any() else None


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


def recolour(img, brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0):
    """A picture in other colours: (3, H, W) RGB, 0..255 → float32, whole numbers 0..255.

    Brightness multiplies all, contrast the distance from the picture's mean luma, saturation that from each pixel's own
    (0 leaves none of it, 1 all), as in torchvision's `ColorJitter`; the hue turns the chroma, linearly, as in MXNet's
    `HueJitterAug`. They are one matrix and an offset, in any order the same, for only what comes out is clipped. It is
    rounded because a picture may travel to its device as bytes, and shall be the same on each.
    """
    angle = 2 * math.pi * hue
    turn = saturation * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    change = np.eye(3)
    change[1:, 1:] = turn
    matrix = brightness * contrast * (YUV_TO_RGB @ change @ RGB_TO_YUV)  # (3, 3)
    mean = float(LUMA @ img.mean(axis=(1, 2), dtype=np.float64))
    offset = np.float32(brightness * (1 - contrast) * mean)
    out = np.empty(img.shape, np.float32)
    for channel, row in zip(out, matrix.astype(np.float32), strict=True):
        # elementwise: the last bits of a matrix product depend on how many threads share it
        np.multiply(img[0], row[0], out=channel)
        channel += img[1] * row[1]
        channel += img[2] * row[2]
        channel += offset
    return np.rint(out, out=out).clip(0, 255, out=out)
