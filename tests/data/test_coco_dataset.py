"""data/coco_dataset.py on made folders and on real photographs."""

import json

import numpy as np
import pytest

from data.bbox_dataset import Problem
from data.coco_dataset import COCOBboxDataset, find_label_names, has_split
from tests.coco_folder import box, content, make_coco
from utils.errors import UserError


def read(tmp_path, *boxes, use_difficult=False, label_names=None, **others):
    make_coco(tmp_path, content(*boxes, **others))
    return COCOBboxDataset(tmp_path, "val", label_names, use_difficult)


def test_boxes_classes_and_areas(tmp_path):
    ds = read(tmp_path, box(area=55.5), box(category_id=90, bbox=(0.5, 0, 99.25, 80)))
    assert ds.label_names == ("cat", "dog", "owl")  # in the order of the ids
    assert ds.names.category_ids == {"cat": 3, "dog": 7, "owl": 90}
    img, bbox, label, difficult = ds[0]
    assert img.shape == (3, 80, 100)
    assert (bbox.dtype, label.dtype, difficult.dtype) == (np.float32, np.int32, bool)
    assert bbox.tolist() == [[20, 10, 60, 40], [0, 0.5, 80, 99.75]]  # 0-based edges
    assert label.tolist() == [0, 2]
    assert [row["area"] for row in ds.instances()["annotations"]] == [55.5, 99.25 * 80]  # the mask's; else the box's
    assert (ds.ids, ds.names.image_ids, ds.size(0), ds.problems) == (["1"], [1], (80, 100), [])
    assert ds.path(0) == str(tmp_path / "val/a.jpg")


def test_crowds_are_difficult(tmp_path):
    boxes = box(), box(iscrowd=1, bbox=(0, 0, 50, 50))
    assert read(tmp_path / "a", *boxes).get_annotation(0)[0].tolist() == [[20, 10, 60, 40]]
    assert read(tmp_path / "b", *boxes, use_difficult=True).get_annotation(0)[2].tolist() == [False, True]


def test_classes_of_another_order_are_found_by_name(tmp_path):
    ds = read(tmp_path, box(), label_names=("N/A 1", "owl", "dog", "cat"))
    assert ds.get_annotation(0)[1].tolist() == [3]
    with pytest.raises(UserError, match=r"instances_val\.json: class 'cat' is not one of the known.*'cats'"):
        COCOBboxDataset(tmp_path, "val", ("dog", "cats"))


def test_an_image_without_boxes(tmp_path):
    bbox, label, difficult = read(tmp_path).get_annotation(0)
    assert (bbox.shape, label.shape, difficult.shape) == ((0, 4), (0,), (0,))


def test_boxes_that_can_not_be_learned_are_named(tmp_path):
    others = [(5, 5, 0, 9), (200, 5, 9, 9), (5, 5, float("nan"), 9), (90, 5, 20, 9)]
    ds = read(tmp_path, box(), *(box(bbox=b) for b in others), box(image_id=9))
    assert ds.get_annotation(0)[0].tolist() == [[20, 10, 60, 40], [5, 90, 14, 100]]
    path = str(tmp_path / "annotations/instances_val.json")
    assert ds.problems == [
        Problem(path, "box of no picture: annotation 5 is of image 9, which is not listed"),
        Problem(path, "box without area: cat (x, y, width, height 5, 5, 0, 9) of a.jpg in 100×80"),
        Problem(path, "box outside the picture: cat (x, y, width, height 200, 5, 9, 9) of a.jpg in 100×80"),
        Problem(path, "corner that is not finite: cat (x, y, width, height 5, 5, nan, 9) of a.jpg in 100×80"),
        Problem(path, "box cut to the picture: cat (x, y, width, height 90, 5, 20, 9) of a.jpg in 100×80"),
    ]


def test_a_size_that_is_not_the_pictures(tmp_path):
    ds = read(tmp_path, images=[{"id": 1, "file_name": "a.jpg", "width": 80, "height": 100}])
    assert ds.size(0) == (80, 100)
    assert [problem.what for problem in ds.problems] == ["size that is not the picture's: 80×100, a.jpg has 100×80"]
    assert read(tmp_path / "b", images=[{"id": "x", "file_name": "a.jpg", "width": 0}]).problems == []


@pytest.mark.parametrize(
    ("json_path", "folder"),
    [
        ("annotations/instances_val.json", "val"),  # COCO's own
        ("annotations/instances_val.json", "images/val"),  # CVAT
        ("annotations/val.json", "images"),
        ("val/_annotations.coco.json", "val"),  # Roboflow
        ("val.json", "."),
    ],
)
def test_layouts_of_other_tools(tmp_path, json_path, folder):
    make_coco(tmp_path, content(box()), json_path, folder)
    ds = COCOBboxDataset(tmp_path, "val")
    assert len(ds) == 1
    assert ds[0][0].shape == (3, 80, 100)
    assert has_split(tmp_path, "val")
    assert not has_split(tmp_path, "train")


