"""data/voc_dataset.py: folders and lists that are not there, and ids without a picture."""

import pytest

from data.voc_dataset import VOCBboxDataset
from tests.voc_folder import annotation, make_voc, obj, refusal


def test_missing_list_names_the_splits_that_are_there(tmp_path):
    extra = {"cat_train": "a", "train": "a", "val": "a", "night_test": "a"}
    message = refusal(make_voc(tmp_path, {"a": annotation(obj())}, **extra), "tset")
    assert "tset.txt" in message
    assert message.endswith("there are: night_test, train, trainval, val")


def test_missing_list_beside_lists_of_classes_only(tmp_path):
    root = make_voc(tmp_path, {"a": annotation(obj())}, cat_train="a")
    (root / "ImageSets" / "Main" / "trainval.txt").unlink()
    assert refusal(root).endswith("there are: cat_train")
    (root / "ImageSets" / "Main" / "cat_train.txt").unlink()
    assert refusal(root, "new") == (
        f"{root}/ImageSets/Main: there are no lists (*.txt); write new.txt there, an image name a line"
    )


@pytest.mark.parametrize("split", ["valid.txt", "ImageSets/Main/valid.txt", "Main/valid"])
def test_the_file_in_place_of_the_split(tmp_path, split):
    message = refusal(make_voc(tmp_path, {"a": annotation(obj())}, valid="a"), split)
    assert message == f"{tmp_path}/ImageSets/Main/{split}.txt: no such list; did you mean 'valid'?"


@pytest.mark.parametrize(("line", "advice"), [("b", "take the id out of the list"), ("../a", "'../a'")])
def test_missing_picture_names_list_id_and_path(tmp_path, line, advice):
    root = make_voc(tmp_path, {"a": annotation(obj())}, val=f"a\n{line}\n")
    message = refusal(root, "val")
    assert str(root / "ImageSets" / "Main" / "val.txt") in message
    assert repr(line) in message
    assert f"{root}/JPEGImages/{line}" in message
    assert advice in message


@pytest.mark.parametrize("folder", ["", "JPEGImages", "Annotations", "ImageSets/Main", "ImageSets"])
def test_missing_folder(tmp_path, folder):
    root = make_voc(tmp_path / "voc", {"a": annotation(obj())})
    (root / folder).rename(tmp_path / "gone")
    assert str(root / folder) in refusal(root)


def test_a_level_too_high(tmp_path):
    root = make_voc(tmp_path / "VOCdevkit" / "VOC2007", {"a": annotation(obj())})
    assert refusal(root.parent).endswith(f"did you mean {root}?")


@pytest.mark.parametrize("inside", ["JPEGImages", "Annotations", "ImageSets/Main", "JPEGImages/", "typo"])
def test_a_level_too_low(tmp_path, inside, monkeypatch):
    root = make_voc(tmp_path / "mine", {"a": annotation(obj())})
    assert refusal(root / inside).endswith(f"; did you mean {root}?")
    monkeypatch.chdir(tmp_path)
    assert refusal(f"mine/{inside}").endswith("; did you mean mine?")
    monkeypatch.chdir(root)
    assert refusal(inside).endswith("; did you mean .?")


def test_no_folder_near(tmp_path):
    assert refusal(tmp_path / "a/b/c/d").endswith("Annotations, ImageSets and JPEGImages")


def test_ids_with_a_suffix_are_one_line(tmp_path):
    files = dict.fromkeys("abc", annotation(obj()))
    root = make_voc(tmp_path, files, all="a.jpg\nb.JPG\nc.jpg\n", one="a\nb.jpg\nz\n")
    path = f"{root}/ImageSets/Main"
    assert (
        refusal(root, "all") == f"{path}/all.txt: id 'a.jpg' and 2 more like it have a suffix; leave it out, as in 'a'"
    )
    db = VOCBboxDataset(root, "one", strict=False)
    assert db.ids == ["a"]
    assert db.faults[0] == f"{path}/one.txt: id 'b.jpg' has a suffix; leave it out, as in 'b'"
    assert "id 'z' has no picture" in db.faults[1]
    assert len(db.faults) == 2
