"""The commands on the kinds of data that people have, as a user runs them."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from data.splits import open_split
from data.voc_dataset import VOCBboxDataset
from misc.make_toy_voc import make_toy_voc
from tests.test_train import SMALL, run, run_anew
from tests.voc_folder import annotation, make_voc, obj
from utils.bbox_tools import yxyx2xywh
from utils.detections import read_detections, write_detections

QUIET = ["--visdom=False", "--use-adam=True", "--lr=0.001"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A folder with the toy data as `voc`, and the same in COCO's form as `coco`, with ids that have gaps."""
    folder = tmp_path_factory.mktemp("data")
    make_toy_voc(folder / "voc", n_train=8, n_val=5, size=96)
    for split in ("train", "val"):
        db = VOCBboxDataset(folder / "voc", split, use_difficult=True)
        images, annotations = [], []
        for i, name in enumerate(db.ids):
            height, width = db.size(i)
            images.append({"id": 1000 + 7 * i, "file_name": f"{name}.png", "width": width, "height": height})
            bbox, label, difficult = db.get_annotation(i)
            for box, k, crowd in zip(yxyx2xywh(bbox).tolist(), label.tolist(), difficult.tolist(), strict=True):
                annotations.append({"id": len(annotations), "image_id": 1000 + 7 * i, "category_id": 3 + 5 * k,
                                    "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)})  # fmt: skip
            path = folder / f"coco/{split}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(db[i][0].astype(np.uint8).transpose(1, 2, 0)).save(path)
        categories = [{"id": 3 + 5 * k, "name": name} for k, name in enumerate(db.label_names)]
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "coco/annotations").mkdir(exist_ok=True)
        (folder / f"coco/annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


def test_coco_trains_as_voc_does(toy):
    """The same pictures and boxes, read from either form, give the same network and the same numbers."""
    results = {}
    for kind in ("voc", "coco"):
        data = [f"--data={kind}", f"--{kind}-data-dir={kind}"]
        done = run(toy, "train", *SMALL, *QUIET, *data, "--epoch=1", f"--name={kind}")
        where = "--data=coco --coco-data-dir=coco" if kind == "coco" else "--voc-data-dir=voc"
        assert f"train.py eval --load-path=runs/{kind}/best.pth {where} --val-split=val" in done.stdout
        path = f"--load-path=runs/{kind}/best.pth"
        run(toy, "eval", path, *data, "--test-num-workers=0", f"--out={kind}.json")
        results[kind] = json.loads((toy / f"{kind}.json").read_text())
    done = run(toy, "propose", path, *data, "--test-num-workers=0")  # of COCO's form
    assert "proposals for 5 images" in done.stdout
    assert results["voc"]["data_dir"] == "voc"
    assert results["coco"]["ap"] == results["voc"]["ap"]
    assert results["coco"]["label_names"] == results["voc"]["label_names"]


def test_a_union_trains(toy):
    data = ["--voc-data-dir=voc,voc", "--train-split=train,val", "--val-split=val"]
    done = run(toy, "train", *SMALL, *QUIET, *data, "--epoch=1", "--name=union")
    assert "train + val: 13 images" in done.stdout
    assert "7 steps of 2 images" in done.stdout
    assert "\nval: 5 images" in done.stdout
    done = run(toy, "train", *SMALL, *data[:1], "--train-split=a,b,c", code=2)
    assert done.stderr.strip() == ("error: a,b,c: 3 splits for 2 folders (voc,voc); name one split, or one for each")


# What the data hold


def test_check_tells_what_is_there(toy):
    done = run_anew(toy, "check", "--voc-data-dir=voc", "--model=tiny", "--min-size=96")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("train: 8 images, 5 of 80×96 px, ")
    assert lines[-1] == "no problems: training reads all of it as it stands"
    same = run(toy, "check", "--data=coco", "--coco-data-dir=coco", "--model=tiny", "--min-size=96")
    assert same.stdout == done.stdout


def test_check_names_each_problem(toy, tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj()), "b": annotation(obj(xmax=5)), "c": "<a"}, train="a\nb\nc\nd")
    done = run(tmp_path, "check", f"--voc-data-dir={root}", "--model=tiny", code=2)
    for words in ("c.xml: ", "id 'd' has no picture", "b.xml: box without area: cat ("):
        assert sum(words in line for line in done.stdout.splitlines()) == 1, words
    assert done.stderr == "error: 3 problems, named above: training would leave these out, or stop at them\n"
    done = run(tmp_path, "train", *SMALL, f"--voc-data-dir={root}", "--visdom=False", code=2)
    assert "id 'd' has no picture" in done.stderr
    assert done.stderr.endswith("(and 1 more: python train.py check names all)\n")
    assert done.stderr.count("\n") == 1


# Detections in files


