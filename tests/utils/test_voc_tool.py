"""utils/voc_tool.py: what it writes, as this project's own reader and others' take it."""

import os
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.voc_dataset import VOCBboxDataset
from utils import voc_tool
from utils.errors import UserError
from utils.image_tool import read_image
from utils.label_names import VOC_BBOX_LABEL_NAMES
from utils.voc_tool import VOCWriter, voc_annotation, voc_corners, voc_id

ONE = np.array([[2.2, 4.4, 20.0, 30.6]], np.float32)
NONE = np.empty((0, 4), np.float32)


def picture(path, value=100, size=(24, 32), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path, **options)
    return path


def save(folder, *pictures, overwrite=False):
    """Write (path, bbox, names) of each picture, under its own name."""
    writer = VOCWriter(folder, [(path, voc_id(path.stem), False) for path, *_ in pictures], overwrite)
    for path, bbox, names in pictures:
        writer.add_picture(path, voc_id(path.stem), read_image(path), bbox, names)
    writer.close()
    return VOCBboxDataset(folder, "predicted", use_difficult=True)


# voc_corners


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_boxes_come_back_to_half_a_pixel(data):
    """The reader takes 1 from each corner. At the right and lower border a whole pixel is lost: W + 1 is no column."""
    height, width = data.draw(st.tuples(st.integers(2, 300), st.integers(2, 300)))
    edges = [st.floats(0, side, width=32) for side in (height, width)]
    (y_min, y_max), (x_min, x_max) = (sorted(data.draw(st.tuples(edge, edge))) for edge in edges)
    bbox = np.array([[y_min, x_min, y_max, x_max]])
    (corners,) = voc_corners(bbox, (height, width))
    assert corners.dtype.kind == "i"
    assert 1 <= corners[0] < corners[2] <= width
    assert 1 <= corners[1] < corners[3] <= height
    back = corners[[1, 0, 3, 2]] - 1
    for value, before, side in zip(back, bbox[0], (height, width) * 2, strict=True):
        if before <= side - 2 and min(y_max - y_min, x_max - x_min) >= 1:
            assert abs(value - before) <= 0.5
        else:
            assert abs(value - before) <= 2


def test_corners_are_one_based_and_x_first():
    bbox = [[0, 0, 24, 32], [1.4, 2.6, 10.5, 20.49]]
    assert voc_corners(bbox, (24, 32)).tolist() == [[1, 1, 32, 24], [4, 2, 21, 11]]
    assert voc_corners(NONE, (24, 32)).shape == (0, 4)


@pytest.mark.parametrize("size", [(24, 32), (1, 1), (1, 40)])
def test_the_thinnest_box_can_be_read(size):
    bbox = np.array([[0.2, 0.2, 0.3, 0.3], [size[0] - 0.1, size[1] - 0.1, *size]])
    corners = voc_corners(bbox, size)
    assert (corners[:, 2:] > corners[:, :2]).all()
    assert (corners[:, :2] - 1 < [size[1], size[0]]).all(), "read, it lies outside the picture"


# voc_annotation


def test_all_that_labelimg_writes_is_there(tmp_path):
    path = tmp_path / "JPEGImages" / "a.jpg"
    bbox = np.array([[2.2, 4.4, 20, 30], [0, 5, 9, 9], [5, 5, 9, 32], [5, 0.3, 9, 9], [5, 5, 23.6, 9]])
    root = ET.fromstring(voc_annotation(path, (24, 32), bbox, ["cat"] * 5))
    assert [root.findtext(tag) for tag in ("folder", "filename", "path", "segmented")] == [
        "JPEGImages",
        "a.jpg",
        str(path),
        "0",
    ]
    assert [root.findtext(f"size/{tag}") for tag in ("width", "height", "depth")] == ["32", "24", "3"]
    first = root.find("object")
    assert [(e.tag, e.text) for e in first if e.tag != "bndbox"] == [
        ("name", "cat"),
        ("pose", "Unspecified"),
        ("truncated", "0"),
        ("difficult", "0"),
    ]
    assert [(e.tag, e.text) for e in first.find("bndbox")] == [
        ("xmin", "5"),
        ("ymin", "3"),
        ("xmax", "31"),
        ("ymax", "21"),
    ]
    assert [e.findtext("truncated") for e in root.iter("object")] == ["0", "1", "1", "1", "1"]


