"""VOC annotations and lists that are not quite VOC's: what would be lost without a word is told, or read."""

import os
import unicodedata

import pytest

from data.voc_dataset import VOCBboxDataset, find_label_names
from tests.voc_folder import PICTURE, annotation, make_voc, obj
from utils.errors import UserError
from utils.index_tool import FileIndex

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
LOST = {
    "nested": (
        f"<objects>{obj()}</objects>",
        "objects or boxes that are not in <object> directly in <annotation>; put them there",
    ),
    "capital": ("<Object><name>cat</name></Object>", "objects or boxes that are not in <object> directly"),
    "item": (
        "<item><name>cat</name><bndbox><xmin>1</xmin></bndbox></item>",
        "objects or boxes that are not in <object>",
    ),
    "within another": (
        f"<object><name>cat</name>{obj()}</object>".replace(
            "</object></object>",
            "</object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox></object>",
        ),
        "objects or boxes that",
    ),
    "two names": (obj(extra="<name>dog</name>"), "has <name> more than once; keep one"),
    "two corners": (obj().replace("<xmin>11", "<xmin>9</xmin><xmin>11"), "has <xmin> more than once"),
    "two marks": (obj(extra="<difficult>0</difficult><difficult>1</difficult>"), "has <difficult> more than once"),
    "two boxes": (f"<object><name>cat</name>{BOX}{BOX}</object>", r"object 2 \('cat'\) has 2 boxes; make it as many"),
    "unclear": (obj(extra="<difficult>yes</difficult>"), "has 'yes' as <difficult>; must be 0 or 1"),
}


@pytest.mark.parametrize("kind", LOST)
def test_what_would_be_lost_is_refused(tmp_path, kind):
    text, message = LOST[kind]
    root = make_voc(tmp_path, {"a": annotation(obj(), text)})
    with pytest.raises(UserError, match=rf"a\.xml: .*{message}"):
        VOCBboxDataset(root)


@pytest.mark.parametrize("name", ["\u3000a", "a\u00a0", "a\u0085b", "a\u2028b", "été"])
def test_any_name_of_one_line(tmp_path, name):
    root = make_voc(tmp_path, {name: annotation(obj()), "b": annotation()}, trainval=f"{name}\r\n\r\nb\n")
    assert VOCBboxDataset(root).ids == [name, "b"]


def test_a_list_in_another_normal_form_than_the_files(tmp_path):
    """macOS takes letters and their accents apart."""
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    root = make_voc(tmp_path, {apart: annotation(obj())}, trainval=composed)
    ds = VOCBboxDataset(root)
    assert (ds.ids, os.path.basename(ds.path(0)), len(ds.get_annotation(0)[0])) == ([composed], f"{apart}.jpg", 1)
    assert find_label_names(root, ["trainval"])


def test_two_pictures_of_one_id(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj()), "b": annotation(obj())})
    (root / "JPEGImages/a.png").write_bytes((root / "JPEGImages/a.jpg").read_bytes())
    (problem,) = VOCBboxDataset(root).problems
    assert problem.path.endswith("a.jpg")
    assert problem.what == "picture of the same id: a.png is not read; give each an id of its own"


def test_a_suffix_in_capitals(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())})
    (root / "Annotations/a.xml").rename(root / "Annotations/a.XML")
    assert len(VOCBboxDataset(root).get_annotation(0)[0]) == 1


def test_without_pictures_no_file_outside_is_read(tmp_path):
    root = make_voc(tmp_path / "voc", {"a": annotation(obj())}, trainval="../../other")
    (tmp_path / "other.xml").write_text(annotation(obj()))
    with pytest.raises(UserError, match="the annotation is missing"):
        VOCBboxDataset(root, pictures=False)


def test_for_evaluation_boxes_are_as_written(tmp_path):
    """A box of one pixel's width is one by VOC's rule; and nobody else cuts the truth to the picture."""
    flat, wide = obj(xmin=5, xmax=5, ymin=1, ymax=9), obj(xmin=91, xmax=131, ymin=1, ymax=9)
    root = make_voc(tmp_path, {"a": annotation(flat, wide)})
    boxes = VOCBboxDataset(root, use_difficult=True).get_annotation(0)[0]
    assert boxes.tolist() == [[0, 4, 8, 4], [0, 90, 8, 130]]
    bare = VOCBboxDataset(root, use_difficult=True, pictures=False)
    assert bare.get_annotation(0)[0].tolist() == boxes.tolist()
    trained = VOCBboxDataset(root)
    assert trained.get_annotation(0)[0].tolist() == [[0, 90, 8, 100]]
    assert [problem.what.partition(":")[0] for problem in trained.problems] == [
        "box without area",
        "box cut to the picture",
    ]


def test_an_index_is_never_older_than_the_files(tmp_path):
    """Archives give many files one time, and an edit may leave a file's size."""
    root = make_voc(tmp_path / "voc", {"a": annotation(obj("cat")), "b": annotation(obj("dog"))})
    first, second = root / "Annotations/a.xml", root / "Annotations/b.xml"
    for path in (first, second):
        os.utime(path, (10**9, 10**9))

    def names():
        index = FileIndex(tmp_path / "index.json")
        ds = VOCBboxDataset(root, label_names=("cat", "cow", "dog"), index=index)
        index.save()
        return [ds.label_names[ds.get_annotation(i)[1][0]] for i in range(2)]

    assert names() == ["cat", "dog"]
    first.write_text(first.read_text().replace("cat", "cow"))
    os.utime(first, (10**9, 10**9))
    assert names() == ["cow", "dog"]
    first.rename(tmp_path / "x")
    second.rename(first)
    (tmp_path / "x").rename(second)
    assert names() == ["dog", "cow"]
    (root / "JPEGImages/a.jpg").write_bytes(PICTURE[:50])
    with pytest.raises(UserError, match=r"a\.jpg"):
        names()
