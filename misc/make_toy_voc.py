"""Write a small toy detection dataset in PASCAL VOC's layout: six textured shapes on noisy backgrounds.

    python misc/make_toy_voc.py --out=toy_voc
    python misc/make_toy_voc.py --out=tiny --n-train=20 --n-val=10 --size=128 --seed=3

It writes `Annotations/*.xml`, `JPEGImages/*.jpg`, `ImageSets/Main/{train,val,trainval}.txt` and a list of these files,
by which a later run knows what it may overwrite. A box is the tight box of the *unoccluded* mask cut to the image: the
border shrinks it, later objects on top do not. Corners are VOC's, 1-based and inclusive. `truncated`: a part is outside
the image. `difficult`: over 60 % of the area is hidden, by later objects or outside the image; over 95 %: left out.

Letters in shapes: (H, W) the image, (h, w) the window around one object.
"""

import argparse
import math
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from skimage import color, draw, transform

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `python misc/x.py` puts misc/ there, not the root
from utils.errors import UserError
from utils.progress_tool import progress_bar

SPLITS = ("train", "val")
MANIFEST = "made_by_make_toy_voc.txt"  # the files of the last run, one a line
MIN_OBJECT = 16  # pixels of an object's longer side; the largest is half of the image's longer side
MAX_OBJECTS = 6
MAX_TILT = math.radians(20)
HUE_SPREAD = 0.035  # of a class's colours, in turns of the colour circle; the six classes are 1/6 apart
RING_HOLE = 0.55  # radius of the hole / outer radius
EMPTY_EVERY = 20  # one image in so many has no object
BORDER_SHARE = 0.25  # of the objects may hang over the border; the others lie inside
DIFFICULT_ABOVE, DROPPED_ABOVE = 0.6, 0.95  # hidden share of an object's area


class Placed(NamedTuple):
    """An object of a scene. Its window may hang over the image's border, its middle lies inside."""

    name: str
    mask: np.ndarray  # (h, w) bool, touches all four sides of the window
    top: int  # image row of the window's first row; may be negative
    left: int


class Annotated(NamedTuple):
    """What the XML says of an object."""

    name: str
    box: tuple[int, int, int, int]  # xmin, ymin, xmax, ymax: 1-based, inclusive
    truncated: bool
    difficult: bool


def _corners(radii: list[float], count: int, first: float = 0.0) -> np.ndarray:
    """(count, 2) float (y, x): corners at equal angles from `first` (radians from the top), radii taken in turn."""
    angle = first + 2 * np.pi * np.arange(count) / count
    radius = np.resize(radii, count)
    return np.stack([-radius * np.cos(angle), radius * np.sin(angle)], axis=1)


OUTLINES = {
    "circle": _corners([1], 64),
    "square": _corners([1], 4, first=np.pi / 4),
    "triangle": _corners([1], 3),
    "star": _corners([1, 0.45], 10),
    "cross": np.stack([[-3, -3, -1, -1, 1, 1, 3, 3, 1, 1, -1, -1], [-1, 1, 1, 3, 3, 1, 1, -1, -1, -3, -3, -1]], axis=1),
    "ring": _corners([1], 64),
}
CLASSES = tuple(OUTLINES)


