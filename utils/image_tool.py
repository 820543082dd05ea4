"""From a file to the pixels that a network takes: decode, resize, normalise.

`prepare` is the only resize and normalise of the project: the datasets, `FasterRCNN.predict` and the commands use it.
"""

import math
import os
import stat
import warnings
import zlib
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError

from utils.array_tool import totensor
from utils.errors import UserError
from utils.file_tool import whole_file

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# Whatever its name says, a file may be any of these. Of Pillow's others one, EPS, is a program that Ghostscript runs.
IMAGE_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "WEBP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "ICO", "TGA")
MAX_PIXELS = 250_000_000  # 3 GB as float32: the largest cameras have 200 million. A file of 1 kB may say 10¹⁸.
MAX_SIDE = 1_000_000  # that an annotation may say
Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here on, and refuses from twice as many

# What a network was trained on, by name: channel order, range, mean (in that order) and standard deviation.
# `caffe_legacy` is simple-faster-rcnn's: the mean's RGB order was kept while the channels became BGR. Its checkpoints
# were trained that way, so they need it; new runs on caffe weights take `caffe`.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE_MEAN_RGB = (122.7717, 115.9465, 102.9801)
INPUT_MODES = {
    "torchvision": {"bgr": False, "range": 1.0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "caffe": {"bgr": True, "range": 255.0, "mean": CAFFE_MEAN_RGB[::-1], "std": (1.0, 1.0, 1.0)},
    "caffe_legacy": {"bgr": True, "range": 255.0, "mean": CAFFE_MEAN_RGB, "std": (1.0, 1.0, 1.0)},
}


# Exif's orientation (CIPA DC-008, tag 0x0112) → what turns the stored pixels upright. 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,  # counter-clockwise
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path, upright=True):
    """Decode a picture file: (3, H, W) float32 RGB, 0..255. Raises UserError, naming the path, where it can't.

    Grey, palette and CMYK pictures become RGB, 16 bits 8; transparency is left out.

    Args:
        upright: turn it as its Exif orientation says, which is how people see it; False leaves the stored order.
    """
    with _opened(path) as file:
        file.load()  # first: a PNG may have its Exif behind the pixels
        turn = UPRIGHT.get(_orientation(file)) if upright else None
        if file.mode.startswith("I"):  # 16 bits of grey, which Pillow would clip at 255
            grey = np.asarray(file).clip(0, 65535) / 257
            file = Image.fromarray(np.round(grey).astype(np.uint8))
        elif "transparency" in file.info:  # else Pillow warns of palettes
            file = file.convert("RGBA")
        file = file.convert("RGB")
        rgb = np.asarray(file if turn is None else file.transpose(turn))  # (H, W, 3) uint8
    return np.ascontiguousarray(rgb.transpose(2, 0, 1), dtype=np.float32)


def image_sizes(path):
    """(H, W) of a picture as `read_image` gives it upright, and (H, W) as it is stored.

    The picture is decoded to see whether that can be done, a JPEG at an eighth of its size (1 ms for 500×375 px); of a
    PNG the checksums say enough.

    Raises:
        UserError: it can't be read, or a PNG's checksum is wrong.
    """
    with _opened(path) as file:
        stored = file.height, file.width
        if file.format != "PNG" or not _is_plain_png(path):
            file.draft(None, (1, 1))  # of JPEG alone
            file.load()
        turned = 5 <= _orientation(file) <= 8  # lies on its side
    return stored[::-1] if turned else stored, stored


def _is_plain_png(path):
    """Check the checksums of a PNG's chunks (its specification, section 5.3); whether none but the end follows the
    pixels. Raises OSError where one is wrong or the file is cut."""
    kinds = []
    with open(path, "rb") as file:
        n_left = os.fstat(file.fileno()).st_size - 8
        file.seek(8)  # behind the signature
        while kinds[-1:] != [b"IEND"]:
            head = file.read(8)
            n_bytes, kind = int.from_bytes(head[:4]), head[4:]
            n_left -= 12 + n_bytes
            if n_left < 0:
                raise OSError("it ends early")
            checksum = zlib.crc32(kind)
            for begin in range(0, n_bytes, 1 << 20):  # a part may be as long as the file
                checksum = zlib.crc32(file.read(min(1 << 20, n_bytes - begin)), checksum)
            if checksum != int.from_bytes(file.read(4)):
                raise OSError(f"the checksum of its part {len(kinds) + 1} is wrong")
            kinds.append(kind)
    return kinds[-2:] == [b"IDAT", b"IEND"]


MAX_JPEG_SIDE = 65_500  # libjpeg's


def write_jpeg(path, rgb):
    """Write (H, W, 3) uint8 RGB as a JPEG file that is at its place when it is whole.

    Raises:
        UserError: a side is longer than JPEG has (OSError where the disk is at fault).
    """
    if max(rgb.shape[:2]) > MAX_JPEG_SIDE:
        raise UserError(f"{path}: {rgb.shape[1]}×{rgb.shape[0]} px; a JPEG has {MAX_JPEG_SIDE} a side at most; cut it")
    with whole_file(path, durable=False) as partial:
        Image.fromarray(rgb).save(partial, "JPEG", quality=95)


