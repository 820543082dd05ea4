"""utils/detections.py: both forms of files, written and read, and what is wrong with those of others."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.detections import (
    Detections,
    Names,
    make_room_for_detections,
    read_detections,
    write_coco_results,
    write_voc_results,
)
from utils.errors import UserError

NAMES = Names(["000005", "photo 1", "x"], {"bus": 3, "minibus": 90, "a/b": 1})


def detections(*images):
    """Of (bbox, label, score) rows for each image."""
    bboxes, labels, scores = ([[row[k] for row in rows] for rows in images] for k in range(3))
    return Detections(
        [np.array(bbox, np.float32).reshape(-1, 4) for bbox in bboxes],
        [np.array(label, np.int32) for label in labels],
        [np.array(score, np.float32) for score in scores],
    )


TWO = detections([((2.5, 4, 20, 30.1), 1, 0.9), ((0, 0, 10, 10), 0, 0.25)], [], [((1, 2, 3, 4), 2, 1 / 3)])


def write(form, folder, found):
    if form == "coco":
        write_coco_results(folder / "deep/found.json", found, NAMES)
        return folder / "deep/found.json"
    write_voc_results(folder / "voc", found, NAMES)
    return folder / "voc"


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_what_is_written_is_read(form, tmp_path):
    read, n_left_out = read_detections(write(form, tmp_path, TWO), NAMES)
    assert n_left_out == 0
    assert len(read) == 3
    for got, expected in zip(zip(*read.columns), zip(*TWO.columns)):
        order = np.argsort(expected[1], kind="stable") if form == "voc" else slice(None)  # class after class
        for own, column in zip(got, expected):
            np.testing.assert_allclose(own, column[order], rtol=0, atol=2e-6)
        assert (got[2].astype(np.float32) == expected[2][order]).all()  # so that no two scores become equal


floats = st.floats(0, 2000, width=32)
rows = st.lists(st.tuples(st.tuples(floats, floats, floats, floats), st.integers(0, 2), st.floats(0, 1, width=32)))


@pytest.mark.parametrize("form", ["coco", "voc"])
@given(images=st.lists(rows, min_size=3, max_size=3))
def test_any_detections_come_back(form, images, tmp_path_factory):
    images = [
        [((min(y1, y2), min(x1, x2), max(y1, y2), max(x1, x2)), k, s) for (y1, x1, y2, x2), k, s in rows]
        for rows in images
    ]
    found = detections(*images)
    read, _ = read_detections(write(form, tmp_path_factory.mktemp("any"), found), NAMES)
    assert [len(labels) for labels in read.labels] == [len(labels) for labels in found.labels]
    for got, expected in zip(zip(*read.columns), zip(*found.columns)):
        order = np.argsort(expected[1], kind="stable") if form == "voc" else slice(None)
        np.testing.assert_allclose(got[0], expected[0][order], rtol=1e-6, atol=2e-6)
        assert (got[1] == expected[1][order]).all()
        assert (got[2].astype(np.float32) == expected[2][order]).all()


def test_cocos_form_by_hand(tmp_path):
    """Boxes as x, y, width, height, and the ids that the data set's own file has."""
    write_coco_results(tmp_path / "x.json", TWO, NAMES)
    assert json.loads((tmp_path / "x.json").read_text())[:2] == [
        {"image_id": "000005", "category_id": 90, "bbox": [4, 2.5, 26.1000004, 17.5], "score": 0.899999976},
        {"image_id": "000005", "category_id": 3, "bbox": [0, 0, 10, 10], "score": 0.25},
    ]


def test_vocs_form_by_hand(tmp_path):
    """One text a class, with 1-based corners, x first; a class without detections has an empty one."""
    write_voc_results(tmp_path, detections([((2.5, 4, 20, 30), 1, 0.5)], [], []), NAMES, split="val")
    paths = [tmp_path / f"comp4_det_val_{name}.txt" for name in ("bus", "minibus", "a_b")]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert [path.read_text() for path in paths] == ["", "000005 0.5 5 3.5 31 21\n", ""]


