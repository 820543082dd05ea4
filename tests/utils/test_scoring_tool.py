"""utils/scoring_tool.py: the parts agree with each other, and what is written holds them all."""

import csv
import json

import numpy as np
import pytest

from data.splits import open_split
from tests.coco_folder import box, content, make_coco
from tests.voc_folder import annotation, make_voc, obj
from utils.detections import Detections
from utils.errors import UserError
from utils.scoring_tool import score

DIFFICULT = "<difficult>1</difficult>"


@pytest.fixture
def db(tmp_path):
    files = {
        "a": annotation(obj("cat", 1, 1, 41, 41), obj("dog", 51, 1, 81, 31)),
        "b": annotation(obj("cat", 1, 1, 41, 41), obj("cat", 51, 51, 71, 71, DIFFICULT)),
        "c": annotation(),
    }
    return open_split("voc", str(make_voc(tmp_path, files)), "trainval", ("cat", "dog", "ox"), use_difficult=True)


def detections(*images):
    """Of (label, score, bbox) rows."""
    bboxes, labels, scores = ([[row[k] for row in rows] for rows in images] for k in (2, 0, 1))
    return Detections([np.array(b, float).reshape(-1, 4) for b in bboxes], [np.array(k, int) for k in labels],
                      [np.array(s, float) for s in scores])  # fmt: skip


CAT, DOG, HARD = (0, 0, 40, 40), (0, 50, 30, 80), (50, 50, 70, 70)
# a cat found, a dog taken for a cat; a cat missed, the difficult one found; a false dog
FOUND = ([(0, 0.9, CAT), (0, 0.8, DOG)], [(0, 0.7, HARD)], [(1, 0.6, CAT)])


def test_parts_agree(db):
    scores = score(detections(*FOUND), db, db.label_names)
    assert scores.voc.n_gt.tolist() == [2, 1, 0]
    assert scores.voc.ap[:2].tolist() == [0.5, 0]
    assert scores.coco.ap50[:2].tolist() == [pytest.approx(51 / 101), 0]  # the area over 101 recalls
    assert scores.errors.ap[:2].tolist() == scores.voc.ap[:2].tolist()
    assert scores.errors.counts.sum(0).tolist()[:6] == [1, 0, 0, 0, 1, 1]  # Cls, ..., Bkg, Miss
    assert scores.confusion.score_thresh < 0.9
    text = scores.text()
    for part in ("AP 11-point", "all, one threshold", "COCO's rules:\n", "Cls ", "background"):
        assert part in text
    assert "errors of all detections that were kept, whatever their score, and what the mAP" in text


def test_files(db, tmp_path):
    scores = score(detections(*FOUND), db, db.label_names)
    paths = scores.write(tmp_path / "deep" / "x.json", {"split": "trainval"})
    assert [path.name for path in paths] == ["x.json", "x_classes.csv", "x_curves.csv", "x_confusion.csv",
                                             "x_errors.csv"]  # fmt: skip
    document = json.loads(paths[0].read_text())
    assert (document["split"], document["ap"], document["map"]) == ("trainval", [0.5, 0.0, None], 0.25)
    assert document["coco"]["stats"]["AP50"] == pytest.approx(51 / 202)
    # F1 is best with the first detection alone: one box of three is found
    assert document["confusion"]["matrix"] == [[1, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    tables = [list(csv.reader(path.open(encoding="utf-8"))) for path in paths[1:]]
    classes = [dict(zip(tables[0][0], row)) for row in tables[0][1:]]
    assert [row["class"] for row in classes] == ["cat", "dog", "ox"]
    assert (float(classes[0]["ap"]), classes[2]["ap"], classes[2]["best_f1_threshold"]) == (0.5, "", "")
    assert tables[2][0] == ["truth", "cat", "dog", "ox", "background"]
    assert all(len({len(row) for row in table}) == 1 for table in tables)


def test_first_images_alone(db):
    scores = score(detections(*FOUND[:1]), db, db.label_names)
    assert scores.voc.n_gt.tolist() == [1, 1, 0]
    assert scores.coco.stats["AR100"] == pytest.approx(0.5)  # one of one cat, none of one dog
    assert scores.voc.ap[0] == 1


def test_to_an_rpn_all_are_objects(db):
    rows = [[(0, s, box) for _, s, box in image] for image in FOUND]
    scores = score(detections(*rows), db, ("object",))
    assert scores.voc.n_gt.tolist() == [3]
    assert scores.voc.ap[0] == pytest.approx(2 / 3)
    assert scores.coco.ap50[0] == pytest.approx(67 / 101)


def test_nothing_found(db, tmp_path):
    scores = score(detections([], [], []), db, db.label_names)
    assert (scores.voc.map, scores.coco.stats["AP"]) == (0, 0)
    scores.text()
    scores.write(tmp_path / "x.json", {})


def test_a_place_that_takes_no_file(db, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        score(detections([], [], []), db, db.label_names).write(tmp_path / "file/x.json", {})


def test_the_truth_is_not_rounded(tmp_path):
    """As float32 10.6 is a little more, and a detection of half the box would miss it by that."""
    make_coco(tmp_path, content(box(bbox=(0, 0, 10.6, 10))))
    db = open_split("coco", str(tmp_path), "val", use_difficult=True)
    scores = score(detections([(0, 0.9, (0, 0, 10, 5.3))]), db, db.label_names, plus_one=False)
    assert (scores.voc.map, scores.coco.stats["AP50"]) == (1, pytest.approx(1))
    assert scores.errors.counts.sum() == 0


def test_an_overlap_below_that_of_background(db):
    """Boxes that overlap less than 0.1 are nowhere, unless as little is asked for."""
    small = detections([(0, 0.9, (0, 0, 12, 12))], [], [])
    assert score(small, db, db.label_names, iou_thresh=0.05).voc.ap[0] == 0.5


def test_another_overlap(db):
    moved = detections([(0, 0.9, (0, 0, 40, 30))], [], [])
    assert score(moved, db, db.label_names).voc.ap[0] == 0.5
    assert score(moved, db, db.label_names, iou_thresh=0.8).voc.ap[0] == 0
    # 30 of 40 as edges, 31 of 41 with the last pixels: 0.75 and 0.756
    assert score(moved, db, db.label_names, iou_thresh=0.753).voc.ap[0] == 0.5
    assert score(moved, db, db.label_names, iou_thresh=0.753, plus_one=False).voc.ap[0] == 0
