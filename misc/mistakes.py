"""Make mistakes in files and options, one at a time, and print as Markdown the line that each of them gives.

    python misc/mistakes.py > docs/mistakes.md

A mistake that trains all the same, ends in a traceback or says more than a line is told at the end, with exit code 1.
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fire
import torch
from PIL import Image

from model.zoo import build_model, checkpoint_content
from train import COMMANDS
from utils.checkpoint import save_checkpoint
from utils.cli_tool import run_command
from utils.config import Config, opt
from utils.progress_tool import progress_bar
from utils.proposal_tool import write_proposals

NAMES = ("cat", "dog")
SIZE = "<size><width>100</width><height>80</height><depth>3</depth></size>"
OBJECT = ("<object><name>cat</name><bndbox><xmin>11</xmin><ymin>21</ymin><xmax>61</xmax><ymax>71</ymax></bndbox>"
          "</object>")  # fmt: skip
A, INSTANCES = "voc/Annotations/a.xml", "coco/annotations/instances_val.json"
TRAIN = "train --voc-data-dir=voc --model=tiny --visdom=False "
CHECK = "check --voc-data-dir=voc --model=tiny "
COCO = "train --data=coco --coco-data-dir=coco --train-split=val --model=tiny "
EVAL = "eval --voc-data-dir=voc --detections="
LOAD = "eval --voc-data-dir=voc --load-path="
PREDICT = "predict --load-path=tiny.pth --image="


def write(path, content):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def voc_files():
    """A folder `voc` with a, b to learn from and v to be judged by; the same as `coco`; a checkpoint."""
    for name in "abv":
        write(f"voc/Annotations/{name}.xml", f"<annotation>{SIZE}{OBJECT}{OBJECT.replace('cat', 'dog')}</annotation>")
        for path in (f"voc/JPEGImages/{name}.jpg", f"coco/val/{name}.jpg"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (100, 80), "grey").save(path)
    write("voc/ImageSets/Main/train.txt", "a\nb\n")
    write("voc/ImageSets/Main/val.txt", "v\n")
    write(INSTANCES, json.dumps(coco()))
    save_checkpoint("tiny.pth", checkpoint_content(build_model("tiny", 2, NAMES, min_size=64, max_size=100)))


def coco(**others):
    """What instances_val.json has, or with other lists."""
    return {
        "images": [{"id": k, "file_name": f"{name}.jpg", "width": 100, "height": 80} for k, name in enumerate("ab")],
        "annotations": [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [10, 20, 51, 51], "iscrowd": 0}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    } | others


# Makers of mistakes: each returns a function without arguments


def text(path, content):
    return lambda: write(path, content)


def gone(path):
    return lambda: Path(path).unlink()


def edited(old, new, path=A):
    """The first `old` becomes `new`."""
    return lambda: write(path, Path(path).read_text().replace(old, new, 1))


def everywhere(old, new):
    """In both annotations to learn from."""
    return lambda: [write(path, Path(path).read_text().replace(old, new)) for path in (A, A.replace("a.xml", "b.xml"))]


def instances(**others):
    return lambda: write(INSTANCES, json.dumps(coco(**others)))


def annotation(**others):
    return instances(annotations=[coco()["annotations"][0] | others])


def results(**others):
    row = {"image_id": "v", "category_id": 1, "bbox": [10, 20, 51, 51], "score": 0.5} | others
    return text("found.json", json.dumps([{name: value for name, value in row.items() if value is not None}]))


def cut_short():
    path = Path("voc/JPEGImages/a.jpg")
    write(path, path.read_bytes()[:400])


def png_bytes():
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    return bytearray(file.getvalue())


def enormous():
    """A PNG whose header says 90,000 × 90,000 pixels."""
    content = png_bytes()
    content[16:24] = struct.pack(">II", 90_000, 90_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    write("voc/JPEGImages/a.jpg", content)


def a_bit_turned():
    content = png_bytes()
    content[len(content) // 2] ^= 1
    write("voc/JPEGImages/a.jpg", content)


class RunsCode:
    def __reduce__(self):
        return os.system, ("echo this ran",)


def hostile():
    torch.save({"model": RunsCode()}, "hostile.pth")


def compressed():
    with zipfile.ZipFile("tiny.pth") as plain, zipfile.ZipFile("compressed.pth", "w", zipfile.ZIP_DEFLATED) as smaller:
        for name in plain.namelist():
            smaller.writestr(name, plain.read(name))


def stored_proposals():
    box = torch.tensor([[1.0, 2, 30, 40]]).numpy()
    write_proposals("rois.npz", ["someone", "else"], [(box, box[:, 0])] * 2)


MISTAKES = {  # kind → (what is wrong, how it is made or None, the command)
    "Folders and lists": [
        ("no such folder", None, TRAIN.replace("=voc", "=nowhere")),
        ("the folder above", lambda: Path("VOCdevkit").mkdir() or Path("voc").rename("VOCdevkit/VOC2007"),
         TRAIN.replace("=voc", "=VOCdevkit")),
        ("a folder inside", None, TRAIN.replace("=voc", "=voc/JPEGImages")),
        ("a split that is not there", None, TRAIN + "--train-split=best"),
        ("a validation split that is not there", None, TRAIN + "--val-split=best"),
        ("a list's file in place of its split", None, TRAIN + "--val-split=val.txt"),
        ("no list at all", lambda: [gone(f"voc/ImageSets/Main/{k}.txt")() for k in ("train", "val")], TRAIN),
        ("an empty list", text("voc/ImageSets/Main/train.txt", "\n \r\n"), TRAIN),
        ("a list that is no text", text("voc/ImageSets/Main/train.txt", b"\xe9\xff\n"), TRAIN),
        ("ids with a suffix", text("voc/ImageSets/Main/train.txt", "a.jpg\nb.jpg\n"), TRAIN),
        ("an id without a picture", text("voc/ImageSets/Main/train.txt", "a\nz\n"), TRAIN),
        ("an id that leads out of the folder", text("voc/ImageSets/Main/train.txt", "../../a\n"), TRAIN),
        ("an id listed twice", text("voc/ImageSets/Main/train.txt", "a\nb\na\n"), CHECK),
        ("three splits for two folders", None, TRAIN + "--voc-data-dir=voc,voc --train-split=train,val,train"),
        ("a part of a union twice", None, TRAIN + "--voc-data-dir=voc,voc --train-split=train,train"),
        ("the other kind's folder", None, TRAIN.replace("--voc-data-dir=voc", "--coco-data-dir=coco")),
        ("a union without any part", None, TRAIN + "--train-split=-"),
    ],
    "VOC annotations": [
        ("no annotation", gone(A), TRAIN),
        ("two of them", lambda: [gone(f"voc/Annotations/{name}.xml")() for name in "ab"], TRAIN),
        ("XML that ends early", text(A, "<annotation><object>"), TRAIN),
        ("an empty file", text(A, ""), TRAIN),
        ("another XML", text(A, "<html/>"), TRAIN),
        ("entities, which might expand to gigabytes",
         text(A, '<!DOCTYPE a [<!ENTITY b "b">]><annotation>&b;</annotation>'), TRAIN),
        ("an unknown encoding", text(A, '<?xml version="1.0" encoding="x"?><annotation/>'), TRAIN),
        ("an object without a class", edited("<name>cat</name>", ""), TRAIN),
        ("an object without a box", text(A, "<annotation><object><name>cat</name></object></annotation>"),
         TRAIN),
        ("a box without a corner", edited("<xmax>61</xmax>", ""), TRAIN),
        ("a corner in words", edited("<xmin>11<", "<xmin>left<"), TRAIN),
        ("a corner that is no number", edited("<xmin>11<", "<xmin>nan<"), CHECK),
        ("a class that --label-names has not", None, TRAIN + "--label-names=cat,cow"),
        ("a class with a slip", edited("<name>dog<", "<name>dogg<"), TRAIN + "--label-names=cat,dog"),
        ("none but difficult objects", everywhere("</name>", "</name><difficult>1</difficult>"), TRAIN),
        ("two corners of one kind", edited("<xmin>11<", "<xmin>9</xmin><xmin>11<"), TRAIN),
        ("another word for object", everywhere("object>", "item>"), TRAIN),
        ("no object at all", lambda: [write(f"voc/Annotations/{k}.xml", "<annotation/>") for k in "abv"], TRAIN),
        ("a box without area", edited("<xmax>61<", "<xmax>11<"), CHECK),
        ("a box with its corners exchanged", edited("<xmax>61<", "<xmax>5<"), CHECK),
        ("a box outside", lambda: (edited("<xmax>61<", "<xmax>261<")(), edited("<xmin>11<", "<xmin>211<")()), CHECK),
        ("a box that reaches out", edited("<xmax>61<", "<xmax>120<"), CHECK),
        ("another picture's size", edited("<width>100<", "<width>200<"), CHECK),
    ],
    "Pictures": [
        ("a text", text("voc/JPEGImages/a.jpg", "not a picture"), TRAIN),
        ("no byte", text("voc/JPEGImages/a.jpg", ""), TRAIN),
        ("half of a picture", cut_short, TRAIN),
        ("a bit of a PNG turned", a_bit_turned, TRAIN),
        ("a picture of gigabytes", enormous, TRAIN),
        ("a folder", lambda: (gone("voc/JPEGImages/a.jpg")(), Path("voc/JPEGImages/a.jpg").mkdir()), TRAIN),
        ("a pipe", lambda: (gone("voc/JPEGImages/a.jpg")(), os.mkfifo("voc/JPEGImages/a.jpg")), TRAIN),
    ],
    "COCO's instances": [
        ("no such folder", None, COCO.replace("dir=coco", "dir=nowhere")),
        ("no such split", None, COCO + "--train-split=best"),
        ("JSON that ends early", text(INSTANCES, '{"images": ['), COCO),
        ("bytes that are no text", text(INSTANCES, b"\xff\xfe{"), COCO),
        ("another JSON", text(INSTANCES, "[1, 2]"), COCO),
        ("no list of images", instances(images=None), COCO),
        ("no image", instances(images=[]), COCO),
        ("an image without a file", instances(images=[{"id": 1}]), COCO),
        ("a picture outside of the folder", instances(images=[{"id": 1, "file_name": "a.jpg"},
                                                              {"id": 2, "file_name": "../../../b.jpg"}]), COCO),
        ("a width that no picture has",
         instances(images=[{"id": 1, "file_name": "a.jpg", "width": 10**9, "height": 80}]), COCO),
        ("two images with one id", instances(images=[{"id": 1, "file_name": "a.jpg"}] * 2), COCO),
        ("numbers and texts as ids",
         instances(images=[{"id": 1, "file_name": "a.jpg"}, {"id": "x", "file_name": "b.jpg"}]), COCO),
        ("a picture that is nowhere", gone("coco/val/a.jpg"), COCO),
        ("pictures that are nowhere", lambda: Path("coco/val").rename("coco/elsewhere"), COCO),
        ("no category", instances(categories=[]), COCO),
        ("a category without a name", instances(categories=[{"id": 3, "name": " "}]), COCO),
        ("two categories with one name",
         instances(categories=[{"id": k, "name": "cat"} for k in (3, 4)],
                   annotations=[coco()["annotations"][0] | {"category_id": k} for k in (3, 4)]), COCO),
        ("an unknown category", annotation(category_id=5), COCO),
        ("a category in words", annotation(category_id="cat"), COCO),
        ("three numbers for a box", annotation(bbox=[1, 2, 3]), COCO),
        ("a box in words", annotation(bbox="1 2 3 4"), COCO),
        ("a box of no picture", annotation(image_id=77), COCO.replace("train", "check", 1)),
        ("corners in place of sides", annotation(bbox=[50, 40, -20, -10]), COCO.replace("train", "check", 1)),
    ],
    "Options": [
        ("a command with a slip", None, "trian --voc-data-dir=voc"),
        ("a word that is no option", None, "train voc"),
        ("an unknown option", None, TRAIN + "--learning-rate=1"),
        ("an option with a slip", None, TRAIN + "--batchsize=2"),
        ("a word for a number", None, TRAIN + "--lr=fast"),
        ("half an epoch", None, TRAIN + "--epoch=1.5"),
        ("no epoch", None, TRAIN + "--epoch=0"),
        ("neither yes nor no", None, TRAIN + "--use-adam=maybe"),
        ("not a number", None, TRAIN + "--lr=nan"),
        ("too much jitter", None, TRAIN + "--jitter=2"),
        ("a probability in words", None, TRAIN + "--scale-crop=often"),
        ("an option of another command", None, LOAD + "tiny.pth --num-workers=2"),
        ("options of a run that is not there", None, TRAIN + "--config=runs/gone"),
        ("little and much to be said", None, TRAIN + "--quiet --verbose"),
        ("an unknown model", None, TRAIN + "--model=vgg61"),
        ("an unknown device", None, TRAIN + "--device=gpu"),
        ("float16 on a CPU", None, TRAIN + "--device=cpu --amp=fp16"),
        ("sizes in the wrong order", None, TRAIN + "--min-size=2000"),
        ("thresholds in the wrong order", None, TRAIN + "--rpn-neg-iou=0.8"),
        ("a server that listens on no address", None, TRAIN + "--visdom-bind=all"),
        ("more stages than there are", None, TRAIN + "--freeze-at=6"),
        ("two checkpoints", None, TRAIN + "--load-path=tiny.pth --finetune=tiny.pth"),
        ("two sources of weights", None, TRAIN + "--load-path=tiny.pth --pretrained-path=x.pth"),
        ("caffe's weights for another model", None, TRAIN + "--caffe-pretrain=True"),
        ("a class twice", None, TRAIN + "--label-names=cat,dog,cat"),
        ("a run's name that leads elsewhere", None, TRAIN + "--name=../up"),
        ("a run that is there already", text("runs/first/last.pth", "x"), TRAIN + "--name=first"),
        ("Fast R-CNN without proposals", None, TRAIN + "--schedule=fast_rcnn"),
        ("proposals that nothing reads", None, TRAIN + "--schedule=rpn --proposals=rois.npz"),
        ("proposals of other pictures", stored_proposals, TRAIN + "--schedule=fast_rcnn --proposals=rois.npz"),
    ],
    "Checkpoints": [
        ("no such file", None, LOAD + "gone.pth"),
        ("no file named", None, "predict --image=voc/JPEGImages"),
        ("a text", text("x.pth", "weights"), LOAD + "x.pth"),
        ("half of a file", lambda: write("x.pth", Path("tiny.pth").read_bytes()[:5000]), LOAD + "x.pth"),
        ("one that would run code", hostile, LOAD + "hostile.pth"),
        ("one whose records are compressed", compressed, LOAD + "compressed.pth"),
        ("a pipe in its place", lambda: os.mkfifo("pipe.pth"), LOAD + "pipe.pth"),
        ("another model's", None, LOAD + "tiny.pth --model=resnet18_c4"),
        ("names for other classes", None, LOAD + "tiny.pth --label-names=cat"),
        ("a class in the data that it has not", edited("<name>dog<", "<name>cow<", "voc/Annotations/v.xml"),
         LOAD + "tiny.pth"),
    ],
    "Detections to score": [
        ("neither a checkpoint nor detections", None, "eval --voc-data-dir=voc"),
        ("both", None, LOAD + "tiny.pth --detections=found.json"),
        ("no such file", None, EVAL + "gone.json"),
        ("JSON that ends early", text("found.json", "[{"), EVAL + "found.json"),
        ("another JSON", text("found.json", "3"), EVAL + "found.json"),
        ("no score", results(score=None), EVAL + "found.json"),
        ("an unknown category", results(category_id=99), EVAL + "found.json"),
        ("a score that is no number", results(score=float("nan")), EVAL + "found.json"),
        ("a negative side", results(bbox=[50, 40, -20, 10]), EVAL + "found.json"),
        ("another set's", results(image_id=77), EVAL + "found.json"),
        ("VOC's with a number missing",
         text("comp4_det_test_cat.txt", "v 0.5 1 2 3\n"), EVAL + "comp4_det_test_cat.txt"),
        ("VOC's of an unknown class", text("comp4_det_test_lion.txt", ""), EVAL + "comp4_det_test_lion.txt"),
        ("VOC's with the score at the end", text("comp4_det_test_cat.txt", "v 60 60 90 70 0.5"),
         EVAL + "comp4_det_test_cat.txt"),
        ("a folder without any", None, EVAL + "voc"),
        ("an IoU above 1", results(), EVAL + "found.json --iou-thresh=2"),
        ("a place that takes no file", results(), EVAL + "found.json --out=tiny.pth/x.json"),
        ("a place that takes no detections", results(), EVAL + "found.json --save-detections=tiny.pth/x.json"),
    ],
    "Pictures and videos to predict on": [
        ("nothing named", None, PREDICT.replace(" --image=", "")),
        ("nothing there", None, PREDICT + "nothing*.jpg"),
        ("a folder without pictures", None, PREDICT + "voc/Annotations"),
        ("a folder of pictures' folder", None, PREDICT + "voc"),
        ("a text", None, PREDICT + A),
        ("a text called a video", text("film.mp4", "no film"), PREDICT + "film.mp4"),
        ("every frame of none", None, PREDICT + "voc/JPEGImages --every=0"),
        ("an unknown form", None, PREDICT + "voc/JPEGImages --save=xml"),
        ("the pictures' own folder", None, PREDICT + "voc/JPEGImages --out=voc/JPEGImages"),
        ("a place that takes no folder", None, PREDICT + "voc/JPEGImages --out=tiny.pth"),
    ],
}  # fmt: skip


def line_of(make, words):
    """What a command says of a mistake: its exit code and the line, of `check` the one above the sum."""
    if make:
        make()
    opt.__dict__.update(Config().__dict__)
    opt.given = frozenset()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_command(COMMANDS, words.split(), fire)
    lines = [line for line in err.getvalue().splitlines() if line.startswith(("error: ", "Traceback"))]
    if words.startswith("check") and len(lines) == 1:
        lines = [line for line in out.getvalue().splitlines() if re.match(r"(voc|coco)/", line)]
    return code, " ⏎ ".join(lines)


def main():
    failed = []
    n = sum(map(len, MISTAKES.values()))
    print("# What a mistake gives\n")
    print(
        f"{n} mistakes in files and options, each made and run by `python misc/mistakes.py`, which printed this page."
    )
    print(
        "The exit code is 2 each time. Each is made in a folder with a VOC data set `voc`, the same in COCO's form as"
    )
    print("`coco`, and a checkpoint `tiny.pth`.")
    with (
        tempfile.TemporaryDirectory() as files,
        progress_bar(total=n, desc="mistakes", unit="mistake", leave=False) as bar,
    ):
        with contextlib.chdir(files):
            voc_files()
        for kind, rows in MISTAKES.items():
            print(f"\n## {kind}\n\n| mistake | the line |\n|---|---|")
            for what, make, words in rows:
                with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                    shutil.copytree(files, folder, dirs_exist_ok=True)
                    os.environ["XDG_CACHE_HOME"] = str(Path(folder, "cache"))
                    code, line = line_of(make, words)
                print(f"| {what} | `{line.replace('|', '¦')}` |")
                if code != 2 or not line or "⏎" in line or "Traceback" in line:
                    failed.append(f"{kind}, {what}: exit code {code}, {line!r}")
                bar.update()
    for line in failed:
        print(line, file=sys.stderr)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
