"""Turn Visual Genome's objects (Krishna et al. 2017) into COCO's form, which `--data=coco` reads.

    python misc/visual_genome_to_coco.py --data-dir=visual_genome --n-classes=150
    python misc/visual_genome_to_coco.py --data-dir=visual_genome --names=objects_vocab.txt
    python train.py train --data=coco --coco-data-dir=visual_genome --train-split=train --val-split=val

In the folder are objects.json, image_data.json and the pictures, in VG_100K/ and VG_100K_2/; written are
annotations/instances_train.json and instances_val.json. People wrote the names freely, so a class is either one of the
commonest, or a line of a file, which may have several names with commas between, the class's own first. Boxes that
reach out of their picture are cut to it.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.errors import UserError, run_program
from utils.file_tool import whole_file
from utils.json_tool import read_json
from utils.progress_tool import progress_bar
from utils.safe_read import read_bounded

FOLDERS = ("VG_100K", "VG_100K_2")


def read_rows(path):
    """A list of objects. Raises UserError for anything else."""
    if not path.exists():
        raise UserError(f"{path}: no such file; --data-dir is the folder with Visual Genome's JSON files")
    rows = read_json(path, "get the file anew")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path}: not a list of objects; is this a file of Visual Genome's?")
    return rows


def plain_names(row):
    """The names of an object as they were written, in lower case, each with single spaces."""
    names = row.get("names") or row.get("name", "")
    names = [names] if isinstance(names, str) else names
    return [" ".join(str(name).lower().split()) for name in names]


def commonest(images, n):
    """The `n` names that most objects have, the commonest first."""
    counts = Counter(name for image in images for row in image["objects"] for name in plain_names(row) if name)
    return {name: name for name, _ in counts.most_common(n)}


def read_names(path):
    """Name → its class, from lines of names with commas between, the class's own first."""
    try:
        lines = read_bounded(path).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--names={path}: cannot be read ({error}); give a text with a class a line") from None
    classes = {}
    for line in lines:
        names = [" ".join(name.lower().split()) for name in line.split(",") if name.strip()]
        for name in names:
            classes.setdefault(name, names[0])
    if not classes:
        raise UserError(f"--names={path}: names no class; write one a line")
    return classes


def cut_box(row, width, height):
    """[x, y, width, height] of the part of an object's box that lies in the picture; None where nothing is left."""
    x, y = max(row["x"], 0), max(row["y"], 0)
    w, h = min(row["x"] + row["w"], width) - x, min(row["y"] + row["h"], height) - y
    return [x, y, w, h] if w > 0 and h > 0 else None


def convert(data_dir, images, class_of, val_share=0.05, seed=0):
    """The instances of both splits, and how many objects were left out.

    Args:
        data_dir: Visual Genome's folder.
        images: the rows of objects.json.
        class_of: name → class.
        val_share: 0..1, of the pictures, drawn with `seed`.

    Returns:
        {"train": content, "val": content} of those that have pictures, and a Counter of why objects were left out.
    """
    images = list({image["image_id"]: image for image in images}.values())  # each once
    sizes = {row["image_id"]: (row["width"], row["height"]) for row in read_rows(data_dir / "image_data.json")}
    category = {name: k for k, name in enumerate(dict.fromkeys(class_of.values()), 1)}
    categories = [{"id": k, "name": name} for name, k in category.items()]
    content = {split: {"images": [], "annotations": [], "categories": categories} for split in ("train", "val")}
    is_val = np.random.default_rng(seed).permutation(len(images)) < round(val_share * len(images))
    left_out = Counter()
    for image, val in zip(progress_bar(images, "images", unit="img"), is_val, strict=True):
        image_id, own = image["image_id"], content["val" if val else "train"]
        width, height = sizes[image_id]
        file_name = f"{picture_folder(data_dir, image_id)}/{image_id}.jpg"
        own["images"].append({"id": image_id, "file_name": file_name, "width": width, "height": height})
        for row in image["objects"]:
            known = [class_of[name] for name in plain_names(row) if name in class_of]
            box = cut_box(row, width, height)
            if not known or box is None:
                left_out["outside of their picture" if known else "another name"] += 1
                continue
            own["annotations"].append({
                "id": len(own["annotations"]) + 1, "image_id": image_id, "category_id": category[known[0]],
                "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
            })  # fmt: skip
    return {split: own for split, own in content.items() if own["images"]}, left_out


def picture_folder(data_dir, image_id):
    for folder in FOLDERS:
        if (data_dir / folder / f"{image_id}.jpg").exists():
            return folder
    raise UserError(f"{data_dir}: no picture {image_id}.jpg in {' or '.join(FOLDERS)}; put the pictures there")


def main(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="Visual Genome's folder")
    parser.add_argument("--n-classes", type=int, default=150, help="take the commonest names for classes")
    parser.add_argument("--names", help="a file with a class a line, in place of these")
    parser.add_argument("--val-share", type=float, default=0.05, help="share of the pictures to evaluate on")
    parser.add_argument("--seed", type=int, default=0, help="of this share")
    args = parser.parse_args(argv)
    if args.n_classes < 1:
        raise UserError(f"--n-classes={args.n_classes}: must be at least 1")
    if not 0 <= args.val_share < 1:
        raise UserError(f"--val-share={args.val_share}: must be from 0 to less than 1")
    if args.seed < 0:
        raise UserError(f"--seed={args.seed}: must be at least 0")
    images = read_rows(args.data_dir / "objects.json")
    if not images:
        raise UserError(f"{args.data_dir / 'objects.json'}: has no images; get the file anew")
    try:
        class_of = read_names(args.names) if args.names else commonest(images, args.n_classes)
        content, left_out = convert(args.data_dir, images, class_of, args.val_share, args.seed)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{args.data_dir}: its JSON files are not Visual Genome's ({error}); get them anew") from None
    paths = {split: args.data_dir / "annotations" / f"instances_{split}.json" for split in ("train", "val")}
    for split in paths.keys() - content.keys():
        paths[split].unlink(missing_ok=True)  # an earlier run's, with pictures that are in the other split now
    for split, own in content.items():
        path = paths[split]
        try:
            with whole_file(path) as partial:
                partial.write_text(json.dumps(own), "utf-8")
        except OSError as error:
            raise UserError(f"{path}: can't be written ({error.strerror}); check the folder and its rights") from None
        counts = f"{len(own['images']):,} images, {len(own['annotations']):,} boxes, {len(own['categories'])} classes"
        print(f"{path}: {counts}")
    print(f"left out: {', '.join(f'{n:,} objects ({what})' for what, n in left_out.items()) or 'nothing'}")
    print(
        f"next: python train.py check --data=coco --coco-data-dir={args.data_dir} --train-split={next(iter(content))}"
    )


if __name__ == "__main__":
    run_program(main)
