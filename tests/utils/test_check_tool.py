"""utils/check_tool.py: its numbers by hand, and what it finds wrong."""

import numpy as np
import pytest
from PIL import Image

from data.coco_dataset import COCOBboxDataset
from data.splits import open_split
from data.voc_dataset import VOCBboxDataset
from model import build_model
from tests.coco_folder import box, content, make_coco
from tests.voc_folder import annotation, make_voc, obj
from utils.check_tool import anchor_line, best_anchor_ious, data_table, notices, say_what_is_there, slips
from utils.errors import UserError

DIFFICULT = "<difficult>1</difficult>"


@pytest.fixture(scope="module")
def model():
    """Its prepared pictures are as large as those of `make_voc`, 100×80; anchors of 32 px, 8 px apart."""
    return build_model("tiny", 2, min_size=80, max_size=100, anchor_scales=[4], anchor_ratios=[1])


def voc(folder, use_difficult=True, label_names=None, **files):
    return VOCBboxDataset(make_voc(folder, files), "trainval", label_names, use_difficult)


def test_share_of_boxes_that_an_anchor_covers(tmp_path, model):
    """One box is an anchor of a cell in the middle, one has a quarter of its area within it, one is difficult."""
    stride, center = model.rpn.levels[0].stride, model.rpn.levels[0].center
    first = 2 * stride + center - 16  # the anchor of the third cell
    box = {"xmin": first + 1, "ymin": first + 1, "xmax": first + 33, "ymax": first + 33}
    half = box | {"xmax": first + 17, "ymax": first + 17}
    far = {"xmin": 1, "ymin": 1, "xmax": 3, "ymax": 3}
    db = voc(tmp_path, a=annotation(obj(**box), obj("dog", **half), obj(**far, extra=DIFFICULT)))
    best = best_anchor_ious(model, db)
    np.testing.assert_allclose(best.iou, [1, 0.25], atol=1e-6)
    rows = {line.split()[0]: line.split() for line in data_table(db, best).splitlines()}
    cat, dog, every = (rows[name] for name in ("cat", "dog", "all"))
    assert (cat[-4:], dog[-4:], every[-4:]) == (["100.0", "%"] * 2, ["0.0", "%"] * 2, ["50.0", "%"] * 2)
    assert anchor_line(best) == (
        "anchors: some anchor covers 50.0 % of the boxes at IoU 0.5 and 50.0 % of the boxes at IoU 0.7"
    )


def test_table_by_hand(tmp_path, model):
    cat = obj("cat", xmin=1, ymin=1, xmax=41, ymax=11)  # √400 = 20
    db = voc(tmp_path, None, ("cat", "dog", "ox"), a=annotation(cat, cat, obj("dog", 1, 1, 11, 11, DIFFICULT)),
             b=annotation(), c=annotation(obj("cat", 1, 1, 51, 51)))  # fmt: skip
    db = VOCBboxDataset(db.data_dir, "trainval", db.label_names, use_difficult=True)
    first, *rows = data_table(db, best_anchor_ious(model, db)).splitlines()
    assert first == "trainval: 3 images, 3 of 100×80 px; 1 without a box"
    cells = [row.split("  ") for row in rows]
    cells = [[cell.strip() for cell in row if cell.strip()] for row in cells]
    assert cells[0] == ["class", "images", "boxes", "difficult", "√area px", "IoU ≥ 0.5", "IoU ≥ 0.7"]
    assert cells[1][:5] == ["cat", "2", "3", "0", "20 · 20 · 50"]
    assert cells[2] == ["dog", "1", "1", "1", "10 · 10 · 10", "-", "-"]
    assert cells[3] == ["ox", "0", "0", "0", "-", "-", "-"]
    assert cells[4][:5] == ["all", "2", "4", "1", "10 · 20 · 50"]


def test_a_set_without_a_box(tmp_path, model):
    db = voc(tmp_path, True, ("cat",), a=annotation())
    assert "1 without a box" in data_table(db, best_anchor_ious(model, db))
    assert anchor_line(best_anchor_ious(model, db)).count("- of the boxes") == 2


