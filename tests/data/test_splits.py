"""data/splits.py: the sets of a run, unions among them."""

import pytest

from data.splits import find_label_names, open_scored, open_split, report_both, sources, training_sets
from tests.coco_folder import box, content, make_coco
from tests.voc_folder import annotation, make_voc, obj
from utils.errors import UserError
from utils.label_names import VOC_BBOX_LABEL_NAMES


def test_folders_and_their_splits(tmp_path):
    assert sources("A", "train") == [("A", "train")]
    assert sources("A,B", "train") == [("A", "train"), ("B", "train")]
    assert sources("A, B", "x, y") == [("A", "x"), ("B", "y")]
    assert sources("A", "x") == [("A", "x")]
    assert sources("A,B", "x,-") == [("A", "x")]
    with pytest.raises(UserError, match=r"^-,-: leaves out every folder of A,B; name a split"):
        sources("A,B", "-,-")
    odd = tmp_path / "one,two"
    odd.mkdir()
    assert sources(str(odd), "x") == [(str(odd), "x")]  # a comma in a folder's name
    for folders, splits in (("A,B", "x,y,z"), ("A", "x,y"), ("A,B,C", "x,y")):
        with pytest.raises(UserError, match=r"^\S+: \d splits for \d folders? \(\S+\); name one split, or one"):
            sources(folders, splits)


def test_a_part_of_a_union_twice(tmp_path):
    with pytest.raises(UserError, match=r"^A with the split train is there twice"):
        sources("A,B,A", "train,train,train")
    assert len(sources("A,A", "train,val")) == 2
    assert sources("A,A", "test") == [("A", "test")]
    assert len(sources("A,./A", "test")) == 1
    assert sources("A,", "test") == [("A", "test")]


def voc(folder, *names):
    return str(make_voc(folder, {f"{name}{folder.name}": annotation(obj(name)) for name in names}))


def test_a_union_of_voc_folders(tmp_path):
    where = f"{voc(tmp_path / '1', 'cat', 'dog')},{voc(tmp_path / '2', 'cow')}"
    assert find_label_names("voc", where, ["trainval"]) == VOC_BBOX_LABEL_NAMES
    db = open_split("voc", where, "trainval")
    assert db.ids == ["cat1", "dog1", "cow2"]
    assert [db.label_names[db[i][2][0]] for i in range(3)] == ["cat", "dog", "cow"]


def test_classes_of_a_union_are_those_of_all(tmp_path):
    where = f"{voc(tmp_path / '1', 'nut', 'dog')},{voc(tmp_path / '2', 'bolt')}"
    assert find_label_names("voc", where, ["trainval"]) == ("bolt", "dog", "nut")
    db = open_split("voc", where, "trainval,trainval")
    assert db.label_names == ("bolt", "dog", "nut")
    assert [db.label_names[db[i][2][0]] for i in range(3)] == ["nut", "dog", "bolt"]


def test_classes_of_coco_keep_their_order(tmp_path):
    make_coco(tmp_path / "a", content(box()), "annotations/instances_train.json", "train")
    make_coco(tmp_path / "a", content(box(iscrowd=1), box()))
    train_db, val_db = training_sets("coco", str(tmp_path / "a"), "train", "val")
    assert train_db.label_names == val_db.label_names == ("cat", "dog", "owl")
    assert (train_db.use_difficult, val_db.use_difficult) == (False, True)
    assert len(val_db[0][1]) == 2
    make_coco(tmp_path / "b", content(categories=[{"id": 1, "name": "bat"}]))
    assert find_label_names("coco", f"{tmp_path}/a,{tmp_path}/b", ["val"]) == ("bat", "cat", "dog", "owl")


def test_nothing_to_learn_from(tmp_path):
    folder = make_voc(tmp_path, {"a": annotation(obj(extra="<difficult>1</difficult>")), "b": annotation()})
    with pytest.raises(UserError, match="trainval has no box to learn from, only difficult ones at most"):
        training_sets("voc", str(folder), "trainval", "val")


def test_without_a_validation_set(tmp_path, capsys):
    folder = voc(tmp_path / "1", "cat")
    sets = training_sets("voc", folder, "trainval", "val")
    assert sets[1] is None
    report_both(*sets, "val", folder)
    assert "no split val in" in (line := capsys.readouterr().out)
    assert "(there: trainval): the run goes on without validation, and keeps last.pth alone" in line
    with pytest.raises(UserError, match=r"val\.txt: no such list"):
        training_sets("voc", folder, "trainval", "val", needs_val=True)


def test_splits_that_are_there(tmp_path):
    voc = {name: str(make_voc(tmp_path / name, {"a": annotation(obj())}, test="a")) for name in "AB"}
    (tmp_path / "B/ImageSets/Main/test.txt").unlink()
    (tmp_path / "B/ImageSets/Main/cat_trainval.txt").write_text("a 1")
    assert open_split("voc", voc["A"], "trainval").splits_there() == ["test", "trainval"]
    assert open_split("voc", voc["B"], "trainval").splits_there() == ["trainval"]
    assert open_split("voc", ",".join(voc.values()), "trainval").splits_there() == ["test", "trainval"]
    make_coco(tmp_path / "C", content(box()))
    assert open_split("coco", str(tmp_path / "C"), "val").splits_there() == ["annotations/instances_val.json"]


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_a_class_that_is_not_known_and_to_whom(tmp_path, kind):
    """The user can name another class, a checkpoint can't."""
    if kind == "voc":
        make_voc(tmp_path, {"a": annotation(obj("owl"))}, val="a")
    else:
        make_coco(tmp_path, content(box(category_id=90)))
    checkpoints = (
        r"class 'owl' is not one of the checkpoint's classes \(cat, dog\); these data have other classes: choose"
    )
    users = r"class 'owl' is not one of the known classes \(cat, dog\); correct it, or name it in --label-names"
    folder, names = str(tmp_path), ("cat", "dog")
    with pytest.raises(UserError, match=checkpoints):
        open_split(kind, folder, "val", names)
    with pytest.raises(UserError, match=users):
        open_split(kind, folder, "val", names, of_checkpoint=False)
    with pytest.raises(UserError, match=users):
        training_sets(kind, folder, "val", "val", names)
    with pytest.raises(UserError, match=checkpoints):
        training_sets(kind, folder, "val", "val", None, known=lambda found: names)
    with pytest.raises(UserError, match=users):
        open_scored(kind, folder, "val", "none.json", names)
    with pytest.raises(UserError, match=r"'owl' is not .* checkpoint's classes \(owls\); did you mean 'owls'\?"):
        open_split(kind, folder, "val", ["owls"])