def test_texts_of_other_programs(tmp_path):
    """BOM, CRLF, blank lines, an id with a space; the file of one class alone; whichever competition."""
    raw = "\ufeffphoto 1 .5 11 21 31 51\r\n\r\n  000005 1e-3 1 1 2 2  \r\nstranger 1 1 1 2 2\r\n"
    path = tmp_path / "comp3_det_test_minibus.txt"
    path.write_bytes(raw.encode())
    for where in (path, tmp_path):
        read, n_left_out = read_detections(where, NAMES)
        assert n_left_out == 1
        assert read.bboxes[1].tolist() == [[20, 10, 50, 30]]
        assert read.bboxes[0].tolist() == [[0, 0, 1, 1]]
        assert [labels.tolist() for labels in read.labels] == [[1], [1], []]
        assert [scores.tolist() for scores in read.scores] == [[0.001], [0.5], []]


def test_texts_of_classes_that_the_set_has_not(tmp_path):
    (tmp_path / "comp4_det_test_bus.txt").write_text("x 1 1 1 2 2")
    (tmp_path / "comp4_det_test_cow.txt").write_text("x 1 1 1 2 2\nx 1 3 1 4 2")
    read, n_left_out = read_detections(tmp_path, NAMES)
    assert (n_left_out, [len(labels) for labels in read.labels]) == (2, [0, 0, 1])


@pytest.mark.parametrize("names", [NAMES, Names(["x"], {"bus": 1, "minibus": 2})])
def test_a_known_split_ends_where_the_class_begins(tmp_path, names):
    """'test_mini' is no split of VOC's."""
    path = tmp_path / "comp4_det_test_mini_bus.txt"
    path.write_text("x 1 1 1 2 2")
    with pytest.raises(UserError, match=r"ends with none of the classes"):
        read_detections(path, names)


@pytest.mark.parametrize("split", ["val_small", "test", "a/b", "train_bus", "val,-"])
def test_any_split_comes_back_from_its_texts(tmp_path, split):
    found = detections([((1, 2, 3, 4), 0, 0.5)], [((1, 2, 3, 4), 1, 0.5)], [((1, 2, 3, 4), 2, 0.5)])
    write_voc_results(tmp_path, found, NAMES, split)
    for path in (tmp_path, *tmp_path.iterdir()):
        read, n_left_out = read_detections(path, NAMES, split)
        labels = np.concatenate(read.labels).tolist()
        assert (n_left_out, labels) == (0, [0, 1, 2]) if path == tmp_path else len(labels) == 1


def test_ids_that_are_made_up_go_with_names(tmp_path):
    """Another list of classes gives them to others."""
    made_up = Names(["x", "y"], {"ant": 1, "bee": 2, "wasp": 3}, frozenset(("ant", "bee", "wasp")))
    found = detections([((1, 2, 3, 4), 1, 0.5), ((1, 2, 3, 4), 2, 0.25)], [])
    write_coco_results(tmp_path / "r.json", found, made_up)
    for names, n, labels in (
        (made_up, 0, [1, 2]),
        (Names(["x", "y"], {"ant": 1, "wasp": 2}, frozenset(("ant", "wasp"))), 1, [1]),
        (Names(["x", "y"], {"cow": 2, "wasp": 3}), 0, [0, 1]),  # ids that a file says go before names
        (Names(["x", "y"], {"wasp": 3}), 1, [0]),
    ):
        read, n_left_out = read_detections(tmp_path / "r.json", names)
        assert (n_left_out, read.labels[0].tolist(), read.by_number) == (n, labels, False)
    (tmp_path / "r.json").write_text(json.dumps([row()]))
    assert read_detections(tmp_path / "r.json", Names(["x"], {"ant": 3}, frozenset(["ant"])))[0].by_number
    assert not read_detections(tmp_path / "r.json", Names(["x"], {"ant": 3}))[0].by_number