def shape_mask(name: str, size: int, angle: float) -> np.ndarray:
    """(h, w) bool mask of a shape turned clockwise by `angle` radians; touches all four sides, max(h, w) == size."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    outline = OUTLINES[name] @ turn
    outline = outline - outline.min(axis=0)
    outline *= (size - 1) / outline.max()  # from pixel centre 0 to pixel centre size - 1
    corners = np.rint(outline).astype(int)
    mask = np.zeros(corners.max(axis=0) + 1, dtype=bool)
    mask[draw.polygon(*outline.T)] = True
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        mask[draw.line(*start, *end)] = True  # the filling alone can miss sharp tips, and with them the wanted size
    if name == "ring":
        middle = outline.max(axis=0) / 2
        mask[draw.polygon(*(middle + RING_HOLE * (outline - middle)).T)] = False
    return mask


def place_object(rng: np.random.Generator, height: int, width: int) -> Placed:
    """A shape of random class, size and tilt, at a random place in an image of (height, width) pixels."""
    name = CLASSES[rng.integers(len(CLASSES))]
    size = round(rng.uniform(MIN_OBJECT, max(height, width) // 2))
    mask = shape_mask(name, size, rng.uniform(-MAX_TILT, MAX_TILT))
    h, w = mask.shape
    over_y, over_x = (h // 2, w // 2) if rng.random() < BORDER_SHARE else (0, 0)
    top = int(rng.integers(-over_y, height - h + over_y + 1))
    left = int(rng.integers(-over_x, width - w + over_x + 1))
    return Placed(name, mask, top, left)


def in_image(thing: Placed, height: int, width: int) -> tuple[slice, slice, np.ndarray]:
    """Rows and columns of the image under the object's window, and the mask's part (bool) that lies there."""
    h, w = thing.mask.shape
    rows = slice(max(thing.top, 0), min(thing.top + h, height))
    cols = slice(max(thing.left, 0), min(thing.left + w, width))
    part = thing.mask[rows.start - thing.top : rows.stop - thing.top, cols.start - thing.left : cols.stop - thing.left]
    return rows, cols, part


def annotate(scene: list[Placed], height: int, width: int) -> list[Annotated]:
    """Boxes and flags of a scene's objects (the rules are in this file's docstring); later ones cover earlier ones."""
    owner = np.full((height, width), -1)  # index of the object seen at each pixel
    parts = [in_image(thing, height, width) for thing in scene]
    for number, (rows, cols, part) in enumerate(parts):
        owner[rows, cols][part] = number
    objects = []
    for number, (thing, (rows, cols, part)) in enumerate(zip(scene, parts, strict=True)):
        area = int(thing.mask.sum())
        hidden = (area - int((owner[rows, cols] == number).sum())) / area
        if hidden <= DROPPED_ABOVE:
            y, x = part.nonzero()
            y, x = y + rows.start + 1, x + cols.start + 1
            box = (int(x.min()), int(y.min()), int(x.max()), int(y.max()))
            objects.append(Annotated(thing.name, box, bool(part.sum() < area), hidden > DIFFICULT_ABOVE))
    return objects


def texture(rng: np.random.Generator, height: int, width: int, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(height, width, 3) float32: two RGB colours (0..255) mixed by a random pattern, with shading and pixel noise."""
    y, x = np.ogrid[:height, :width]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.float32(y * math.cos(angle) + x * math.sin(angle))
    ramp = (along - along.min()) / max(np.ptp(along), 1)
    wave = 2 * np.pi / rng.uniform(5, 20)
    kind = rng.choice(["gradient", "clouds", "stripes", "checks"])
    if kind == "gradient":
        mix = ramp
    elif kind == "clouds":
        mix = transform.resize(rng.random((8, 8), dtype=np.float32), (height, width), order=1)
    else:
        mix = 0.5 + 0.5 * np.sin(wave * along)
        if kind == "checks":
            mix *= 0.5 + 0.5 * np.sin(wave * np.float32(x * math.cos(angle) - y * math.sin(angle)))
    noise = rng.uniform(2, 12) * rng.standard_normal((height, width, 3), dtype=np.float32)
    noise += (rng.uniform(0, 50) * (ramp - 0.5))[..., None]
    return np.float32(one) + mix[..., None] * np.float32(other - one) + noise


def colours_of(rng: np.random.Generator, name: str, count: int) -> np.ndarray:
    """(count, 3) RGB, 0..255: of the hue that the class has more often than not; neighbours in hue overlap."""
    hue = CLASSES.index(name) / len(CLASSES) + HUE_SPREAD * rng.standard_normal(count)
    hsv = np.stack([hue % 1, rng.uniform(0.4, 1, count), rng.uniform(0.35, 1, count)], axis=1)
    return 255 * color.hsv2rgb(hsv)