@given(st.lists(st.text(st.characters(codec=None), max_size=30), max_size=4), st.text(st.characters(codec=None)))
@settings(max_examples=200, deadline=None)
def test_any_name_makes_xml_that_can_be_read(names, stem):
    """Surrogates, which stand for the bytes of a name that is no UTF-8, among them."""
    path = Path("/f") / (voc_id(stem).replace("/", "_") + ".jpg")
    root = ET.fromstring(voc_annotation(path, (9, 9), np.tile(ONE, (len(names), 1)), names))
    assert root.findtext("filename") == path.name
    written = [e.findtext("name") or "" for e in root.iter("object")]
    assert [len(name) for name in written] == [len(name) for name in names]
    for name, before in zip(written, names, strict=True):
        if before.isprintable():
            assert name == before


# VOCWriter


def test_reading_the_folder_gives_what_was_found(tmp_path):
    a, b = picture(tmp_path / "in/a.jpg"), picture(tmp_path / "in/b.png", 7, (40, 20))
    db = save(tmp_path / "out", (a, np.concatenate([ONE, ONE - 1]), ["wolf", "lynx"]), (b, NONE, []))
    assert (db.ids, db.label_names, db.problems) == (["a", "b"], ("lynx", "wolf"), [])
    img, bbox, label, difficult = db[0]
    assert np.array_equal(img, read_image(a))
    assert np.abs(bbox - np.concatenate([ONE, ONE - 1])).max() <= 0.5
    assert label.tolist() == [1, 0]
    assert not difficult.any()
    assert db.size(1) == (40, 20)
    assert len(db[1][1]) == 0


NAMES = [
    "<a> & 'b' \"c\"",
    "été 猫 🐈",
    "photo 1",
    " spaced ",
    "two\nlines",
    "tab\tbell\a",
    "next\x85line",
    "\ufeffmark",
]


@pytest.mark.parametrize("name", [*NAMES, os.fsdecode(b"latin\xe9")])
def test_names_of_files_and_classes_that_need_care(tmp_path, name):
    path = picture(tmp_path / "in" / f"{name}.png")
    db = save(tmp_path / "out", (path, ONE, [name.replace("\udce9", "")]), (picture(tmp_path / "in/z.jpg"), NONE, []))
    assert len(db) == 2
    assert db.problems == []
    assert np.array_equal(db[0][0], read_image(path))
    assert len(db.get_annotation(0)[0]) == 1
    if name.isprintable():
        assert db.ids[0] == name.strip()
        assert db.label_names == (name.strip(),)


def test_a_picture_is_linked_and_copied_where_it_cannot_be(tmp_path, monkeypatch):
    path = picture(tmp_path / "in/a.jpg")
    save(tmp_path / "linked", (path, ONE, ["cat"]))
    assert os.path.samefile(path, tmp_path / "linked/JPEGImages/a.jpg")

    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(voc_tool.os, "link", refuse)
    save(tmp_path / "copied", (path, ONE, ["cat"]))
    assert not os.path.samefile(path, tmp_path / "copied/JPEGImages/a.jpg")
    assert (tmp_path / "copied/JPEGImages/a.jpg").read_bytes() == path.read_bytes()


def test_a_link_to_a_picture_becomes_the_picture(tmp_path):
    path = picture(tmp_path / "in/a.jpg")
    (tmp_path / "in/b.jpg").symlink_to("a.jpg")
    db = save(tmp_path / "out", (tmp_path / "in/b.jpg", ONE, ["cat"]))
    assert not (tmp_path / "out/JPEGImages/b.jpg").is_symlink()
    assert np.array_equal(db[0][0], read_image(path))


def test_a_kind_that_voc_readers_do_not_know_becomes_png(tmp_path):
    path = picture(tmp_path / "in/a.tif", 77)
    db = save(tmp_path / "out", (path, ONE, ["cat"]))
    assert os.listdir(tmp_path / "out/JPEGImages") == ["a.png"]
    assert np.array_equal(db[0][0], read_image(path))
    picture(path, 88)
    with pytest.raises(UserError, match=r"a\.xml.*--overwrite"):
        save(tmp_path / "out", (path, ONE, ["cat"]))
    assert save(tmp_path / "out", (path, ONE, ["cat"]), overwrite=True)[0][0].mean() == 88


