"""Running a detector: over a dataset, for evaluation, and over picture files, for people to look at."""

import glob
import json
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from utils.draw_tool import draw_bboxes
from utils.errors import UserError
from utils.eval_tool import evaluate_detections
from utils.image_tool import read_image

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def _chunks(rows, n, on_progress=None):
    """Lists of `n` rows; `on_progress` is told of those that were used."""
    rows = iter(rows)
    while chunk := list(islice(rows, n)):
        yield chunk
        if on_progress:
            on_progress(len(chunk))


def evaluate_model(model, loader, on_progress=None, n_together=1, raw=False, rois=None):
    """Detect in every image of `loader` and score what was found.

    Only the boxes are kept: memory grows by the detections and the true boxes, not by the pictures.

    Args:
        model: a `FasterRCNN`.
        loader: yields (img, (H, W), bbox, label, difficult), see `data.dataset.TestDataset`.
        raw: img is a picture that `predict` shall prepare; else it is prepared.
        on_progress: called with the number of images that were done since the last call.
        n_together: images given to `predict` at a time: some batches, so that images of one size find each other.
        rois: for each image (P, 4) boxes in its pixels, in place of the RPN's proposals.

    Returns:
        `VOCResult`; of an RPN alone, for the one class of all objects.

    Raises:
        UserError: `rois` for an RPN alone.
    """
    if rois is not None and model.rpn_only:
        raise UserError("--proposals: the checkpoint is an RPN, which makes its own; leave them out")
    columns = [[] for _ in range(6)]  # predicted bboxes, labels, scores; true bboxes, labels, difficults
    for chunk in _chunks(loader, n_together, on_progress):
        imgs, sizes, *truth = zip(*chunk, strict=True)
        begin = len(columns[0])
        own = None if rois is None else rois[begin : begin + len(chunk)]
        detections = model.predict(imgs, None if raw else sizes, rois=own)
        for column, values in zip(columns, (*detections, *truth), strict=True):
            column.extend(values)
    if model.rpn_only:
        columns[4] = [np.zeros_like(label) for label in columns[4]]
    return evaluate_detections(*columns, label_names=model.detected_names)


def propose_all(model, loader, n_pre_nms, n_post_nms, on_progress=None, n_together=1, raw=False):
    """The RPN's proposals for each image of `loader`; the other arguments are those of `evaluate_model`.

    Args:
        n_pre_nms, n_post_nms: at most so many before their suppression, of each level, and after it; whatever their
            score.

    Returns:
        (bbox, score) of each image, see `FasterRCNN.propose`.
    """
    layer = model.rpn.proposal_layer
    usual = layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh
    layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh = n_pre_nms, n_post_nms, 0.0
    proposals = []
    try:
        for chunk in _chunks(loader, n_together, on_progress):
            imgs, sizes, *_ = zip(*chunk, strict=True)
            proposals += model.propose(imgs, None if raw else sizes)
    finally:
        layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh = usual
    return proposals


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
        for chunk in _chunks(waiting, n_together):
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