def test_what_is_seldom_meant(tmp_path, capsys, model):
    names = ("Traffic light", "cat", "dog", "traffic_light")
    train = voc(tmp_path / "1", True, names, a=annotation(obj("cat"), obj("cat"), obj("dog"), obj("Traffic light")))
    val = voc(tmp_path / "2", True, names, b=annotation(obj("traffic_light", 1, 1, 6, 6)))

    def notices_of(train, val):
        return notices(train, val, best_anchor_ious(model, train))

    lines = notices_of(train, val)
    assert lines[0] == "classes with nearly the same name: Traffic light, traffic_light"
    assert lines[1] == (
        "classes with boxes in trainval, but none in trainval, so that nothing is learned of them: traffic_light"
    )
    assert lines[2] == (
        "classes with boxes in trainval, but none in trainval, so that they have no AP: Traffic light, cat, dog"
    )
    assert lines[3].startswith("the same box of the same class twice: ")
    assert lines[3].endswith("a.jpg")
    assert len(lines) == 4
    assert notices_of(val, None)[0] == lines[0]
    assert notices_of(val, val)[1].startswith("1 image is in both trainval and trainval: the mAP is flattered")
    say_what_is_there(model, val, None)
    assert "notice: fewer than half of the boxes of traffic_light meet an anchor at IoU 0.5: they are smaller than" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("corners", "advice"),
    [
        ((11, 11, 91, 71), "larger than the anchors; a smaller --min-size or larger --anchor-scales"),
        ((11, 11, 19, 19), "smaller than the anchors; a larger --min-size or smaller --anchor-scales"),
        ((1, 31, 101, 41), "no anchor has their shape; other --anchor-ratios"),
        ((71, 51, 101, 81), "the anchors of their shape stand elsewhere; a larger --allowed-border or --min-size"),
    ],
)
def test_advice_goes_by_what_keeps_the_anchors_away(tmp_path, corners, advice):
    """The sides are those at the training size: the pictures are drawn at half of theirs."""
    scales = {"anchor_scales": [1.5, 2], "anchor_ratios": [1]}  # 12 and 16 px
    model = build_model("tiny", 2, min_size=40, max_size=50, allowed_border=-6, **scales)
    db = voc(tmp_path, a=annotation(obj("cat", *corners)))
    (line,) = notices(db, None, best_anchor_ious(model, db))
    assert line.startswith("fewer than half of the boxes of cat meet an anchor at IoU 0.5: ")
    assert advice in line


def test_many_classes_that_no_anchor_meets(tmp_path, model):
    db = voc(tmp_path, a=annotation(*(obj(f"{c}{c}", 1, 1, 4, 4) for c in "abcdefg"), obj("whole", 1, 1, 101, 81)))
    large, small = notices(db, None, best_anchor_ious(model, db))
    assert large.startswith("fewer than half of the boxes of whole meet")
    assert "of aa, bb, cc, dd, ee and 2 more meet an anchor" in small


@pytest.mark.parametrize("names", [("c++", "c#", "c"), ("+", "-"), ("-", "_"), ("a1", "a 2")])
def test_names_that_differ_by_more_than_a_space(tmp_path, model, names):
    db = voc(tmp_path, True, (*names, "cat"), a=annotation(obj()))
    assert not any("nearly" in line for line in notices(db, None, best_anchor_ious(model, db)))


@pytest.mark.parametrize(
    ("counts", "rare"),
    [
        ({"Raspberry_Pi_3": 12, "Rasbery_Pi_3": 1}, "Rasbery_Pi_3"),
        ({"rasbery pi 3": 2, "Raspberry_Pi_3": 12, "cat": 5}, "rasbery pi 3"),
        ({"helmet": 500, "helmets": 24}, "helmets"),
        ({"person": 10, "preson": 2}, "preson"),
    ],
)
def test_names_that_may_be_slips(counts, rare):
    (line,) = slips(counts)
    assert line.startswith(f"{rare!r} ({counts[rare]} box")
    assert line.endswith(" boxes): a slip?")


@pytest.mark.parametrize(
    ("rare", "other"),
    [
        ("class1", "class2"),
        ("Raspberry_Pi_3", "Raspberry_Pi_4"),
        ("hair", "chair"),
        ("cat", "car"),
        ("glove_left", "glove_right"),
        ("glove_l", "glove_r"),
        ("unmasked", "masked"),
        ("nurse", "horse"),
        ("banana", "bandanna"),
        ("person helmet", "person no helmet"),
        ("", "person"),
        ("日本", "日木"),
    ],
)
def test_names_that_are_meant(rare, other):
    assert slips({rare: 1, other: 1000}) == []


@pytest.mark.parametrize(("rare", "other"), [(0, 1000), (3, 60), (2, 9), (1, 4), (50, 50)])
def test_names_that_are_near_but_not_rare(rare, other):
    assert slips({"Rasbery": rare, "Raspberry": other}) == []


