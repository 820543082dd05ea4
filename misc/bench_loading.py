"""Loading a training picture: decoding, resizing and normalising, ours beside simple-faster-rcnn's way, in one run.

    python misc/bench_loading.py                              # photographs of VOC2007 where they are, else made ones
    python misc/bench_loading.py --folder=VOCdevkit/VOC2007/JPEGImages

Its way is Pillow, skimage's `resize(mode="reflect", anti_aliasing=False)` and torchvision's `normalize`; ours is
`read_image` and `prepare`, whose stages are timed where they happen. Both bring the short side to 600 px, the long one
to 1000 at most. One process of one thread loads each picture both ways in turn; seconds are the processor's, which
another program on the same core does not lengthen, and the files were read once before. A figure is the median over
pictures and rounds, a ratio that of the pairs' ratios.

Prints Markdown: milliseconds and pictures per second and core of each stage and of all, their ratio (above 1: ours is
faster), and how far the resized pictures are apart, of 255, but for the border, where skimage mirrors and we repeat.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")  # read when they are loaded
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from PIL import Image
from skimage.transform import resize as skimage_resize
from torchvision.transforms.functional import normalize as torchvision_normalize

from utils import image_tool
from utils.cli_tool import at_least_one
from utils.progress_tool import progress_bar

MIN_SIZE, MAX_SIZE = 600, 1000
STAGES = ("decode", "resize", "normalise", "all")
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared/data/voc2007_subset/JPEGImages"


class Stopwatch:
    """Seconds of the processor since `begin_turn`, by stage."""

    def begin_turn(self):
        self.seconds = defaultdict(float)

    def call(self, stage, function, *args, **kwargs):
        begin = time.process_time()
        out = function(*args, **kwargs)
        self.seconds[stage] += time.process_time() - begin
        return out

    def watched(self, stage, function):
        return lambda *args, **kwargs: self.call(stage, function, *args, **kwargs)


def decode(path):
    """(3, H, W) float32, 0..255."""
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)


def resize(img):
    """(3, H', W'), 0..1."""
    size = image_tool.resized_size(img.shape[1:], MIN_SIZE, MAX_SIZE)
    return skimage_resize(img / 255, (3, *size), mode="reflect", anti_aliasing=False)


def normalise(img):
    mean, std = image_tool.IMAGENET_MEAN, image_tool.IMAGENET_STD
    return torchvision_normalize(torch.from_numpy(img), mean, std).numpy()


def their_way(path, watch):
    img = watch.call("decode", decode, path)
    img = watch.call("resize", resize, img)
    return watch.call("normalise", normalise, img)


def our_way(path, watch):
    img = watch.call("decode", image_tool.read_image, path)
    return image_tool.prepare(img, MIN_SIZE, MAX_SIZE)


def distance(theirs, ours, grows):
    """The largest difference of two normalised pictures, of 255, `grows` pixels (y, x) from the border and further."""
    y, x = grows
    theirs, ours = (image_tool.inverse_normalize(img).numpy()[:, y:-y, x:-x] for img in (theirs, ours))
    return float(np.abs(theirs - ours).max())


def make_pictures(folder, n):
    """n JPEG files of 375×500, waves and grain; the paths."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:375, :500]
    paths = [Path(folder, f"{i}.jpg") for i in range(n)]
    for path in paths:
        img = np.stack([127 + 90 * np.sin(y / a + x / b) for a, b in rng.uniform(5, 60, (3, 2))], axis=2)
        img = (img + rng.normal(0, 8, img.shape)).clip(0, 255)
        Image.fromarray(img.astype(np.uint8)).save(path, quality=90)
    return paths


def measure(paths, rounds):
    """({stage: [seconds of theirs]}, {stage: [seconds of ours]}, the largest distance)."""
    watch = Stopwatch()
    # what `prepare` calls: the order of the two is its own
    image_tool.resize = watch.watched("resize", image_tool.resize)
    image_tool.normalize = watch.watched("normalise", image_tool.normalize)
    times, far = (defaultdict(list), defaultdict(list)), 0.0
    for k in progress_bar(range(rounds + 1), "rounds", unit="round", leave=False):
        for i, path in enumerate(paths):
            out = [None, None]
            for which in (0, 1) if (i + k) % 2 else (1, 0):
                watch.begin_turn()
                out[which] = watch.call("all", (their_way, our_way)[which], path, watch)
                if k > 0:  # the first round warms up
                    for stage in STAGES:
                        times[which][stage].append(watch.seconds[stage])
            if k == 0:
                height, width = image_tool.image_sizes(path)[0]
                grows = [max(1, -(-new // old)) for new, old in zip(out[1].shape[1:], (height, width), strict=True)]
                far = max(far, distance(*out, grows))
    return *times, far


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="of JPEG files; default: VOC2007's photographs, or made ones")
    parser.add_argument("--images", default=40, type=at_least_one)
    parser.add_argument("--rounds", default=3, type=at_least_one)
    args = parser.parse_args()
    folder = args.folder or PHOTOGRAPHS
    paths = sorted(folder.glob("*.jpg"))
    paths = paths[:: max(1, len(paths) // args.images)][: args.images]
    if args.folder and not paths:
        parser.error(f"--folder={folder}: no *.jpg there; name a folder of pictures")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as made:
        what = f"{len(paths)} pictures of {folder.parent.name}" if paths else f"{args.images} made pictures"
        theirs, ours, far = measure(paths or make_pictures(made, args.images), args.rounds)
    print(f"torch {torch.__version__}, Pillow {Image.__version__}; {what}, {args.rounds} rounds, one thread\n")
    columns = ["stage", "simple-faster-rcnn's, ms", "img/s per core", "ours, ms", "img/s per core", "ratio"]
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for stage in STAGES:
        cells = [stage, *(cell for own in (theirs, ours) for cell in figures(own[stage]))]
        cells.append(f"{median(a / b for a, b in zip(theirs[stage], ours[stage], strict=True)):.2f}")
        print("| " + " | ".join(cells) + " |")
    print(f"\nThe resized pictures differ by at most {far:.3f} of 255, away from the border.")


def figures(seconds):
    return f"{median(seconds) * 1e3:.2f}", f"{1 / median(seconds):.1f}"


if __name__ == "__main__":
    main()
