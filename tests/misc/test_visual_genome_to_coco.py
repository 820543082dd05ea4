"""misc/visual_genome_to_coco.py as a user runs it, on a folder laid out as Visual Genome's."""

import json
from pathlib import Path

import pytest

from data.coco_dataset import COCOBboxDataset
from tests.run_server import the_runs
from tests.voc_folder import PICTURE  # 100×80

ROOT = Path(__file__).resolve().parents[2]


def vg_object(names, x=10, y=20, w=30, h=40):
    return {"object_id": 1, "x": x, "y": y, "w": w, "h": h, "names": names, "synsets": []}


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures, in both folders, with a tree each, and a man in every other one."""
    objects, sizes = [], []
    for k in range(1, 21):
        path = tmp_path / ("VG_100K" if k % 2 else "VG_100K_2") / f"{k}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PICTURE)
        rows = [vg_object([" Tree"]), *([vg_object(["man"], x=-5, w=200)] if k % 2 else [vg_object(["rare thing"])])]
        objects.append({"image_id": k, "objects": rows, "image_url": ""})
        sizes.append({"image_id": k, "width": 100, "height": 80})
    objects[0]["objects"].append(vg_object(["tree"], x=100))
    (tmp_path / "objects.json").write_text(json.dumps(objects))
    (tmp_path / "image_data.json").write_text(json.dumps(sizes))
    return tmp_path


def run(*words, code=0):
    return the_runs().run(ROOT, words, program="misc/visual_genome_to_coco.py", code=code)


def test_the_commonest_names(folder):
    done = run(f"--data-dir={folder}", "--n-classes=2", "--val-share=0.25")
    for what in ("10 objects (another name)", "1 objects (outside of their picture)"):
        assert what in done.stdout
    train, val = (COCOBboxDataset(folder, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (15, 5)
    assert not set(train.ids) & set(val.ids)
    assert train.label_names == val.label_names
    assert set(train.label_names) == {"tree", "man"}
    assert train.problems == val.problems == []  # nothing that reaches out of a picture is left
    i = train.ids.index(next(name for name in train.ids if int(name) % 2))
    bbox, label, _ = train.get_annotation(i)
    rows = {train.label_names[k]: box.tolist() for k, box in zip(label, bbox)}
    assert rows == {"tree": [20, 10, 60, 40], "man": [20, 0, 60, 100]}
    assert train[i][0].shape == (3, 80, 100)


def test_names_from_a_file(folder):
    (folder / "vocabulary.txt").write_text("plant,tree,bush\n\nThing, rare  thing\n")
    run(f"--data-dir={folder}", "--val-share=0.5")  # whose validation set is gone with the next
    objects = json.loads((folder / "objects.json").read_text())
    objects[0]["objects"][0]["names"] = "Tree"  # a text in place of a list
    (folder / "objects.json").write_text(json.dumps([*objects, objects[3]]))  # and a picture twice
    run(f"--data-dir={folder}", f"--names={folder}/vocabulary.txt", "--val-share=0")
    assert [path.name for path in (folder / "annotations").iterdir()] == ["instances_train.json"]
    db = COCOBboxDataset(folder, "train")
    assert db.label_names == ("plant", "thing")
    labels = [db.label_names[k] for i in range(len(db)) for k in db.get_annotation(i)[1]]
    assert (labels.count("plant"), labels.count("thing")) == (20, 10)


@pytest.mark.parametrize(
    ("make", "words", "told"),
    [
        (lambda folder: (folder / "objects.json").unlink(), [], "objects.json: no such file"),
        (lambda folder: (folder / "objects.json").write_text("[{"), [], "objects.json: line 1, column 3: Expecting"),
        (lambda folder: (folder / "objects.json").write_text("[{}]"), [], "are not Visual Genome's"),
        (
            lambda folder: (folder / "objects.json").write_text('[{"image_id": 1, "objects": [3]}]'),
            [],
            "are not Visual",
        ),
        (lambda folder: (folder / "image_data.json").write_text("[]"), [], "are not Visual Genome's"),
        (lambda folder: (folder / "image_data.json").write_text("{}"), [], "image_data.json: not a list"),
        (lambda folder: (folder / "VG_100K/1.jpg").unlink(), [], "no picture 1.jpg in VG_100K or VG_100K_2"),
        (lambda folder: (folder / "annotations").write_text(""), [], "instances_train.json: can't be written"),
        (lambda folder: (folder / "objects.json").write_text("[]"), [], "objects.json: has no images"),
        (lambda folder: None, ["--seed=-1"], "--seed=-1: must be at least 0"),
        (lambda folder: None, ["--n-classes=0"], "--n-classes=0"),
        (lambda folder: None, ["--val-share=1"], "--val-share=1"),
        (lambda folder: None, ["--names=nowhere.txt"], "--names=nowhere.txt: cannot be read"),
    ],
)
def test_a_mistake_is_one_line(folder, make, words, told):
    make(folder)
    lines = run(f"--data-dir={folder}", *words, code=2).stderr.splitlines()
    assert told in lines[-1]
    assert lines[-1].startswith("error: ")
    assert not (folder / "annotations").is_dir()
