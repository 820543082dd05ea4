"""data/voc_dataset.py on made folders, one rule a test."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from data import bbox_dataset, voc_dataset
from data.bbox_dataset import Problem, report_problems
from data.voc_dataset import VOC_BBOX_LABEL_NAMES, VOCBboxDataset, find_label_names
from tests.voc_folder import annotation, break_in_the_middle, make_voc, obj, refusal
from utils.errors import UserError


@pytest.fixture
def one(tmp_path):
    """Make a dataset of one picture `a` with this annotation."""
    return lambda xml, **kwargs: VOCBboxDataset(make_voc(tmp_path, {"a": xml}), **kwargs)


def test_example_has_the_contract_of_shapes_dtypes_and_corners(one, monkeypatch):
    monkeypatch.setattr(bbox_dataset, "read_image", lambda path, upright: np.zeros((3, 80, 100), np.float32))
    ds = one(annotation(obj("cat"), obj("dog", 1, 1, 100, 80, "<difficult>1</difficult>")), use_difficult=True)
    img, bbox, label, difficult = ds[0]
    assert img.shape == (3, 80, 100)
    assert (bbox.dtype, label.dtype, difficult.dtype) == (np.float32, np.int32, bool)
    assert bbox.tolist() == [[20, 10, 50, 30], [0, 0, 79, 99]]
    assert [ds.label_names[i] for i in label] == ["cat", "dog"]
    assert difficult.tolist() == [False, True]
    assert len(ds) == 1
    assert ds.ids == ["a"]
    assert ds.size(0) == (80, 100)
    assert ds.path(0) == os.path.join(ds.data_dir, "JPEGImages", "a.jpg")
    assert ds.problems == []
    with pytest.raises(IndexError):
        ds.get_example(1)


def test_pixels_are_read_only_when_asked_for(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())})
    break_in_the_middle(root / "JPEGImages" / "a.jpg")
    ds = VOCBboxDataset(root)
    assert len(ds.get_annotation(0)[0]) == 1
    with pytest.raises(UserError, match=r"a\.jpg"):
        ds[0]


def test_real_picture_is_decoded(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())}, picture=".png")
    Image.new("RGB", (100, 80), (255, 0, 7)).save(root / "JPEGImages" / "a.png")
    img = VOCBboxDataset(root).get_example(0)[0]
    assert (img.shape, img.dtype) == ((3, 80, 100), np.float32)
    assert img[:, 0, 0].tolist() == [255, 0, 7]


def test_difficult_ones_are_left_out_by_default(one):
    ds = one(annotation(obj(), obj("dog", extra="<difficult> 1 </difficult>")))
    bbox, label, difficult = ds.get_annotation(0)
    assert (len(bbox), len(label), difficult.tolist()) == (1, 1, [False])
    assert "1 difficult left out" in ds.summary()


def test_no_objects_gives_empty_arrays(one):
    ds = one(annotation())
    bbox, label, difficult = ds.get_annotation(0)
    assert (bbox.shape, label.shape, difficult.shape) == ((0, 4), (0,), (0,))
    assert (bbox.dtype, label.dtype, difficult.dtype) == (np.float32, np.int32, bool)
    assert ds.label_names == ()
    assert "0 boxes" in ds.summary()
    assert "1 image without boxes" in ds.summary()


def test_callers_own_the_arrays_and_workers_get_a_copy(one):
    ds = one(annotation(obj()))
    ds.get_annotation(0)[0][:] = -1
    assert pickle.loads(pickle.dumps(ds)).get_annotation(0)[0].tolist() == [[20, 10, 50, 30]]


def test_corner_tags_in_any_order_floats_and_missing_tags(one):
    box = "<ymax> 51.5 </ymax><xmax>31.25</xmax><ymin>21</ymin><xmin>1.1e1</xmin>"
    ds = one(f"<annotation><object><bndbox>{box}</bndbox><name>\n  cat </name></object></annotation>")
    bbox, _, difficult = ds.get_annotation(0)
    assert bbox.tolist() == [[20, 10, 50.5, 30.25]]
    assert not difficult.any()
    assert ds.size(0) == (80, 100)
    assert ds.label_names[ds.get_annotation(0)[1][0]] == "cat"


def test_parts_of_a_person_are_not_objects(one):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></part>"
    ds = one(annotation(obj("person", extra=part)))
    assert ds.get_annotation(0)[0].tolist() == [[20, 10, 50, 30]]


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<size/>",
        "<size><width>0</width><height>0</height></size>",
        "<size><width>100</width></size>",
        "<size><width/><height/></size>",
        "<size><width>nan</width><height>inf</height></size>",
    ],
)
def test_without_a_size_in_the_xml_the_pictures_own_counts(tmp_path, size):
    ds = VOCBboxDataset(make_voc(tmp_path, {"a": annotation(obj(xmax=5000, ymax=7000), size=size)}))
    assert ds.size(0) == (80, 100)
    assert ds.get_annotation(0)[0].tolist() == [[20, 10, 80, 100]]
    assert [p.what.partition(":")[0] for p in ds.problems] == ["box cut to the picture"]


def test_size_in_the_xml_that_is_not_the_pictures_is_reported(one):
    ds = one(annotation(obj(), size="<size><width>640</width><height>480</height></size>"))
    assert ds.size(0) == (80, 100)
    assert [p.what for p in ds.problems] == ["size that is not the picture's: 640×480, it has 100×80"]


def test_broken_picture_is_refused_before_training(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())})
    (root / "JPEGImages" / "a.jpg").write_bytes(b"not a picture")
    assert refusal(root).startswith(str(root / "JPEGImages" / "a.jpg"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_encodings_of_the_xml(tmp_path, encoding):
    xml = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>{annotation(obj("écureuil"))}'
    assert VOCBboxDataset(make_voc(tmp_path, {"a": xml.encode(encoding)})).label_names == ("écureuil",)


@pytest.mark.parametrize(
    "raw",
    [
        b"a\nb\n",
        b"a\r\nb\r\n",
        b"\xef\xbb\xbfa\n\n  \nb",
        "a\r\nb\r\n".encode("utf-16"),
        b"a  1\nb -1\n",
        b"a\t0\nb 1\n",
    ],
)
def test_lists_with_any_line_end_bom_blank_lines_and_class_column(tmp_path, raw):
    root = make_voc(tmp_path, {"a": annotation(obj()), "b": annotation(obj())}, trainval=raw)
    assert VOCBboxDataset(root).ids == ["a", "b"]


def test_ids_with_spaces_and_dots(tmp_path):
    files = dict.fromkeys(["photo 1", "my photo", "x.y.z"], annotation(obj()))
    root = make_voc(tmp_path, files, trainval="photo 1\nmy photo -1\nx.y.z")
    assert VOCBboxDataset(root).ids == ["photo 1", "my photo", "x.y.z"]


def test_duplicate_ids_are_used_once_and_reported(tmp_path):
    root = make_voc(tmp_path, dict.fromkeys("ab", annotation(obj())), trainval="b\na\nb\nb\n")
    ds = VOCBboxDataset(root)
    assert ds.ids == ["b", "a"]
    assert ds.problems == [Problem(f"{root}/ImageSets/Main/trainval.txt", "id listed again: 'b' is used once")] * 2


@pytest.mark.parametrize(
    ("raw", "what"), [(b"", "is empty"), (b"\xef\xbb\xbf\r\n \n", "is empty"), (b"caf\xe9\n", "UTF-8")]
)
def test_empty_and_undecodable_lists_are_refused(tmp_path, raw, what):
    message = refusal(make_voc(tmp_path, {}, trainval=raw))
    assert "trainval.txt" in message
    assert what in message


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png", ".bmp", ".webp"])
def test_suffixes_of_pictures(tmp_path, suffix):
    ds = VOCBboxDataset(make_voc(tmp_path, {"a": annotation(obj())}, picture=suffix))
    assert ds.path(0).endswith(f"a{suffix}")


def test_jpg_wins_over_its_copies(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())})
    for suffix in (".png", ".webp", ".txt", ".JPG"):
        (root / "JPEGImages" / f"a{suffix}").touch()
    assert VOCBboxDataset(root).path(0).endswith("a.jpg")


def test_missing_and_unreadable_annotation(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())})
    path = root / "Annotations" / "a.xml"
    path.unlink()
    assert f"{path}: the annotation is missing" in refusal(root)
    path.mkdir()
    assert f"{path}: cannot be read" in refusal(root)


@pytest.mark.parametrize(
    ("xml", "what"),
    [
        ("<annotation>\n  <object></annotation>", "line 2, column 13: mismatched tag"),
        ("", "line 1, column 1: no element found"),
        ("not xml", "line 1, column 1: syntax error"),
        ("<html></html>", "begins with <html>"),
        ('<?xml version="1.0" encoding="gbk"?><annotation/>', "UTF-8"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "UTF-8"),
        (annotation("<object><name>cat</name></object>"), "object 1 ('cat') has no <bndbox>"),
        (annotation(obj(), obj().replace("<xmin>11</xmin>", "")), "object 2 ('cat') has no <xmin>"),
        (annotation(obj(ymax="tall\nish")), r"object 1 ('cat') has 'tall\nish' as <ymax>, which is not a number"),
        (annotation(obj(ymax="")), "object 1 ('cat') has '' as <ymax>"),
        (annotation(obj(name=" ")), "object 1 has no <name>"),
        (annotation(obj().replace("<name>cat</name>", "")), "object 1 has no <name>"),
        (annotation(obj(), size="<size><width>wide</width><height>1</height></size>"), "<size> has 'wide' as <width>"),
    ],
)
def test_broken_annotation_is_refused_with_its_path(tmp_path, xml, what):
    message = refusal(make_voc(tmp_path, {"a": xml}))
    assert message.startswith(str(tmp_path / "Annotations" / "a.xml"))
    assert what in message


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("declaration", ['<!DOCTYPE a [<!ENTITY b "c">]>', "<!DOCTYPE a>"])
def test_entities_are_refused(tmp_path, declaration, encoding):
    xml = f'<?xml version="1.0" encoding="{encoding}"?>{declaration}{annotation(obj())}'
    assert "DOCTYPE" in refusal(make_voc(tmp_path, {"a": xml.encode(encoding)}))


@pytest.mark.parametrize(
    ("corners", "kind"),
    [
        ((11, 21, 11, 21), "box without area"),
        ((11, 21, 11, 51), "box without area"),
        ((31, 21, 11, 51), "box without area"),
        ((11, 51, 31, 21), "box without area"),
        ((500000001, 21, 500000002, 51), "box without area"),  # one number in float32
        ((101, 21, 131, 51), "box outside the picture"),
        ((11, 81, 31, 95), "box outside the picture"),
        ((-20, 21, 1, 51), "box outside the picture"),
        ((11, -9, 31, 0), "box outside the picture"),
        (("nan", 21, 31, 51), "corner that is not finite"),
        ((11, 21, "inf", 51), "corner that is not finite"),
        ((11, "-inf", 31, "inf"), "corner that is not finite"),
        ((11, 21, "1e300", 51), "corner that is not finite"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_impossible_boxes_are_dropped_and_recorded(one, corners, kind):
    ds = one(annotation(obj("dog", *corners), obj("cat")))
    bbox, label, _ = ds.get_annotation(0)
    assert bbox.tolist() == [[20, 10, 50, 30]]
    assert [ds.label_names[i] for i in label] == ["cat"]
    [problem] = ds.problems
    assert problem.path == os.path.join(ds.data_dir, "Annotations", "a.xml")
    assert problem.what.startswith(f"{kind}: dog (")
    xmin, ymin, xmax, ymax = (f"{float(c):g}" for c in corners)
    assert f"ymin {ymin}, xmin {xmin}, ymax {ymax}, xmax {xmax}" in problem.what
    assert problem.what.endswith("in 100×80")


@pytest.mark.parametrize(
    ("corners", "expected", "recorded"),
    [
        ((1, 1, 100, 80), [0, 0, 79, 99], False),
        ((0, 0, 101, 81), [0, 0, 80, 100], False),  # 0-based tools
        ((0, 0, 102, 82), [0, 0, 80, 100], False),  # one pixel over
        ((1, 1, 102.5, 80), [0, 0, 79, 100], True),
        ((-1, 1, 50, 80), [0, 0, 79, 49], True),
        ((1, -40, 50, 200), [0, 0, 80, 49], True),
    ],
)
def test_boxes_partly_outside_are_cut(one, corners, expected, recorded):
    ds = one(annotation(obj("dog", *corners)))
    assert ds.get_annotation(0)[0].tolist() == [expected]
    assert [p.what.partition(":")[0] for p in ds.problems] == ["box cut to the picture"] * recorded


def test_negative_corners_are_cut_without_a_size_in_the_xml(one):
    ds = one(annotation(obj("dog", -9, -9, 50, 60), obj("dog", -9, -9, 0, 0), size=""))
    assert ds.get_annotation(0)[0].tolist() == [[0, 0, 59, 49]]
    assert [p.what.partition(":")[0] for p in ds.problems] == ["box cut to the picture", "box outside the picture"]
    assert ds.problems[0].what.endswith("xmax 50) in 100×80")


def test_names_found_are_vocs_order_or_sorted(tmp_path):
    assert (len(VOC_BBOX_LABEL_NAMES), VOC_BBOX_LABEL_NAMES[14]) == (20, "person")
    assert VOCBboxDataset(make_voc(tmp_path / "a", {"a": annotation(obj("dog"))})).label_names == VOC_BBOX_LABEL_NAMES
    mixed = annotation(obj("zebra"), obj("dog"), obj("Ape", extra="<difficult>1</difficult>"))
    ds = VOCBboxDataset(make_voc(tmp_path / "b", {"a": mixed}))
    assert ds.label_names == ("Ape", "dog", "zebra")
    assert ds.get_annotation(0)[1].tolist() == [2, 1]


def test_find_label_names_takes_the_union_of_splits(tmp_path):
    files = {"a": annotation(obj("RBC")), "b": annotation(obj("WBC")), "c": annotation()}
    root = make_voc(tmp_path, files, train="a\nc", val="b\na", bare="c")
    assert find_label_names(root, ("train", "val")) == ("RBC", "WBC")
    assert find_label_names(root, ["train"]) == ("RBC",)
    assert find_label_names(root, ["bare"]) == ()
    with pytest.raises(UserError, match=r"test\.txt"):
        find_label_names(root, ("train", "test"))


def test_given_names_set_the_labels_and_are_stripped(one):
    ds = one(annotation(obj("dog"), obj("cat")), label_names=[" cat ", "dog"])
    assert ds.label_names == ("cat", "dog")
    assert ds.get_annotation(0)[1].tolist() == [1, 0]
    assert "cat given twice" in refusal(ds.data_dir, label_names=("cat", "dog", " cat"))


@pytest.mark.parametrize(
    ("name", "advice"), [("Person", "did you mean 'person'?"), ("persn", "'person'?"), ("qqq", "--label-names")]
)
def test_unknown_class_is_refused_with_the_nearest(tmp_path, name, advice):
    unusable = obj(name, 5, 5, 5, 5, "<difficult>1</difficult>")  # a misspelt name is a mistake in any object
    root = make_voc(tmp_path, {"a": annotation(obj("cat"), unusable)})
    message = refusal(root, label_names=("cat", "person"))
    assert message.startswith(f"{root}/Annotations/a.xml: class {name!r} is not one of the known classes (cat, person)")
    assert advice in message


def test_summary_is_one_line_of_counts(tmp_path):
    names = ["a1"] * 9 + ["b2"] * 3 + ["c3", "d4", "e5", "f6", "g7"]
    root = make_voc(tmp_path, {"a": annotation(*map(obj, names), obj("b2", 5, 5, 5, 5)), "b": annotation()})
    assert VOCBboxDataset(root).summary() == (
        "trainval: 2 images, 17 boxes (a1 9, b2 3, c3 1, d4 1, e5 1, 2 more classes), 0 difficult left out,"
        " 1 image without boxes, 1 problem"
    )


def test_problems_are_counted_and_the_first_shown():
    problems = [Problem("x/a.xml", "box without area: cat (1)"), Problem("x/b.xml", "box outside the picture: dog (2)")]
    assert report_problems([]) == "no problems in the annotations"
    assert report_problems(problems * 2, max_lines=1).splitlines() == [
        "4 in 2 files: box without area × 2, box outside the picture × 2",
        "  a.xml: box without area: cat (1)",
        "  … and 3 more",
    ]
    assert len(report_problems(problems).splitlines()) == 3


def test_progress_bar_only_for_many_files(tmp_path, monkeypatch, capsys):
    root = make_voc(tmp_path, {"a": annotation(), "b": annotation()})
    VOCBboxDataset(root)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(voc_dataset, "MANY", 1)
    VOCBboxDataset(root)
    assert "annotations: 2/2 (100 %)" in capsys.readouterr().err
