"""data/bbox_dataset.py: what the readers of all layouts share."""

import numpy as np
import pytest
from PIL import Image

from data.bbox_dataset import UnionDataset
from data.coco_dataset import COCOBboxDataset
from data.voc_dataset import VOCBboxDataset
from tests.coco_folder import box, content, make_coco
from tests.voc_folder import annotation, make_voc, obj


def lying(path):
    """A picture 80 wide and 100 high as people see it, stored 100 wide and 80 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((80, 100, 3), np.uint8)
    pixels[20:60, 10:40] = 255
    Image.fromarray(pixels).save(path, "JPEG", exif=exif, quality=95)


@pytest.mark.parametrize(
    ("said", "size", "inside"),
    [
        ((100, 80), (80, 100), (slice(20, 60), slice(10, 40))),  # a tool that leaves Exif aside
        ((80, 100), (100, 80), (slice(10, 40), slice(20, 60))),
        (None, (100, 80), (slice(10, 40), slice(20, 60))),
    ],
)
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_are_of_the_pixels_that_were_annotated(tmp_path, kind, said, size, inside):
    ymin, xmin, ymax, xmax = inside[0].start, inside[1].start, inside[0].stop, inside[1].stop
    if kind == "voc":
        tag = f"<size><width>{said[0]}</width><height>{said[1]}</height></size>" if said else ""
        root = make_voc(tmp_path, {"a": annotation(obj("cat", xmin + 1, ymin + 1, xmax + 1, ymax + 1), size=tag)})
        lying(root / "JPEGImages/a.jpg")
        ds = VOCBboxDataset(root)
    else:
        image = {"id": 1, "file_name": "a.jpg"} | ({"width": said[0], "height": said[1]} if said else {})
        make_coco(tmp_path, content(box(bbox=(xmin, ymin, xmax - xmin, ymax - ymin)), images=[image]))
        lying(tmp_path / "val/a.jpg")
        ds = COCOBboxDataset(tmp_path, "val")
    img, bbox, _, _ = ds[0]
    assert img.shape[1:] == ds.size(0) == size
    assert ds.problems == []
    assert bbox.tolist() == [[ymin, xmin, ymax, xmax]]
    assert img[:, inside[0], inside[1]].mean() > 250
    assert img.mean() < 255 * 1250 / 8000  # and nothing else is bright


def test_a_union_is_its_parts_one_after_the_other(tmp_path):
    one = VOCBboxDataset(make_voc(tmp_path / "1", {"a": annotation(obj()), "b": annotation()}), label_names=["cat"])
    boxes = obj(xmax=21), obj(xmin=500, xmax=600), obj(xmax=41, extra="<difficult>1</difficult>")
    two = VOCBboxDataset(make_voc(tmp_path / "2", {"a": annotation(*boxes), "c": annotation()}), label_names=["cat"])
    both = UnionDataset([one, two])
    assert both.ids == ["1/a", "b", "2/a", "c"]
    assert [both.path(i) for i in range(4)] == [one.path(0), one.path(1), two.path(0), two.path(1)]
    assert [len(both[i][1]) for i in range(4)] == [1, 0, 1, 0]
    assert both[2][1].tolist() == two[0][1].tolist()
    assert both.problems == two.problems
    assert len(both.problems) == 1
    assert both.summary() == (
        "trainval + trainval: 4 images, 2 boxes (cat 2), 1 difficult left out, 2 images without boxes, 1 problem"
    )