def _orientation(file):
    try:
        # PngImageFile's own would decode the pixels first, to see what stands behind them
        return int(Image.Image.getexif(file).get(0x0112, 1))
    except Exception:  # of a damaged block, whatever breaks first: the pixels may be whole
        return 1


@cache
def _formats():
    """Those of IMAGE_FORMATS that this Pillow has."""
    Image.init()
    return [name for name in IMAGE_FORMATS if name in Image.OPEN]


@contextmanager
def _opened(path):
    """The picture file, opened by Pillow; what goes wrong with it is one line."""
    try:
        # Pillow's words about damaged Exif and the like name no file, and the pixels are read all the same
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but not yet refused
            if not stat.S_ISREG(os.stat(path).st_mode):  # a pipe would be waited for
                raise ValueError("a folder, a pipe or a device, not a file")
            with Image.open(path, formats=_formats()) as file:
                if file.width * file.height > MAX_PIXELS:
                    raise Image.DecompressionBombError
                if file.mode == "F":
                    raise ValueError("its pixels are floats, of which nothing says the range")
                yield file
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture; check the path") from None
    except UnidentifiedImageError:
        raise UserError(f"{path}: not a picture that can be read; replace or remove the file") from None
    except Image.DecompressionBombError:
        most = f"{MAX_PIXELS / 1e6:.0f} million"
        raise UserError(
            f"{path}: says that it has more than {most} pixels; cut or shrink the picture, or remove the file"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{path}: the picture is broken ({error}); replace or remove the file") from None


# Less than a cell of a network of stride 16 leaves a map without cells: a picture of 10×1000 px is stretched instead.
MIN_SIDE = 16


@cache
def _statistics(input_mode, device):
    """On the device, once: a copy from the host would be waited for."""
    mode = INPUT_MODES[input_mode]
    mean = torch.tensor(mode["mean"], device=device).view(3, 1, 1)
    std = torch.tensor(mode["std"], device=device).view(3, 1, 1)
    return mode["bgr"], 255.0 / mode["range"], mean, std


def normalize(img, input_mode="torchvision"):
    """(..., 3, H, W) float RGB 0..255 → the range, channel order and mean of `input_mode` (see INPUT_MODES)."""
    bgr, divisor, mean, std = _statistics(input_mode, img.device)
    if bgr:
        img = img.flip(-3)
    return (img / divisor - mean) / std


def inverse_normalize(img, input_mode="torchvision"):
    """The inverse of `normalize`: (..., 3, H, W) prepared array or tensor → tensor float32 RGB, 0..255."""
    img = totensor(img, dtype=torch.float32)
    bgr, divisor, mean, std = _statistics(input_mode, img.device)
    img = torch.addcmul(mean * divisor, img, std * divisor).clamp_(0, 255)
    return img.flip(-3) if bgr else img


def resized_size(size, min_size, max_size, rule="round"):
    """(H, W) after the short side is brought to `min_size`, or the long side to `max_size` where that is less.

    No side is less than 16 px.

    Args:
        rule: how sides become whole: 'round' or 'floor'.
    """
    scale = min(min_size / min(size), max_size / max(size))
    whole = round if rule == "round" else math.floor
    return tuple(max(MIN_SIDE, whole(side * scale)) for side in size)


def resize(img, size):
    """(C, H, W) float tensor → (C, *size), bilinear without anti-aliasing: skimage's `resize` but for the border."""
    if tuple(img.shape[1:]) == tuple(size):
        return img
    # On a CPU the last bits depend on how many threads share the work; a data loader's process has one, and a run must
    # not depend on where its pictures were resized.
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return F.interpolate(img[None], size=size, mode="bilinear", align_corners=False)[0]
    finally:
        torch.set_num_threads(n_threads)


def prepare(img, min_size=600, max_size=1000, input_mode="torchvision", rule="round"):
    """Resize and normalise one picture for a network.

    Args:
        img: (3, H, W) RGB array or tensor, 0..255.
        min_size, max_size: pixels of the short side wanted, and of the long side allowed (Ren et al. §3.3).
        input_mode: a name of INPUT_MODES.
        rule: see `resized_size`.

    Returns:
        (3, H', W') float32 tensor on the device of `img`.

    Raises:
        ValueError: `img` has another shape, or no pixel.
    """
    img = totensor(img, dtype=torch.float32)
    if img.ndim != 3 or img.shape[0] != 3 or img.numel() == 0:
        raise ValueError(f"a picture of shape {tuple(img.shape)}: must be (3, H, W), with H and W at least 1")
    return prepare_to(img, resized_size(img.shape[1:], min_size, max_size, rule), input_mode)


def prepare_to(img, size, input_mode="torchvision"):
    """`prepare`, to a given `size` (H, W)."""
    img = totensor(img, dtype=torch.float32)
    # Both are linear: either order gives the same but for the last bits, and the one with fewer pixels is quicker.
    # Where the picture grows it is torchvision's, to the bit: random weights magnify a bit a thousandfold.
    if img.shape[1] * img.shape[2] <= size[0] * size[1]:
        return resize(normalize(img, input_mode), size)
    return normalize(resize(img, size), input_mode)