def test_no_box_of_a_known_class(tmp_path):
    rows = [row(category_id=99, category_name=name) for name in ("Bus", "cow")]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    with pytest.raises(UserError, match="none of its boxes is of a class of this set"):
        read_detections(tmp_path / "r.json", NAMES)
    rows.append(row(category_id=99, category_name=" bus "))
    (tmp_path / "r.json").write_text(json.dumps(rows))
    read, n_left_out = read_detections(tmp_path / "r.json", NAMES)
    assert (n_left_out, read.labels[2].tolist()) == (2, [0])


def test_detections_of_the_first_images_alone(tmp_path):
    found = detections([((1, 2, 3, 4), 0, 0.5)])
    for where in (tmp_path / "r.json", tmp_path / "texts"):
        (write_coco_results if where.suffix else write_voc_results)(where, found, NAMES)
        read, _ = read_detections(where, NAMES)
        assert [len(box) for box in read.bboxes] == [1, 0, 0]


@pytest.mark.parametrize("line", ["x .9 60 60 10 10", "x 10 10 60 60 .9"])
def test_a_line_in_another_order(tmp_path, line):
    (tmp_path / "comp4_det_test_bus.txt").write_text(line)
    with pytest.raises(UserError, match=r"line 1: .* has a maximum below its minimum"):
        read_detections(tmp_path, NAMES)


def test_texts_of_two_runs(tmp_path):
    """Together they would be twice as many."""
    for name in ("comp4_det_test_bus.txt", "comp4_det_val_bus.txt", "comp4_det_val_minibus.txt"):
        (tmp_path / name).write_text("x 1 1 1 2 2")
    with pytest.raises(UserError, match=r"comp4_det_test_bus\.txt is of another run than comp4_det_val_CLASS\.txt"):
        read_detections(tmp_path, NAMES)


def test_a_class_whose_name_ends_with_anothers(tmp_path):
    (tmp_path / "comp4_det_val_mini_bus.txt").write_text("x 1 1 1 2 2")
    (tmp_path / "comp4_det_val_a_b.txt").write_text("x 1 1 1 2 2")
    for names, n_left_out, found in ((NAMES, 1, [2]), (Names(["x"], {"bus": 1, "mini_bus": 2, "a/b": 3}), 0, [1, 2])):
        read, n = read_detections(tmp_path, names)
        assert n == n_left_out
        assert sorted(np.concatenate(read.labels).tolist()) == found


@pytest.mark.parametrize("image_id", ["\u3000a", "a\u00a0", "a\u0085b", "a\u2028b", "photo 1", "a b  c"])
def test_any_id_comes_back_from_a_text(tmp_path, image_id):
    names = Names([image_id, "other"], {"bus": 1})
    one = np.array([[1.0, 2, 30, 40]]), np.array([0]), np.array([0.5])
    found = Detections(*([column, column[:0]] for column in one))
    write_voc_results(tmp_path / "texts", found, names)
    read, n_left_out = read_detections(tmp_path / "texts", names)
    assert n_left_out == 0
    assert [len(box) for box in read.bboxes] == [1, 0]


@pytest.mark.parametrize("image_id", [1, 1.0, "1"])
@pytest.mark.parametrize("category_id", [3, 3.0, "3"])
def test_ids_as_a_table_program_writes_them(tmp_path, image_id, category_id):
    (tmp_path / "r.json").write_text(json.dumps([row(image_id=image_id, category_id=category_id)]))
    read, n_left_out = read_detections(tmp_path / "r.json", Names([1, 2], {"cat": 3}))
    assert (n_left_out, [len(box) for box in read.bboxes]) == (0, [1, 0])


