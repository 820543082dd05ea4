"""Running a detector over picture and video files, for people to look at or to correct."""

import errno
import glob
import json
import os
import sys
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.draw_tool import draw_bboxes
from utils.errors import UserError
from utils.file_tool import prepare_folder, refuse_no_file, whole_file
from utils.image_tool import IMAGE_SUFFIXES, read_image, write_jpeg
from utils.inference_tool import in_chunks
from utils.precision_tool import amp_dtype, autocast
from utils.progress_tool import progress_bar
from utils.terminal_tool import say, say_result, warn
from utils.video_tool import VIDEO_SUFFIXES, VideoReader, VideoWriter, is_video
from utils.voc_tool import SPLIT, VOCWriter, voc_id
from utils.word_tool import counted, few

WRITTEN = {
    "pictures": "drawn pictures",
    "json": "detections.json",
    "voc": f"VOC annotations (the split {SPLIT})",
}
# the commonest in front, for a message
_KNOWN = tuple(dict.fromkeys([".jpg", ".png", ".mp4", *sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES)]))


def find_images(pattern):
    """Picture and video files of a path, a folder (not below it) or a glob, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(pattern)
    if os.path.isfile(path):  # pathlib's raise where a name is longer than one may be
        return [path]
    advice = "check the path"
    if os.path.isdir(path):
        found = _readable(path.iterdir())
        what = f"no pictures or videos ({few(_KNOWN, 3)}) in this folder"
        if below := () if found else sorted(_readable(path.glob("*/*"))):
            advice = f"did you mean {below[0].parent}?"
    else:
        found = [p for p in map(Path, glob.glob(str(pattern), recursive=True)) if p.is_file()]
        what = "no such file or folder, and nothing matches it as a pattern"
    if not found:
        raise UserError(f"--image={pattern}: {what}; {advice}")
    return sorted(found)


def _readable(paths):
    return [p for p in paths if p.suffix.lower() in _KNOWN and p.is_file()]


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


def predict_files(model, paths, out_dir, n_together=1, save=("pictures", "json"), every=1, overwrite=False):
    """Detect in picture and video files, and write what was found into a folder.

    What can't be read is reported and left out: the others are not lost for it. When the run is stopped (Ctrl-C), what
    it found by then is written, and said.

    The names in the folder are those of the files. Those of an earlier run are overwritten, other files stay:
    detections.json and the list predicted.txt are of the last run that wrote them. Annotations are only replaced with
    `overwrite`, the files in `paths` never.

    Args:
        n_together: pictures given to `predict` at a time.
        save: what is written:
            pictures: each with its boxes drawn, NAME.jpg; of a video NAME.mp4, see `VideoWriter`.
            json: detections.json, with a `detection_record` of each picture and frame; a frame's has `frame`, its
                number in the video from 0, and `time`, in seconds from the first frame.
            voc: a folder in VOC's layout, see `VOCWriter`.
        every: of a video, each `every`-th frame.
        overwrite: annotations that are there may be replaced.

    Returns:
        (records, problems): the records, and a line for whatever was left out.

    Raises:
        UserError: `out_dir` can't be written or has what must not be overwritten, or not one picture could be read.
    """
    out_dir = Path(out_dir)
    records, problems = [], []
    sources = [(path, name, is_video(path)) for path, name in zip(paths, _distinct_names(paths), strict=True)]
    drawn = {(out_dir / f"{name}.{'mp4' if video else 'jpg'}").resolve() for _, name, video in sources}
    if "pictures" in save and drawn & {path.resolve() for path in paths}:
        raise UserError(f"--out={out_dir}: holds the pictures themselves, which would be lost; choose another folder")
    try:
        with ExitStack() as stack:  # what happens at its end happens whatever ends it
            prepare_folder(out_dir)
            voc = VOCWriter(out_dir, sources, overwrite) if "voc" in save else None
            drawings = _Drawings(out_dir)
            if "json" in save:
                refuse_no_file(out_dir / "detections.json")
                stack.callback(_write_json, out_dir / "detections.json", records)
            if voc:
                stack.callback(voc.close)
            stack.callback(drawings.close)
            shots = stack.enter_context(closing(_read(sources, every, problems)))
            for chunk in in_chunks(shots, n_together):
                detections = model.predict([shot.img for shot in chunk])
                for shot, bbox, label, score in zip(chunk, *detections, strict=True):
                    records.append(_record(shot, bbox, label, score, model.detected_names))
                    if "pictures" in save:
                        with _noting(shot, problems):
                            drawings.write(shot, draw_bboxes(shot.img, bbox, label, score, model.detected_names))
                    if voc:
                        names = [model.detected_names[k] for k in label]
                        with _noting(shot, problems):
                            if shot.frame is None:
                                voc.add_picture(shot.path, shot.name, shot.img, bbox, names)
                            else:
                                voc.add_frame(shot.name, shot.frame, shot.img, bbox, names)
    except OSError as error:
        raise UserError(
            f"--out={out_dir}: can't be written ({error.strerror or error}); choose another folder"
        ) from None
    except (KeyboardInterrupt, SystemExit):
        if records:
            say(f"stopped; {summary(records, save, out_dir)}", file=sys.stderr)
        raise
    if not records:
        raise UserError(problems[0])
    return records, problems


def summary(records, save, out_dir):
    """One line: how much was found in how much, and where it was written."""
    objects = counted(sum(len(record["detections"]) for record in records), "object")
    n_frames = sum("frame" in record for record in records)
    counts = [counted(n, what) for n, what in ((len(records) - n_frames, "picture"), (n_frames, "frame")) if n]
    *first, last = (what for name, what in WRITTEN.items() if name in save)
    written = f"{', '.join(first)} and {last}" if first else last
    return f"{objects} in {' and '.join(counts)}; in {out_dir}: {written}"


def draw(opt, model, paths, out_dir, every=1):
    """What `predict` does with files: write and say what `model` sees in them; `opt` is a `Config`."""
    with autocast(model.device, amp_dtype(opt.amp, model.device)):
        n_together = 8 if model.device.type == "cuda" else 1
        records, problems = predict_files(model, paths, out_dir, n_together, opt.save, every, opt.overwrite)
    for line in problems:
        warn(line)
    say_result(summary(records, opt.save, out_dir))


class _Shot(NamedTuple):
    """A picture, or a frame of a video."""

    path: Path  # of the file
    name: str  # of what is written about the file
    img: np.ndarray  # (3, H, W) float32 RGB, 0..255
    frame: int | None = None  # its number in the video
    time: float | None = None  # seconds since the video's first frame
    rate: Fraction | None = None  # frames/s that are taken of the video


def _read(sources, every, problems):
    """Yield each picture and each `every`-th frame, with a bar; what can't be read is a line in `problems`."""
    total = sum(not video for _, _, video in sources)
    quiet = len(sources) < 2 and total == len(sources)
    with progress_bar(total=total, desc="predict", unit="img", disable=quiet) as bar:
        for path, name, video in sources:
            try:
                if not video:
                    bar.update()
                    yield _Shot(path, name, read_image(path))
                    continue
                with VideoReader(path, every) as reader:
                    # known when it is opened, if the file says it at all
                    bar.total = bar.total + reader.n_frames if None not in (bar.total, reader.n_frames) else None
                    bar.refresh()
                    for index, time, img in reader:
                        yield _Shot(path, name, img, index, time, reader.rate / every)
                        bar.update()
                problems.extend(reader.problems)
            except UserError as error:
                problems.append(str(error))


