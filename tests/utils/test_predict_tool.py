"""utils/predict_tool.py with a stand-in for the detector."""

import contextlib
import json

import numpy as np
import pytest
from PIL import Image

from tests.stand_in import TWO, Detector
from utils.errors import UserError
from utils.predict_tool import detection_record, find_images, predict_files


def picture(path, value, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(path)
    return path


# find_images


def test_find_one_file_whatever_its_suffix(tmp_path):
    path = tmp_path / "odd[1].data"
    path.write_bytes(b"")
    assert find_images(path) == [path]
    assert find_images(str(path)) == [path]


def test_find_in_a_folder_sorted_and_not_below(tmp_path):
    for name in ("b.JPG", "a.png", "c.jpeg", "d.webp", "e.bmp", "notes.txt", "below/z.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp"]


def test_a_folder_with_a_pictures_name_is_no_picture(tmp_path):
    (tmp_path / "album.jpg").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    assert find_images(tmp_path) == [tmp_path / "a.jpg"]


def test_find_by_glob(tmp_path):
    for name in ("x/b1.png", "x/a1.png", "y/z/c1.png", "x/b2.jpg"):
        picture(tmp_path / name, 0)
    (tmp_path / "x" / "d1.png").mkdir()
    assert [p.name for p in find_images(f"{tmp_path}/x/*1.png")] == ["a1.png", "b1.png"]
    assert [p.name for p in find_images(f"{tmp_path}/**/?1.png")] == ["a1.png", "b1.png", "c1.png"]


@pytest.mark.parametrize("what", ["nothing.jpg", "no*.jpg", "empty"])
def test_nothing_found_is_one_line_that_names_it(tmp_path, what):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError) as error:
        find_images(tmp_path / what)
    assert what in str(error.value)
    assert "\n" not in str(error.value)


# predict_files


def test_pictures_and_boxes_are_written(tmp_path):
    paths = [picture(tmp_path / "in" / "one.png", 200), picture(tmp_path / "in" / "two.jpg", 90, (40, 20))]
    out = tmp_path / "deep" / "out"
    records, problems = predict_files(Detector({200: TWO}), paths, out)
    assert problems == []
    assert {p.name for p in out.iterdir()} == {"one.jpg", "two.jpg", "detections.json"}
    document = json.loads((out / "detections.json").read_text("utf-8"))
    assert document["images"] == records
    assert "x_min" in document["box_format"]
    first, second = records
    assert first == {
        "image": str(paths[0]),
        "height": 24,
        "width": 32,
        "detections": [
            {"label": "été", "score": pytest.approx(0.9), "bbox": [4, 2, 30, 20]},
            {"label": "cat", "score": 0.25, "bbox": [0, 0, 10, 10]},
        ],
    }
    assert second == {"image": str(paths[1]), "height": 40, "width": 20, "detections": []}
    with Image.open(out / "one.jpg") as drawn:
        assert drawn.size == (32, 24)
        assert np.asarray(drawn.convert("RGB")).astype(int).std(axis=(0, 1)).max() > 5, "no box was drawn"
    with Image.open(out / "two.jpg") as drawn:
        assert np.asarray(drawn).astype(int).std() < 5


def test_a_broken_picture_does_not_lose_the_others(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no")
    paths = [picture(tmp_path / "a.png", 200), broken, tmp_path / "gone.png", picture(tmp_path / "b.png", 10)]
    records, problems = predict_files(Detector({200: TWO}), paths, tmp_path / "out")
    assert [r["image"] for r in records] == [str(paths[0]), str(paths[3])]
    assert len(problems) == 2
    assert str(broken) in problems[0]
    assert "gone.png" in problems[1]
    assert not any("\n" in line for line in problems)


def test_no_readable_picture_is_an_error(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_text("no")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        predict_files(Detector({}), [broken], tmp_path / "out")


def test_out_dir_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(UserError, match="out") as error:
        predict_files(Detector({}), [picture(tmp_path / "a.png", 1)], tmp_path / "out")
    assert "\n" not in str(error.value)


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path):
    names = ("x/a.png", "y/a.png", "x/a.jpg", "x/b.png", "z/x/a.png", "x/x_a_png.png")
    paths = [picture(tmp_path / name, 50) for name in names]
    records, _ = predict_files(Detector({}), paths, tmp_path / "out")
    assert len(records) == 6
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 6


def test_the_users_own_pictures_are_never_overwritten(tmp_path):
    """`--out` may be the folder of the pictures: refuse, or write elsewhere or under another name."""
    path = picture(tmp_path / "mine.jpg", 200)
    before = path.read_bytes()
    with contextlib.suppress(UserError):
        predict_files(Detector({200: TWO}), [path], tmp_path)
    assert path.read_bytes() == before


def test_record_is_plain_values():
    bbox, label, score = np.array([[1.23456, 2, 3, 4]], np.float32), np.array([0]), np.array([1 / 3], np.float32)
    record = detection_record("a.png", (5, 6), bbox, label, score, ("cat",))
    assert json.loads(json.dumps(record)) == {
        "image": "a.png",
        "height": 5,
        "width": 6,
        "detections": [{"label": "cat", "score": 0.333333, "bbox": [2, 1.23, 4, 3]}],
    }


@pytest.mark.parametrize("n_together", [1, 2, 3, 8])
def test_several_files_at_a_time(tmp_path, n_together):
    paths = [picture(tmp_path / f"{k}.png", value) for k, value in enumerate((200, 7, 200, 7, 200))]
    paths[2].write_bytes(b"broken")
    detector = Detector({200: TWO})
    records, problems = predict_files(detector, paths, tmp_path / "out", n_together=n_together)
    assert [(r["image"], len(r["detections"])) for r in records] == [
        (str(paths[k]), n) for k, n in ((0, 2), (1, 0), (3, 0), (4, 2))
    ]
    assert len(problems) == 1
    assert [n for n, _, _ in detector.calls] == {1: [1, 1, 0, 1, 1], 2: [2, 1, 1], 3: [2, 2], 8: [4]}[n_together]