def paint(rng: np.random.Generator, scene: list[Placed], height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB picture of a scene."""
    ground = rng.uniform(60, 195) + rng.uniform(-40, 40, 3)  # greyish: the objects are the colourful part
    image = texture(rng, height, width, ground, ground + rng.uniform(-60, 60, 3))
    for thing in scene:
        rows, cols, part = in_image(thing, height, width)
        window = image[rows, cols]
        candidates = colours_of(rng, thing.name, 8)
        contrast = np.linalg.norm(candidates - window[part].mean(axis=0), axis=1)
        colour = candidates[np.argmax(contrast > 110)]  # the first that stands out from what lies below
        window[part] = texture(rng, *part.shape, colour, colour + rng.uniform(-70, 70, 3))[part]
    return np.uint8(np.rint(image).clip(0, 255))


def make_image(seed: int, split: str, index: int, size: int) -> tuple[np.ndarray, list[Annotated]]:
    """Image (H, W, 3) uint8 RGB and its objects, from (seed, split, index, size) alone; max(H, W) == size."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, SPLITS.index(split), index]))
    short = size * 5 // 6
    height, width = [(size, size), (short, size), (size, short)][rng.integers(3)]
    count = 0 if index % EMPTY_EVERY == EMPTY_EVERY // 2 - 1 else rng.integers(1, MAX_OBJECTS + 1)
    scene = [place_object(rng, height, width) for _ in range(count)]
    return paint(rng, scene, height, width), annotate(scene, height, width)


def voc_xml(filename: str, image: np.ndarray, objects: list[Annotated]) -> bytes:
    """The annotation file of one image, in VOC's form."""
    root = ET.Element("annotation")

    def add(parent: ET.Element, **texts: object) -> None:
        for tag, text in texts.items():
            ET.SubElement(parent, tag).text = str(text)

    add(root, folder="toy_voc", filename=filename)
    add(ET.SubElement(root, "size"), width=image.shape[1], height=image.shape[0], depth=3)
    add(root, segmented=0)
    for item in objects:
        node = ET.SubElement(root, "object")
        add(node, name=item.name, pose="Unspecified", truncated=int(item.truncated), difficult=int(item.difficult))
        add(ET.SubElement(node, "bndbox"), **dict(zip(("xmin", "ymin", "xmax", "ymax"), item.box, strict=True)))
    ET.indent(root, "\t")
    return ET.tostring(root) + b"\n"


def prepare_folder(out: Path, names: list[str]) -> None:
    """Make `out` ready for the files `names` (relative paths): remove what an earlier run left beside them.

    Raises UserError if `out` is a file, or holds one that no earlier run wrote.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; name a new or empty folder")
    manifest = out / MANIFEST
    made = set(manifest.read_text("utf-8", "replace").splitlines()) if manifest.is_file() else set()
    found = (path for path in out.rglob("*") if path.is_symlink() or not path.is_dir())  # a link may lead to a folder
    present = {path.relative_to(out).as_posix() for path in found}
    if foreign := sorted(present - made):
        raise UserError(f"{out}: holds {foreign[0]}, which this program did not write; name a new or empty folder")
    for name in present.difference(names):
        (out / name).unlink()
    for folder in {(out / name).parent for name in names}:
        folder.mkdir(parents=True, exist_ok=True)
    manifest.write_text("".join(f"{name}\n" for name in names))  # before the images: a run cut short can be repeated


def make_toy_voc(out_dir: str | Path, n_train: int = 400, n_val: int = 100, size: int = 192, seed: int = 0) -> dict:
    """Write the dataset into `out_dir`; the same options give the same bytes again.

    Args:
        out_dir: a new or empty folder, or one that an earlier run made (of which the old files are replaced).
        n_train, n_val: numbers of images; the ids 000001.. run over train, then val.
        size: the images' longer side in pixels, 64 or more; width : height is 1:1, 6:5 or 5:6.
        seed: 0 or more. An image depends on (seed, split, index in the split, size) and on nothing else.

    Returns:
        {'train': Counter, 'val': Counter} of 'images', 'empty', 'boxes', 'truncated', 'difficult' and each class.

    Raises:
        UserError: for a number out of range, or an `out_dir` that holds files of others.
    """
    for option, value, least in [("n_train", n_train, 0), ("n_val", n_val, 0), ("size", size, 64), ("seed", seed, 0)]:
        if value < least:
            raise UserError(f"{option}={value}: must be {least} or more")
    out = Path(out_dir)
    examples = [("train", index) for index in range(n_train)] + [("val", index) for index in range(n_val)]
    ids = [f"{number:06d}" for number in range(1, len(examples) + 1)]
    lists = {"train": ids[:n_train], "val": ids[n_train:], "trainval": ids}
    files = [f"ImageSets/Main/{split}.txt" for split in lists]
    files += [name for i in ids for name in (f"Annotations/{i}.xml", f"JPEGImages/{i}.jpg")]
    prepare_folder(out, [MANIFEST, *files])

    counts = {split: Counter() for split in SPLITS}
    for image_id, (split, index) in zip(progress_bar(ids, "toy VOC", unit="img", leave=False), examples, strict=True):
        image, objects = make_image(seed, split, index, size)
        Image.fromarray(image).save(out / "JPEGImages" / f"{image_id}.jpg", quality=95)
        (out / "Annotations" / f"{image_id}.xml").write_bytes(voc_xml(f"{image_id}.jpg", image, objects))
        counts[split].update(images=1, empty=not objects, boxes=len(objects))
        for item in objects:
            counts[split].update({item.name: 1, "truncated": item.truncated, "difficult": item.difficult})
    for split, members in lists.items():
        (out / f"ImageSets/Main/{split}.txt").write_text("".join(f"{image_id}\n" for image_id in members))
    return counts


def main() -> int:
    """The command line: 0 after the table is printed, 2 after a user's mistake (one line on stderr)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", required=True, dest="out_dir", help="a new or empty folder, or one made before")
    parser.add_argument("--n-train", type=int, default=400, help="training images (default: %(default)s)")
    parser.add_argument("--n-val", type=int, default=100, help="validation images (default: %(default)s)")
    parser.add_argument("--size", type=int, default=192, help="longer side in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn by chance (default: %(default)s)")
    options = parser.parse_args()
    try:
        counts = make_toy_voc(**vars(options))
    except (UserError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{'':<12}" + "".join(f"{split:>8}" for split in counts))
    for row in ("images", "empty", "boxes", *CLASSES, "truncated", "difficult"):
        print(f"{row:<12}" + "".join(f"{count[row]:>8}" for count in counts.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
