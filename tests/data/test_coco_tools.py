"""COCO's form as programs write it that are not COCO's own, and unions of such folders."""

import json

import numpy as np
import pytest

from data.bbox_dataset import UnionDataset
from data.coco_dataset import COCOBboxDataset
from data.splits import open_scored, open_split
from tests.coco_folder import box, content, make_coco
from utils.errors import UserError


def test_ids_as_numbers_with_a_point_and_as_texts(tmp_path):
    """3, 3.0 and "3" are one; the file's own form goes into files of detections."""
    categories = [{"id": "3", "name": "cat"}, {"id": 7.0, "name": "dog"}]
    images = [{"id": 1, "file_name": "a.jpg"}]
    make_coco(tmp_path, content(box(image_id="1", category_id=3.0), box(category_id="7"), images=images,
                                categories=categories))  # fmt: skip
    ds = COCOBboxDataset(tmp_path, "val")
    assert (ds.label_names, ds.get_annotation(0)[1].tolist(), ds.problems) == (("cat", "dog"), [0, 1], [])
    assert ds.names == ([1], {"cat": "3", "dog": 7.0}, frozenset())
    assert [row["category_id"] for row in ds.instances()["annotations"]] == [0, 1]


def test_a_category_without_boxes_that_has_anothers_name(tmp_path):
    """Roboflow's first one."""
    categories = [{"id": 0, "name": "cat"}, {"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    make_coco(tmp_path, content(box(category_id=1), categories=categories))
    ds = COCOBboxDataset(tmp_path, "val")
    assert (ds.label_names, ds.names.category_ids) == (("cat", "dog"), {"cat": 1, "dog": 2})


def test_a_path_of_windows(tmp_path):
    images = [{"id": 1, "file_name": "sub\\deep\\a.jpg"}]
    make_coco(tmp_path, content(box(), images=images), names=["sub/deep/a.jpg"])
    assert COCOBboxDataset(tmp_path, "val").path(0) == str(tmp_path / "val/sub/deep/a.jpg")


def test_one_missing_picture_does_not_hide_the_others(tmp_path):
    images = [{"id": k, "file_name": f"{name}.jpg"} for k, name in enumerate("zab")]
    make_coco(tmp_path, content(box(), images=images), names=["a.jpg", "b.jpg"])
    with pytest.raises(UserError, match=r"z\.jpg: no such picture"):
        COCOBboxDataset(tmp_path, "val")
    ds = COCOBboxDataset(tmp_path, "val", strict=False)
    assert (ds.ids, len(ds.faults)) == (["1", "2"], 1)


@pytest.mark.parametrize("area", [None, "12.5", float("nan"), 10**400])
def test_an_area_that_is_none_is_the_boxs(tmp_path, area):
    make_coco(tmp_path, content(box(area=area)))
    ds = COCOBboxDataset(tmp_path, "val")
    assert ds.instances()["annotations"][0]["area"] == 1200


@pytest.mark.parametrize("name", ["a\0b.jpg", "\ud800.jpg"])
def test_a_name_that_no_file_has(tmp_path, name):
    images = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name}]
    make_coco(tmp_path, content(box(), images=images))
    with pytest.raises(UserError):
        COCOBboxDataset(tmp_path, "val")


def test_for_evaluation_boxes_are_as_written(tmp_path):
    """Other evaluators neither cut nor drop them; to the last digit in COCO's own."""
    odd = [(5, 5, 0, 9), (90.1, 5, 20.7, 9), (200, 5, 9, 9)]
    make_coco(tmp_path, content(box(image_id=77), *(box(bbox=b) for b in odd)))
    ds = COCOBboxDataset(tmp_path, "val", use_difficult=True)
    assert np.allclose(ds.get_annotation(0)[0], [[5, 5, 14, 5], [5, 90.1, 14, 110.8], [5, 200, 14, 209]])
    assert [row["bbox"] for row in ds.instances()["annotations"]] == [list(b) for b in odd]
    assert len(COCOBboxDataset(tmp_path, "val").get_annotation(0)[0]) == 1
    checked = COCOBboxDataset(tmp_path, "val", use_difficult=True, as_written=False)
    assert len(checked.get_annotation(0)[0]) == 1


