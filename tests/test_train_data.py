"""The commands on the kinds of data that people have, as a user runs them."""

import json

import numpy as np
import pytest
from PIL import Image

from data.voc_dataset import VOCBboxDataset
from misc.make_toy_voc import make_toy_voc
from tests.test_train import SMALL, run
from utils.bbox_tools import yxyx2xywh

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
        done = run(toy, "propose", path, *data, "--test-num-workers=0")
        assert "proposals for 5 images" in done.stdout
    assert results["voc"]["data_dir"] == "voc"
    assert results["coco"]["ap"] == results["voc"]["ap"]
    assert results["coco"]["label_names"] == results["voc"]["label_names"]


def test_a_union_trains(toy):
    data = ["--voc-data-dir=voc,voc", "--train-split=train,val", "--val-split=val"]
    done = run(toy, "train", *SMALL, *QUIET, *data, "--epoch=1", "--name=union")
    assert "train + val: 13 images" in done.stdout
    assert "7 steps of 2 images" in done.stdout
    assert "val + val: 10 images" in done.stdout
    done = run(toy, "train", *SMALL, *data[:1], "--train-split=a,b,c", code=2)
    assert done.stderr.strip() == ("error: a,b,c: 3 splits for 2 folders (voc,voc); name one split, or one for each")


def test_coco_that_is_not_there(toy):
    for words, message in (
        (["--coco-data-dir=none"], "error: none: no such folder; give the one that has COCO's annotations/"),
        (["--coco-data-dir=coco", "--train-split=no"], "error: coco/annotations/instances_no.json: no such file"),
    ):
        done = run(toy, "train", *SMALL, "--data=coco", *words, code=2)
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