def test_no_detections_at_all(tmp_path):
    (tmp_path / "none.json").write_text("[]")
    (tmp_path / "comp4_det_test_bus.txt").write_text("\n")
    for where in (tmp_path / "none.json", tmp_path):
        read, n_left_out = read_detections(where, NAMES)
        assert (n_left_out, [box.shape for box in read.bboxes]) == (0, [(0, 4)] * 3)


def row(**others):
    return {"image_id": "x", "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5} | others


WRONG = {
    "not JSON": ("r.json", "[", "line 1, column 2"),
    "bytes that are no text": ("r.json", b"\xff\xfe\xfa", "is not UTF-8 text"),
    "so deep that nothing reads it": ("r.json", "[" * 100_000, "cannot be read"),
    "a number": ("r.json", "3", "not a list of objects"),
    "a list of numbers": ("r.json", "[3]", "not a list of objects"),
    "instances without scores": ("r.json", {"annotations": [{"image_id": 1}]}, "has no bbox, category_id, score"),
    "unknown category": ("r.json", [row(), row(category_id=4)], "detection 2 has category 4; there are 3 bus"),
    "a class by name": ("r.json", [row(category_id="bus")], "category 'bus'"),
    "a category that is a list": ("r.json", [row(category_id=[3])], r"category \[3\]"),
    "three corners": ("r.json", [row(bbox=[1, 2, 3])], "detection 1: bbox and score"),
    "NaN": ("r.json", '[{"image_id": "x", "category_id": 3, "bbox": [1, NaN, 3, 4], "score": 1}]', "finite"),
    "a score in words": ("r.json", [row(score="high")], "finite"),
    "a score that is true": ("r.json", [row(score=True)], "finite"),
    "corners for sides": ("r.json", [row(bbox=[5, 5, -1, 4])], "negative side"),
    "another set": ("r.json", [row(image_id="y")], "none of its boxes is of an image of this split, such as 000005"),
    "four numbers": ("comp4_det_test_bus.txt", "x 1 2 3 4", "line 1: 'x 1 2 3 4' is not 'id score"),
    "a word": ("comp4_det_test_bus.txt", "x 1 2 3 4 5\nx 1 2 3 4 five", "line 2"),
    "infinite": ("comp4_det_test_bus.txt", "x inf 2 3 4 5", "line 1"),
    "an unknown class": ("comp4_det_test_cow.txt", "", "ends with none of the classes"),
    "a Latin text": ("comp4_det_test_bus.txt", b"\xe9 1 2 3 4 5", "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_that_names_it(case, tmp_path):
    name, text, what = WRONG[case]
    text = text if isinstance(text, (str, bytes)) else json.dumps(text)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=what) as error:
        read_detections(tmp_path / name, NAMES)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_there(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        read_detections(tmp_path / "gone.json", NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no files such as comp4_det_test_CLASS"):
        read_detections(tmp_path / "empty", NAMES)


@pytest.mark.parametrize("form", ["coco", "voc"])
def test_a_place_that_takes_no_file(form, tmp_path):
    for name in ("deep", "voc"):
        (tmp_path / name).write_text("a file")
    with pytest.raises(UserError, match="can't be written"):
        write(form, tmp_path, TWO)


@pytest.mark.parametrize("name", ["file/x.json", "file/x", "file", "folder.json"])
def test_such_a_place_is_refused_before_the_work(name, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match=r"^--save-detections=.*: can't be written"):
        make_room_for_detections(tmp_path / name, False, NAMES)
    make_room_for_detections(tmp_path / "new/x.json", False, NAMES)
    make_room_for_detections(tmp_path / "new/folder", False, NAMES)
    alike = Names(["x"], {"a/b": 1, "a_b": 2})
    make_room_for_detections(tmp_path / "new/y.json", False, alike)
    with pytest.raises(UserError, match="a/b and a_b would share a file"):
        make_room_for_detections(tmp_path / "new/y", False, alike)
    with pytest.raises(UserError, match="an RPN's boxes are of no class"):
        make_room_for_detections(tmp_path / "new/y", True, NAMES)