def two_folders(tmp_path, second=7):
    """Both with an image 1; the second also has image 2, an annotation of no image, and its dog's id."""
    make_coco(tmp_path / "a", content(box(), box(category_id=7)))
    images = [{"id": k, "file_name": "a.jpg"} for k in (1, 2)]
    categories = [{"id": 3, "name": "cat"}, {"id": second, "name": "dog"}, {"id": 90, "name": "owl"}]
    boxes = box(image_id=2, category_id=second), box(image_id=77)
    make_coco(tmp_path / "b", content(*boxes, images=images, categories=categories))
    return open_split("coco", f"{tmp_path}/a,{tmp_path}/b", "val", use_difficult=True)


def test_a_union_keeps_the_files_ids(tmp_path):
    db = two_folders(tmp_path)
    assert isinstance(db, UnionDataset)
    assert db.names == (["1/1", "2/1", 2], {"cat": 3, "dog": 7, "owl": 90}, frozenset())
    content = db.instances()
    assert [image["id"] for image in content["images"]] == db.ids == ["1/1", "2/1", "2"]
    assert [(row["image_id"], row["category_id"]) for row in content["annotations"]] == [
        ("1/1", 0),
        ("1/1", 1),
        ("2", 1),
    ]


def test_a_union_of_other_ids_scores_no_files(tmp_path):
    db = two_folders(tmp_path, second=8)
    assert db.names.category_ids == {"cat": 1, "dog": 2, "owl": 3}
    assert db.names.made_up == {"cat", "dog", "owl"}
    results = [{"image_id": "2", "category_id": 8, "bbox": [1, 1, 5, 5], "score": 0.5}]
    (tmp_path / "r.json").write_text(json.dumps(results))
    for category, told in ((8, "has category 8; there are"), (2, "without category_name whose number no file")):
        (tmp_path / "r.json").write_text(json.dumps([results[0] | {"category_id": category}]))
        with pytest.raises(UserError, match=told):
            open_scored("coco", f"{tmp_path}/a,{tmp_path}/b", "val", str(tmp_path / "r.json"))


def test_a_union_of_other_classes_has_the_ids_of_all(tmp_path):
    for folder, categories in (("1", {"nut": 7, "bolt": 8}), ("2", {"screw": 1})):
        rows = [{"id": k, "name": name} for name, k in categories.items()]
        make_coco(tmp_path / folder, content(box(category_id=rows[0]["id"]), categories=rows))
    where = f"{tmp_path}/1,{tmp_path}/2"
    assert open_split("coco", where, "val").names.category_ids == {"bolt": 8, "nut": 7, "screw": 1}
    names = open_split("coco", where, "val", ("ape", "bolt", "nut", "screw")).names
    assert (names.category_ids["ape"], names.made_up) == (9, {"ape"})


def test_classes_that_the_file_lacks_have_ids_of_their_own(tmp_path):
    make_coco(tmp_path, content(box()))
    ds = COCOBboxDataset(tmp_path, "val", ("elk", "cat", "dog", "owl", "fox"))
    assert ds.names.category_ids == {"elk": 91, "cat": 3, "dog": 7, "owl": 90, "fox": 92}
    assert ds.names.made_up == {"elk", "fox"}


def test_text_ids_leave_the_free_ones_free(tmp_path):
    make_coco(tmp_path, content(box(category_id="1"), categories=[{"id": str(k), "name": f"c{k}"} for k in (1, 2)]))
    ds = COCOBboxDataset(tmp_path, "val", ("elk", "c1", "c2"))
    assert ds.names.category_ids == {"elk": 3, "c1": "1", "c2": "2"}


def test_ids_below_0_come_first(tmp_path):
    categories = [{"id": k, "name": f"c{k}"} for k in ("b", 10, 0, 9, -1, "a")]
    make_coco(tmp_path, content(box(category_id=9), categories=categories))
    assert COCOBboxDataset(tmp_path, "val").label_names == ("c-1", "c0", "c9", "c10", "ca", "cb")


@pytest.mark.parametrize("area", [0, -3.0, 7])
def test_an_area_is_what_the_file_says(tmp_path, area):
    """As pycocotools take it."""
    make_coco(tmp_path, content(box(area=area)))
    assert COCOBboxDataset(tmp_path, "val").instances()["annotations"][0]["area"] == area


def test_a_picture_under_two_ids(tmp_path):
    images = [{"id": k, "file_name": "a.jpg", "width": 100, "height": 80} for k in (1, 2)]
    make_coco(tmp_path, content(box(), box(image_id=2), images=images))
    (problem,) = COCOBboxDataset(tmp_path, "val").problems
    assert problem.what == "picture listed again: a.jpg is image 1 and 2; give its boxes to one of them"
