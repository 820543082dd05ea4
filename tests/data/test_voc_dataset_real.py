"""data/voc_dataset.py on real folders in VOC layout."""

import numpy as np
import pytest

from data.bbox_dataset import Problem
from data.voc_dataset import VOC_BBOX_LABEL_NAMES, VOCBboxDataset, find_label_names


def test_voc2007(shared_data):
    ds = VOCBboxDataset(shared_data / "voc2007_subset", use_difficult=True)
    annotations = [ds.get_annotation(i) for i in range(len(ds))]
    assert (len(ds), ds.label_names, ds.problems) == (765, VOC_BBOX_LABEL_NAMES, [])
    assert sum(len(bbox) for bbox, _, _ in annotations) == 2456
    assert sum(difficult.sum() for _, _, difficult in annotations) == 521
    img, bbox, label, _ = ds[ds.ids.index("000005")]
    assert img.shape[1:] == ds.size(0) == (375, 500)
    assert bbox[0].tolist() == [210, 262, 338, 323]
    assert VOC_BBOX_LABEL_NAMES[label[0]] == "chair"
    without = VOCBboxDataset(shared_data / "voc2007_subset")
    assert sum(len(without.get_annotation(i)[0]) for i in range(len(without))) == 1935


def test_bccd_has_two_boxes_without_area(shared_data):
    root = shared_data / "bccd"
    ds = VOCBboxDataset(root)
    assert ds.label_names == find_label_names(root, ("train", "val")) == ("Platelets", "RBC", "WBC")
    assert ds.problems == [
        Problem(
            f"{root}/Annotations/BloodImage_{number}.xml",
            f"box without area: RBC (ymin {y}, xmin {x}, ymax {y}, xmax {x}) in 640×480",
        )
        for number, x, y in (("00338", 504, 337), ("00343", 181, 329))
    ]
    boxes = np.concatenate([ds.get_annotation(i)[0] for i in range(len(ds))])
    assert len(boxes) == 3941
    assert boxes.min() == 0
    assert (boxes.max(axis=0)[2:] == [479, 639]).all()


def test_mcu(shared_data):
    root = shared_data / "mcu"
    names = find_label_names(root, ("train", "test"))
    assert names == ("Arduino_Nano", "ESP8266", "Heltec_ESP32_Lora", "Raspberry_Pi_3")
    counts = {split: len(VOCBboxDataset(root, split, names)) for split in ("train", "test")}
    assert counts == {"train": 142, "test": 7}


def test_padilla_toy_without_objects_and_with_its_tags_shuffled(shared_data, tmp_path):
    toy = shared_data / "eval" / "padilla_toy"
    if not toy.is_dir():
        pytest.skip(f"no {toy}")
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).symlink_to(toy / folder)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    ids = sorted(path.stem for path in (toy / "Annotations").glob("*.xml"))
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(ids))
    ds = VOCBboxDataset(tmp_path, label_names=["cat"])
    boxes = {image_id: ds.get_annotation(i)[0] for i, image_id in enumerate(ds.ids)}
    assert len(boxes["2007_000733"]) == 0
    assert sum(map(len, boxes.values())) == 12
    assert all((bbox[:, :2] < bbox[:, 2:]).all() for bbox in boxes.values())
    assert ds.problems == []