def test_boxes_of_a_picture_that_lies_on_its_side(tmp_path):
    """Found in the upright picture, they are read with it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "in/a.jpg", size=(24, 32), exif=exif)
    db = save(tmp_path / "out", (path, np.array([[25, 1, 31, 9]], np.float32), ["cat"]))
    assert db.size(0) == (32, 24)
    assert db.problems == []
    assert db.get_annotation(0)[0].tolist() == [[25, 1, 31, 9]]


def test_pictures_that_lie_in_the_folder_stay_as_they_are(tmp_path):
    """Pre-labelling in place."""
    path = picture(tmp_path / "JPEGImages/a.jpg")
    before = os.stat(path).st_ctime_ns
    db = save(tmp_path, (path, ONE, ["cat"]))
    assert os.stat(path).st_ctime_ns == before
    assert db.path(0) == str(path)


def test_frames_of_a_video(tmp_path):
    writer = VOCWriter(tmp_path, [(Path("v.mp4"), "v", True)])
    img = np.full((3, 24, 32), 90, np.float32)
    for index in (0, 10):
        writer.add_frame("v", index, img + index, ONE, ["cat"])
    writer.close()
    db = VOCBboxDataset(tmp_path, "predicted")
    assert db.ids == ["v_000000", "v_000010"]
    assert np.abs(db[1][0] - 100).max() <= 2
    assert np.abs(db[1][1] - ONE).max() <= 0.5


def test_a_picture_that_is_called_as_a_frame(tmp_path):
    path = picture(tmp_path / "in/v_000000.jpg", 10)
    writer = VOCWriter(tmp_path / "out", [(Path("v.mp4"), "v", True), (path, "v_000000", False)])
    writer.add_frame("v", 0, np.full((3, 24, 32), 90, np.float32), ONE, ["cat"])
    writer.add_picture(path, "v_000000", read_image(path), NONE, [])
    writer.close()
    db = VOCBboxDataset(tmp_path / "out", "predicted")
    assert [round(db[i][0].mean()) for i in range(2)] == [90, 10]
    assert [len(db[i][1]) for i in range(2)] == [1, 0]


def test_the_list_is_of_this_run(tmp_path):
    a, b = picture(tmp_path / "in/a.jpg"), picture(tmp_path / "in/b.jpg")
    assert save(tmp_path / "out", (a, ONE, ["cat"])).ids == ["a"]
    assert save(tmp_path / "out", (b, ONE, ["cat"])).ids == ["b"]
    assert (tmp_path / "out/Annotations/a.xml").exists()


def test_annotations_are_replaced_only_if_that_is_allowed(tmp_path):
    path = picture(tmp_path / "in/a.jpg")
    save(tmp_path / "out", (path, ONE, ["cat"]))
    corrected = tmp_path / "out/Annotations/a.xml"
    corrected.write_text("by hand")
    with pytest.raises(UserError, match=r"a\.xml.*--overwrite") as error:
        save(tmp_path / "out", (path, ONE, ["cat"]))
    assert "\n" not in str(error.value)
    assert corrected.read_text() == "by hand"
    assert save(tmp_path / "out", (path, ONE, ["dog"]), overwrite=True).label_names == VOC_BBOX_LABEL_NAMES


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".JPG"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_another_picture_of_the_name_is_never_lost_nor_annotated(tmp_path, suffix, overwrite):
    theirs = picture(tmp_path / f"out/JPEGImages/a{suffix}", 200)
    before = theirs.read_bytes()
    with pytest.raises(UserError, match=f"a{suffix} is another picture"):
        save(tmp_path / "out", (picture(tmp_path / "in/a.jpg", 10), ONE, ["cat"]), overwrite=overwrite)
    assert theirs.read_bytes() == before
    assert os.listdir(tmp_path / "out") == ["JPEGImages"]


def test_frames_of_a_former_run(tmp_path):
    source = [(Path("v.mp4"), "v", True)]
    picture(tmp_path / "JPEGImages/v_1.jpg")  # no frame of ours
    picture(tmp_path / "JPEGImages/vv_000001.jpg")
    VOCWriter(tmp_path, source)
    linked = tmp_path / "linked.jpg"
    os.link(picture(tmp_path / "JPEGImages/v_000001.jpg", 5), linked)
    with pytest.raises(UserError, match=r"v_000001\.jpg"):
        VOCWriter(tmp_path, source)
    writer = VOCWriter(tmp_path, source, overwrite=True)
    writer.add_frame("v", 1, np.full((3, 24, 32), 90, np.float32), ONE, ["cat"])
    assert round(read_image(tmp_path / "JPEGImages/v_000001.jpg").mean()) == 90
    assert round(read_image(linked).mean()) == 5, "written through a hard link"
    assert not os.path.samefile(linked, tmp_path / "JPEGImages/v_000001.jpg")


def test_a_picture_that_is_not_there_hinders_nothing(tmp_path):
    """It is told where it is read."""
    VOCWriter(tmp_path / "out", [(tmp_path / "gone.jpg", "gone", False)]).close()
    assert not (tmp_path / "out/ImageSets").exists()
