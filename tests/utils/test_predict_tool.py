"""utils/predict_tool.py with a stand-in for the detector."""

import contextlib
import json
import os

import av
import numpy as np
import pytest
from PIL import Image

from data.voc_dataset import VOCBboxDataset
from tests.stand_in import TWO, Detector
from tests.video_file import film, grey, shown
from utils.errors import UserError
from utils.predict_tool import detection_record, find_images, predict_files, summary

LEVELS = (200, 7, 120, 200, 60, 200)  # of the frames of a video; the codec leaves pure grey as it is


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
    for name in ("b.JPG", "a.png", "c.jpeg", "d.webp", "e.bmp", "f.MP4", "notes.txt", "below/z.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG", "c.jpeg", "d.webp", "e.bmp", "f.MP4"]


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


def test_a_folder_of_folders_with_pictures(tmp_path):
    """The data set's folder, where that of its pictures is meant."""
    for name in ("Annotations/a.xml", "notes/deep/a.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError) as error:
        find_images(tmp_path)
    line = f"--image={tmp_path}: no pictures or videos (.jpg, .png, .mp4 and 15 more) in this folder; "
    assert str(error.value) == line + "check the path"
    picture(tmp_path / "JPEGImages/a.jpg", 0)
    with pytest.raises(UserError) as error:
        find_images(tmp_path)
    assert str(error.value) == line + f"did you mean {tmp_path}/JPEGImages?"


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


def test_what_can_not_be_drawn_does_not_lose_the_others(tmp_path):
    """A JPEG has no more than 65,500 pixels a side, and the encoder of videos takes no frame of 20,000."""
    files = tmp_path / "files"
    paths = [picture(files / "a.png", 50), picture(files / "b.png", 50, size=(1, 70_000)),
             film(files / "c.gif", grey([10, 90, 170], size=(16, 20_000))), picture(files / "d.png", 50)]  # fmt: skip
    records, problems = predict_files(Detector({}), paths, tmp_path / "out")
    assert len(records) == 6
    assert len(problems) == 2
    assert "b.jpg: 70000×1 px; a JPEG has 65500 a side at most" in problems[0]
    assert "c.mp4: can't be encoded" in problems[1]
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.jpg", "d.jpg", "detections.json"]
    predict_files(Detector({}), paths, tmp_path / "both", save=("pictures", "voc"))  # which has a form for all but them
    assert len(VOCBboxDataset(tmp_path / "both", "predicted", ("cat",))) == 6


def test_of_a_video_one_line(tmp_path):
    path = film(tmp_path / f"{'n' * 250}.mp4", grey([10, 90, 170]))
    _, problems = predict_files(Detector({}), [path], tmp_path / "out", save=("voc",))
    assert len(problems) == 1


def test_a_name_as_long_as_names_may_be(tmp_path):
    name = "n" * 251
    paths = [picture(tmp_path / f"{name}.png", 50), picture(tmp_path / "a.png", 50)]
    records, problems = predict_files(Detector({}), paths, tmp_path / "out", save=("pictures", "voc"))
    assert (len(records), problems) == (2, [])
    assert (tmp_path / f"out/{name}.jpg").exists()
    other = picture(tmp_path / f"b/{name}.png", 50)  # of two, the folders' names are put in front
    records, problems = predict_files(Detector({}), [paths[0], other], tmp_path / "out")
    assert len(records) == len(problems) == 2
    assert all("too long; rename it" in line for line in problems)


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
    assert [n for n, _, _ in detector.calls] == {1: [1, 1, 1, 1], 2: [2, 2], 3: [3, 1], 8: [4]}[n_together]


def test_a_name_that_is_no_utf8(tmp_path):
    path = picture(tmp_path / os.fsdecode(b"latin\xe9.png"), 200)
    predict_files(Detector({200: TWO}), [path], tmp_path / "out")
    (record,) = json.loads((tmp_path / "out/detections.json").read_text("utf-8"))["images"]
    assert record["image"] == str(path)
    assert sorted(os.listdir(tmp_path / "out")) == ["detections.json", "latin_.jpg"]


# What is written


@pytest.mark.parametrize(
    ("save", "files"),
    [
        (("pictures",), {"a.jpg", "v.mp4"}),
        (("json",), {"detections.json"}),
        (("voc",), {"Annotations", "ImageSets", "JPEGImages"}),
        (("json", "voc"), {"Annotations", "ImageSets", "JPEGImages", "detections.json"}),
    ],
)
def test_what_was_asked_for_is_written_and_no_more(tmp_path, save, files):
    paths = [picture(tmp_path / "in/a.png", 200), film(tmp_path / "in/v.mp4", grey(LEVELS))]
    predict_files(Detector({200: TWO}), paths, tmp_path / "out", save=save)
    assert set(os.listdir(tmp_path / "out")) == files


def test_the_voc_folder_has_what_was_found(tmp_path):
    paths = [picture(tmp_path / "in/a.png", 200), film(tmp_path / "in/v.mp4", grey(LEVELS, (40, 64)))]
    predict_files(Detector({200: TWO}), paths, tmp_path / "out", save=("voc",), every=2)
    db = VOCBboxDataset(tmp_path / "out", "predicted")
    assert db.ids == ["a", "v_000000", "v_000002", "v_000004"]
    assert [len(db.get_annotation(i)[0]) for i in range(4)] == [2, 2, 0, 0]
    bbox, label, _ = db.get_annotation(1)
    assert np.abs(bbox - [row[0] for row in TWO]).max() <= 0.5
    assert [db.label_names[k] for k in label] == ["été", "cat"]


def test_annotations_by_hand_are_kept_unless_it_is_allowed(tmp_path):
    path, detector = picture(tmp_path / "in/a.png", 200), Detector({200: TWO})
    predict_files(detector, [path], tmp_path / "out", save=("voc",))
    with pytest.raises(UserError, match=r"a\.xml"):
        predict_files(detector, [path], tmp_path / "out", save=("voc",))
    assert len(detector.calls) == 1, "told before the work"
    predict_files(detector, [path], tmp_path / "out", save=("voc",), overwrite=True)


def test_the_summary_names_what_was_written():
    records = [{"detections": [1, 2]}, {"detections": [3], "frame": 0}, {"detections": [], "frame": 1}]
    assert summary(records, ("voc", "json"), "out") == (
        "3 objects in 1 picture and 2 frames; in out: detections.json and VOC annotations (the split predicted)"
    )
    assert summary(records[1:], ("json",), "out") == "1 object in 2 frames; in out: detections.json"


# Videos


def test_frames_are_recorded_and_drawn(tmp_path):
    path = film(tmp_path / "in/v.mkv", grey(LEVELS), rate=10)
    records, problems = predict_files(Detector({200: TWO}), [path], tmp_path / "out", n_together=4)
    assert problems == []
    assert [(r["image"], r["frame"], r["time"]) for r in records] == [(str(path), k, k / 10) for k in range(6)]
    assert [len(r["detections"]) for r in records] == [2, 0, 0, 2, 0, 2]
    assert [(r["height"], r["width"]) for r in records] == [(48, 64)] * 6
    assert json.loads((tmp_path / "out/detections.json").read_text("utf-8"))["images"] == records
    drawn = shown(tmp_path / "out/v.mp4")
    assert [time for time, _ in drawn] == pytest.approx([k / 10 for k in range(6)], abs=1e-3)
    assert [rgb.std() > 5 for _, rgb in drawn] == [True, False, False, True, False, True], "boxes on the wrong frames"


def test_every_nth_frame_at_the_same_pace(tmp_path):
    path = film(tmp_path / "in/v.mp4", grey(LEVELS), rate=10)
    records, _ = predict_files(Detector({}), [path], tmp_path / "out", every=3)
    assert [(r["frame"], r["time"]) for r in records] == [(0, 0), (3, 0.3)]
    assert [time for time, _ in shown(tmp_path / "out/v.mp4")] == pytest.approx([0, 0.3], abs=1e-3)
    with av.open(str(tmp_path / "out/v.mp4")) as container:
        assert container.duration / av.time_base == pytest.approx(0.6, abs=0.01), "the last is shown as long"


def test_videos_and_pictures_beside_each_other(tmp_path):
    names = ("a.png", "a.mp4", "b.mp4", "c.gif", "z.png")
    paths = [tmp_path / "in" / name for name in names]
    for path in paths:
        if path.suffix == ".png":
            picture(path, 200)
        else:
            film(path, grey(LEVELS[:3]))
    records, _ = predict_files(Detector({200: TWO}), paths, tmp_path / "out", n_together=2)
    assert [r["image"] for r in records] == [str(p) for p in paths for _ in range(1 if p.suffix == ".png" else 3)]
    written = {p.name for p in (tmp_path / "out").iterdir()}
    assert written == {"in_a_png.jpg", "in_a_mp4.mp4", "b.mp4", "c.mp4", "z.jpg", "detections.json"}
    assert [len(shown(tmp_path / "out" / f"{name}.mp4")) for name in ("in_a_mp4", "b", "c")] == [3, 3, 3]


def test_a_broken_video_does_not_lose_the_others(tmp_path):
    text = tmp_path / "in/a.mp4"
    cut = film(tmp_path / "in/b.webm", grey(LEVELS * 12))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    text.write_text("no video")
    last = picture(tmp_path / "in/c.png", 200)
    records, problems = predict_files(Detector({200: TWO}), [text, cut, last], tmp_path / "out")
    assert 2 < len(records) < 73
    assert records[-1]["image"] == str(last)
    assert [line.split(":")[0] for line in problems] == [str(text), str(cut)]
    assert len(shown(tmp_path / "out/b.mp4")) == len(records) - 1


def test_a_video_is_never_overwritten_by_its_drawing(tmp_path):
    path = film(tmp_path / "v.mp4", grey(LEVELS))
    before = path.read_bytes()
    with pytest.raises(UserError, match="--out"):
        predict_files(Detector({}), [path], tmp_path)
    assert path.read_bytes() == before


class Stopped(Detector):
    """A detector in whose `n`-th call the run is stopped."""

    def __init__(self, known, n, how):
        super().__init__(known)
        self.n, self.how = n, how

    def predict(self, imgs, sizes=None, rois=None):
        if len(self.calls) == self.n:
            raise self.how
        return super().predict(imgs, sizes, rois)


@pytest.mark.parametrize("how", [KeyboardInterrupt, SystemExit(143), RuntimeError("a defect")])
def test_what_was_found_is_written_when_the_run_is_stopped(tmp_path, capsys, how):
    path = film(tmp_path / "in/v.mp4", grey(LEVELS))
    with pytest.raises(how if isinstance(how, type) else type(how)):
        predict_files(Stopped({200: TWO}, 4, how), [path], tmp_path / "out", save=("pictures", "json", "voc"))
    assert len(json.loads((tmp_path / "out/detections.json").read_text("utf-8"))["images"]) == 4
    assert len(shown(tmp_path / "out/v.mp4")) == 4
    assert len(VOCBboxDataset(tmp_path / "out", "predicted")) == 4
    assert ("stopped; 4 objects in 4 frames" in capsys.readouterr().err) == (not isinstance(how, RuntimeError))


def test_stopped_before_anything_was_found_a_former_runs_results_stay(tmp_path):
    path = film(tmp_path / "in/v.mp4", grey(LEVELS))
    predict_files(Detector({}), [path], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        predict_files(Stopped({}, 0, KeyboardInterrupt), [path], tmp_path / "out")
    assert len(json.loads((tmp_path / "out/detections.json").read_text("utf-8"))["images"]) == 6
    assert sorted(os.listdir(tmp_path / "out")) == ["detections.json", "v.mp4"]