@contextmanager
def _noting(shot, problems):
    """Go on behind the block where `shot` has no such form; one line for all frames of a video."""
    line = None
    try:
        yield
    except UserError as error:
        line = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        line = f"{shot.path}: the name of what is written of it is too long; rename it"
    if line and line not in problems:
        problems.append(line)


def _record(shot, bbox, label, score, label_names):
    record = detection_record(shot.path, shot.img.shape[1:], bbox, label, score, label_names)
    if shot.frame is None:
        return record
    image = record.pop("image")
    return {"image": image, "frame": shot.frame, "time": round(shot.time, 4), **record}


def _write_json(path, records):
    """`records` for programs: a document that says how its boxes are meant. None of no records."""
    if records:
        document = {"box_format": "x_min, y_min, x_max, y_max in pixels", "images": records}
        text = json.dumps(document, indent=1, ensure_ascii=False)
        with whole_file(path) as partial:  # a file's name that is no UTF-8 is written as JSON's own escape
            partial.write_text(text, "utf-8", errors="backslashreplace")


class _Drawings:
    """Drawn pictures, and of each video's frames a drawn video."""

    def __init__(self, folder):
        self._folder, self._name, self._video = folder, None, None

    def write(self, shot, rgb):
        """Write (H, W, 3) uint8 RGB, what was drawn of `shot`. The frames of a video come one after the other."""
        if shot.frame is None:
            write_jpeg(self._folder / f"{shot.name}.jpg", rgb)
            return
        if shot.name != self._name:
            self.close()
            self._name, self._video = shot.name, VideoWriter(self._folder / f"{shot.name}.mp4", shot.rate)
        if self._video:
            try:
                self._video.write(rgb, shot.time)
            except UserError:  # which is told once: its other frames would be alike
                self._video = None
                raise

    def close(self):
        """Write the end of the last video."""
        if self._video:
            self._video.close()
            self._video = None


def _distinct_names(paths):
    """A name for what is written of each path; files of one name from several folders keep their folder's with it."""
    stems = [voc_id(path.stem) for path in paths]
    counts = Counter(stems)
    names, taken = [], set()
    for path, stem in zip(paths, stems, strict=True):
        if counts[stem] > 1:
            stem = voc_id(f"{path.parent.name}_{stem}_{path.suffix[1:]}")
        while stem in taken:
            stem += "_"
        taken.add(stem)
        names.append(stem)
    return names