@pytest.fixture(scope="module")
def trained(toy):
    data = ["--data=coco", "--coco-data-dir=coco"]
    run(toy, "train", *SMALL, *QUIET, *data, "--epoch=2", "--name=trained")
    return toy


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_saved_detections_score_as_the_checkpoint(trained, kind):
    """In either form, of either kind of data, with the pictures gone."""
    data = [f"--data={kind}", f"--{kind}-data-dir={kind}", "--score-thresh=0.01"]
    own = ["--load-path=runs/trained/last.pth", "--test-num-workers=0", f"--save-detections={kind}_found.json"]
    run(trained, "eval", *data, *own, "--out=first.json", "--test-num=1")
    assert {row["image_id"] for row in json.loads((trained / f"{kind}_found.json").read_text())} <= {
        open_split(kind, str(trained / kind), "val").names.image_ids[0]
    }
    run(trained, "eval", *data, *own, "--out=own.json")
    own = json.loads((trained / "own.json").read_text())
    assert sum(own["n_det"]) > 0
    db = open_split(kind, str(trained / kind), "val", own["label_names"])
    found, _ = read_detections(trained / f"{kind}_found.json", db.names)
    write_detections(trained / f"{kind}_found", found, db.names)
    if kind == "voc":
        data[1] = "--voc-data-dir=bare"
        for name in ("Annotations", "ImageSets"):
            shutil.copytree(trained / "voc" / name, trained / "bare" / name)
    for form in ("found.json", "found"):
        run(trained, "eval", *data, f"--detections={kind}_{form}", "--out=theirs.json")
        theirs = json.loads((trained / "theirs.json").read_text())
        assert own["n_det"] == theirs["n_det"]
        for name in ("ap", "ap07"):
            assert theirs[name] == pytest.approx(own[name], abs=1e-9)
        assert theirs["coco"]["stats"] == pytest.approx(own["coco"]["stats"], abs=1e-9, nan_ok=True)


def test_detections_of_others(shared_data, tmp_path):
    """The published numbers, as a user gets them."""
    folder = shared_data / "eval/coco100"
    results = f"--detections={folder}/instances_val2014_fakebbox100_results.json"
    done = run(tmp_path, "eval", "--data=coco", f"--coco-data-dir={folder}", "--val-split=val2014_100", results,
               "--out=coco100.json")  # fmt: skip
    assert "   AP 0.505   AP50 0.697   AP75 0.573    APs 0.586    APm 0.519    APl 0.501" in done.stdout
    expected = json.loads((folder / "expected.json").read_text())["published_full"]
    assert json.loads((tmp_path / "coco100.json").read_text())["coco"]["stats"] == pytest.approx(expected, abs=1e-10)


def test_training_images_in_other_colours_and_parts(toy):
    """All that is drawn for an image at once."""
    words = ["--voc-data-dir=voc", "--epoch=1", "--train-sizes=64,128", "--max-ratio=1.5"]
    weights = {}
    for name, more in (("plain", []), ("drawn", ["--jitter=0.5", "--scale-crop=0.8"])):
        run(toy, "train", *SMALL, *QUIET, *words, *more, f"--name={name}")
        file = torch.load(toy / f"runs/{name}/last.pth", weights_only=True)
        assert (file["config"]["jitter"], file["config"]["scale_crop"]) == ((0.5, 0.8) if more else (0, 0))
        weights[name] = torch.cat([tensor.flatten() for tensor in file["model"].values()])
    assert weights["drawn"].isfinite().all()
    assert not torch.equal(weights["drawn"], weights["plain"])


# Real photographs


def test_photographs_of_coco_train_evaluate_and_predict(shared_data, tmp_path):
    """80 classes with gaps in their ids, crowds, pictures that are not RGB."""
    data = ["--data=coco", f"--coco-data-dir={shared_data}/coco_subset", "--val-split=val2017"]
    words = ["--train-split=train2017", "--max-iter=3", "--test-num=12", "--name=coco", "--draw=2"]
    done = run(tmp_path, "train", *SMALL, *QUIET, *data, *words)
    assert "train2017: 100 images" in done.stdout
    assert "val2017: 50 images" in done.stdout
    assert len(list((tmp_path / "runs/coco/detections").glob("*.jpg"))) == 2
    checkpoint = "--load-path=runs/coco/last.pth"
    run(tmp_path, "eval", checkpoint, *data, "--test-num=12", "--score-thresh=0", "--out=coco.json")
    document = json.loads((tmp_path / "coco.json").read_text())
    assert (document["n_images"], len(document["label_names"])) == (12, 80)
    run(tmp_path, "predict", checkpoint, f"--image={shared_data}/coco_subset/val2017/*1.jpg", "--save=json")
    n = len(list((shared_data / "coco_subset/val2017").glob("*1.jpg")))
    assert len(json.loads((tmp_path / "runs/predict/detections.json").read_text())["images"]) == n > 0


def test_check_names_the_two_boxes_without_area(shared_data, tmp_path):
    done = run(
        tmp_path, "check", f"--voc-data-dir={shared_data}/bccd", "--train-split=trainval", "--model=tiny", code=2
    )
    lines = [line for line in done.stdout.splitlines() if "box without area" in line]
    assert len(lines) == 2
    assert "BloodImage_00338.xml: box without area: RBC (ymin 337, xmin 504, ymax 337, xmax 504)" in lines[0]
    assert "BloodImage_00343.xml: box without area: RBC (ymin 329, xmin 181, ymax 329, xmax 181)" in lines[1]
    assert done.stderr == "error: 2 problems, named above: training would leave these out, or stop at them\n"