def test_a_slip_is_told_of_both_sets_together(tmp_path, model):
    names = ("Rasbery", "Raspberry")
    many = [obj("Raspberry", xmax=20 + k) for k in range(3)]
    train = voc(tmp_path / "1", True, names, a=annotation(obj("Rasbery"), *many))
    val = voc(tmp_path / "2", True, names, b=annotation(*many))
    lines = notices(train, val, best_anchor_ious(model, train))
    assert lines[:2] == [
        "'Rasbery' (1 box) looks like 'Raspberry' (6 boxes): a slip?",
        "classes with boxes in trainval, but none in trainval, so that they have no AP: Rasbery",
    ]


def test_boxes_that_are_shares_of_the_sides(tmp_path, model):
    make_coco(tmp_path, content(box(bbox=(0.1, 0.2, 0.5, 0.5))))
    db = COCOBboxDataset(tmp_path, "val")
    assert any("shares of the picture" in line for line in notices(db, None, best_anchor_ious(model, db)))


def test_no_list_to_validate_on(tmp_path, capsys, model):
    db = voc(tmp_path, a=annotation(obj()))
    say_what_is_there(model, db, None)
    line = "notice: no list val to validate on: no mAP and no best.pth; name one with --val-split (there: trainval)"
    assert line in capsys.readouterr().out.splitlines()
    say_what_is_there(model, db, db)
    assert "to validate on" not in capsys.readouterr().out


def test_nothing_to_learn_from(tmp_path, model):
    db = voc(tmp_path, True, None, a=annotation(obj(extra=DIFFICULT)))
    with pytest.raises(UserError, match="trainval has no box to learn from"):
        say_what_is_there(model, db, None)


def test_pictures_whose_annotations_leave_exif_aside(tmp_path, model):
    make_voc(tmp_path, dict.fromkeys("abc", annotation(obj())))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in "ab":
        Image.new("RGB", (100, 80)).save(tmp_path / f"JPEGImages/{name}.jpg", exif=exif)
    db = VOCBboxDataset(str(tmp_path), "trainval", ("cat",))
    (line,) = (line for line in notices(db, None, best_anchor_ious(model, db)) if "Exif" in line)
    assert line.startswith("read as stored, not turned as Exif says")
    assert line.endswith("a.jpg and 1 more picture")


def test_each_problem_with_its_file(tmp_path, capsys, model):
    """What can't be read, then what would be left out, each on a line; and the exit code that scripts look at."""
    files = {
        "fine": annotation(obj()),
        "cut": annotation(obj(xmax=300)),
        "flat": annotation(obj(xmin=5, xmax=5)),
        "broken": "<annotation>",
        "gone": annotation(obj()),
        "short": annotation(obj()),
    }
    root = make_voc(tmp_path, files)
    (root / "JPEGImages/gone.jpg").unlink()
    short = root / "JPEGImages/short.jpg"
    short.write_bytes(short.read_bytes()[:60])
    with pytest.raises(UserError, match=r"\(and 2 more: python train.py check names all\)"):
        open_split("voc", str(root), "trainval")
    db = open_split("voc", str(root), "trainval", use_difficult=True, as_written=False, strict=False)
    assert sorted(db.ids) == ["cut", "fine", "flat"]
    with pytest.raises(UserError, match=r"^5 problems, named above"):
        say_what_is_there(model, db, None)
    lines = capsys.readouterr().out.splitlines()
    for name, what in (("broken.xml", "no element found"), ("id 'gone'", "has no picture"), ("short.jpg", "broken"),
                       ("cut.xml", "box cut to the picture"), ("flat.xml", "box without area")):  # fmt: skip
        assert sum(name in line and what in line for line in lines) == 1, name


def test_the_last_line_does_not_contradict_the_notices(tmp_path, capsys, model):
    met = obj("cat", 9, 9, 41, 41)
    train = voc(tmp_path / "1", a=annotation(met))
    val = voc(tmp_path / "2", a=annotation(met))
    say_what_is_there(model, train, val)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "no problems: training reads all of it as it stands"
    assert sum("least · median · largest" in line and "that some anchor meets" in line for line in lines) == 1
    say_what_is_there(model, train, None)
    last = "no problems in the files, which training reads as they stand; 1 notice above"
    assert capsys.readouterr().out.splitlines()[-1] == last