def test_names_of_several_splits(tmp_path):
    make_coco(tmp_path, content())
    make_coco(tmp_path, content(categories=[{"id": 1, "name": "elk"}]), "annotations/instances_train.json")
    assert find_label_names(tmp_path, ["val", "train"]) == ("cat", "dog", "owl", "elk")


def test_a_bom_unicode_names_and_folders_in_file_names(tmp_path):
    name = "søk/bildé 1.JPG"
    text = json.dumps(content(images=[{"id": 1, "file_name": name}]), ensure_ascii=False)
    make_coco(tmp_path, b"\xef\xbb\xbf" + text.encode(), names=[name])
    assert COCOBboxDataset(tmp_path, "val")[0][0].shape == (3, 80, 100)


IMAGE = {"id": 1, "file_name": "a.jpg"}
WRONG = {
    "no JSON": ("{'images': []}", r"line 1, column 2: .*; mend the JSON"),
    "cut off": (json.dumps(content())[:-5], r"line 1, column \d+: .*; mend the JSON"),
    "latin-1": ('{"é": 1}'.encode("latin-1"), "is not UTF-8 text"),
    "deep": ("[" * 10**6, "cannot be read"),
    "a list": ([], "has no list 'images'"),
    "results": ([{"image_id": 1}], "has no list 'images'"),
    "no categories": ({"images": [IMAGE], "annotations": []}, "has no list 'categories'"),
    "rows that are none": ({"images": [3], "annotations": [], "categories": []}, "has no list 'images' of objects"),
    "no classes": (content(categories=[]), "has no categories"),
    "no images": (content() | {"images": []}, "has no images"),
    "class twice": (content(categories=[{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]), "category 2 .* twice"),
    "class without name": (content(categories=[{"id": 1}]), "category 1 has None as 'name'"),
    "empty name": (content(categories=[{"id": 1, "name": " "}]), "category 1 has ' ' as 'name'"),
    "image twice": (content(images=[IMAGE, IMAGE]), "image id 1 is there twice"),
    "image without file": (content(images=[{"id": 4}]), "image 4 has None as 'file_name'"),
    "image without id": (content(images=[{"file_name": "a.jpg"}]), "image 1 has None as 'id'"),
    "unknown category": (content(box(category_id=4)), "annotation 5 has category 4, which is not in the list"),
    "category that is true": (content(box(category_id=True)), "annotation 5 has True as 'category_id'"),
    "three numbers": (content(box(bbox=(1, 2, 3))), r"annotation 5 has \[1, 2, 3\] as 'bbox'; must be"),
    "text in a box": (content(box(bbox=(1, 2, 3, "4"))), "annotation 5 has .* as 'bbox'; must be"),
    "a box of digits": (content(box(bbox=(1, 2, 3, 10**400))), "annotation 5 has .* as 'bbox'; must be"),
    "crowd in words": (content(box(iscrowd="0")), "annotation 5 has '0' as 'iscrowd'; must be 0 or 1"),
    "no box": (content(box(bbox=()) | {"bbox": None}), "annotation 5 has None as 'bbox'; must be"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_one_line(tmp_path, kind):
    text, message = WRONG[kind]
    make_coco(tmp_path, json.dumps(text) if isinstance(text, list) else text)
    with pytest.raises(UserError, match=rf"^\S*instances_val\.json: {message}") as error:
        COCOBboxDataset(tmp_path, "val")
    assert "\n" not in str(error.value)


def test_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        COCOBboxDataset(tmp_path / "none", "val")
    make_coco(tmp_path, content(), names=())
    with pytest.raises(UserError, match=r"no such file.*'train'; JSON files there: annotations/instances_val\.json"):
        COCOBboxDataset(tmp_path, "train")
    with pytest.raises(UserError, match=r"its picture a\.jpg is in none of .*; put the pictures there"):
        COCOBboxDataset(tmp_path, "val")


def test_real_photographs(shared_data):
    root = shared_data / "coco_subset"
    counts = {}
    for split in ("train2017", "val2017"):
        truth = json.loads((root / f"annotations/instances_{split}.json").read_text())
        ds = COCOBboxDataset(root, split, use_difficult=True)
        assert (ds.problems, len(ds.label_names), ds.label_names[-1]) == ([], 80, "toothbrush")
        boxes = [ds.get_annotation(i) for i in range(len(ds))]
        counts[split] = len(ds), sum(len(bbox) for bbox, _, _ in boxes), sum(int(crowd.sum()) for _, _, crowd in boxes)
        sums = np.concatenate([bbox for bbox, _, _ in boxes]).sum(axis=0, dtype=np.float64)
        x, y, width, height = np.array([row["bbox"] for row in truth["annotations"]]).sum(axis=0)
        np.testing.assert_allclose(sums, [y, x, y + height, x + width], rtol=1e-4)
    assert counts == {"train2017": (100, 875, 4), "val2017": (50, 430, 3)}
