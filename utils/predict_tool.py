"""Running a detector over picture files, for people to look at."""

import glob
import json
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from utils.draw_tool import draw_bboxes
from utils.errors import UserError
from utils.image_tool import read_image
from utils.inference_tool import in_chunks

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def find_images(pattern):
    """Picture files of a path, a folder (not below it) or a glob, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(pattern)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in path.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
        what = f"no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}) in this folder"
    else:
        found = [p for p in map(Path, glob.glob(str(pattern), recursive=True)) if p.is_file()]
        what = "no such file or folder, and nothing matches it as a pattern"
    if not found:
        raise UserError(f"--image={pattern}: {what}; check the path")
    return sorted(found)


def detection_record(path, size, bbox, label, score, label_names):
    """One picture's detections as plain values: boxes as x_min, y_min, x_max, y_max in pixels, best first."""
    boxes = [
        {
            "label": label_names[k],
            "score": round(float(s), 6),
            "bbox": [round(float(v), 2) for v in (x_min, y_min, x_max, y_max)],
        }
        for (y_min, x_min, y_max, x_max), k, s in zip(bbox, label, score, strict=True)
    ]
    return {"image": str(path), "height": size[0], "width": size[1], "detections": boxes}


def predict_files(model, paths, out_dir, n_together=1):
    """Detect in picture files; write each with its boxes drawn, and all boxes to `detections.json`.

    A picture that can't be read is reported and left out: the others are not lost for it.

    Args:
        n_together: pictures given to `predict` at a time.

    Returns:
        (records, problems): what went into the file, and one line for each picture left out.

    Raises:
        UserError: `out_dir` can't be written, or not one picture could be read.
    """
    out_dir = Path(out_dir)
    records, problems = [], []
    names = _distinct_names(paths)
    if {(out_dir / name).resolve() for name in names} & {Path(path).resolve() for path in paths}:
        raise UserError(f"--out={out_dir}: holds the pictures themselves, which would be lost; choose another folder")
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        waiting = zip(tqdm(paths, desc="predict", unit="img", disable=len(paths) < 2), names, strict=True)
        for chunk in in_chunks(waiting, n_together):
            pictures = []
            for path, name in chunk:
                try:
                    pictures.append((path, name, read_image(path)))
                except UserError as error:
                    problems.append(str(error))
            detections = model.predict([img for _, _, img in pictures])
            for (path, name, img), bbox, label, score in zip(pictures, *detections, strict=True):
                records.append(detection_record(path, img.shape[1:], bbox, label, score, model.detected_names))
                drawn = draw_bboxes(img, bbox, label, score, model.detected_names)
                Image.fromarray(drawn).save(out_dir / name, quality=95)
        document = {"box_format": "x_min, y_min, x_max, y_max in pixels", "images": records}
        (out_dir / "detections.json").write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
    except OSError as error:
        raise UserError(
            f"--out={out_dir}: can't be written ({error.strerror or error}); choose another folder"
        ) from None
    if not records:
        raise UserError(problems[0])
    return records, problems


def _distinct_names(paths):
    """A .jpg name for each path; pictures of one name from several folders keep their folder's name with it."""
    stems = [path.stem for path in paths]
    names, taken = [], set()
    for path, stem in zip(paths, stems, strict=True):
        if stems.count(stem) > 1:
            stem = f"{path.parent.name}_{stem}_{path.suffix[1:]}"
        while stem in taken:
            stem += "_"
        taken.add(stem)
        names.append(f"{stem}.jpg")
    return names
