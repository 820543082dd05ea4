"""`train.py predict` over pictures and videos, as a user runs it."""

import json
import shutil
import signal

import fire
import numpy as np
import pytest
from PIL import Image

from data.voc_dataset import VOCBboxDataset
from misc.make_toy_voc import CLASSES, make_toy_voc
from tests.run_server import the_runs
from tests.test_train import LOAD, SMALL, run
from tests.video_file import film, grey, shown
from train import COMMANDS
from utils.cli_tool import run_command
from utils.config import Config, opt


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with toy data, a checkpoint that has seen it twice, a video of its pictures and files that are none."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=4, n_val=1, size=96)
    run(folder, "train", *SMALL, "--voc-data-dir=toy", "--max-iter=2", "--visdom=False", "--name=first")
    pictures = [np.asarray(Image.open(path).convert("RGB")) for path in sorted((folder / "toy/JPEGImages").iterdir())]
    film(folder / "clip.mp4", [pictures[k // 2 % len(pictures)][:64, :80] for k in range(12)], rate=10)
    film(folder / "cut.webm", grey(range(10, 250)))
    (folder / "cut.webm").write_bytes((folder / "cut.webm").read_bytes()[:-2000])
    (folder / "text.mp4").write_text("no video")
    (folder / "empty.mp4").write_bytes(b"")
    return folder


@pytest.fixture
def command(home, monkeypatch, capsys):
    """Run `predict` in this process, with fresh options; its exit code and what it wrote to stderr."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # else the command's handlers would stay

    def call(*words):
        opt.__dict__.update(Config().__dict__)
        opt.given = frozenset()
        code = run_command(COMMANDS, ["predict", *words], fire)
        opt.__dict__.update(Config().__dict__)
        return code, capsys.readouterr().err

    return call


EAGER = [LOAD, "--score-thresh=0", "--max-dets=5"]  # a network that has learned nothing finds something all the same


def same_boxes(db, records):
    """The boxes that are read back are those of the JSON, to what VOC's whole pixels keep; how many there are."""
    n = 0
    for i, record in enumerate(records):
        found = {(d["label"], *d["bbox"]) for d in record["detections"]}
        bbox, label, _ = db.get_annotation(i)
        assert len(bbox) == len(found)
        for (y_min, x_min, y_max, x_max), k in zip(bbox, label):
            near = [d for d in found if np.abs(np.subtract(d[1:], (x_min, y_min, x_max, y_max))).max() <= 1.01]
            assert db.label_names[k] in {d[0] for d in near}
        n += len(bbox)
    return n


def test_a_video_drawn_and_as_annotations_that_train(home):
    done = run(home, "predict", *EAGER, "--image=clip.mp4", "--out=film", "--every=2", "--save=pictures,json,voc")
    assert "objects in 6 frames; in film: drawn pictures, detections.json and VOC annotations" in done.stdout
    assert "6/6" in done.stderr
    records = json.loads((home / "film/detections.json").read_text())["images"]
    assert [(r["frame"], r["time"]) for r in records] == [(2 * k, pytest.approx(0.2 * k)) for k in range(6)]
    drawn = shown(home / "film/clip.mp4")
    assert [t for t, _ in drawn] == pytest.approx([0.2 * k for k in range(6)], abs=1e-3)
    assert drawn[0][1].shape == (64, 80, 3)
    db = VOCBboxDataset(home / "film", "predicted")
    assert db.problems == []
    assert same_boxes(db, records) > 6
    words = ["--voc-data-dir=film", "--train-split=predicted", "--max-iter=1", "--visdom=False", "--name=on"]
    done = run(home, "train", *SMALL, *words, f"--label-names={','.join(CLASSES)}")
    assert "predicted: 6 images" in done.stdout


def test_pictures_as_annotations_and_never_over_those_by_hand(home, command):
    words = [*EAGER, "--image=toy/JPEGImages", "--out=labels", "--save=json,voc"]
    run(home, "predict", *words)
    records = json.loads((home / "labels/detections.json").read_text())["images"]
    db = VOCBboxDataset(home / "labels", "predicted")
    assert db.ids == [f"{k:06}" for k in range(1, 6)]
    assert same_boxes(db, records) > 5
    (home / "labels/Annotations/000003.xml").write_text("by hand")
    code, stderr = command(*words)
    assert code == 2
    assert "--overwrite" in stderr.splitlines()[-1]
    assert (home / "labels/Annotations/000003.xml").read_text() == "by hand"


def test_pre_labelling_in_the_folder_of_the_pictures(command, home, tmp_path):
    shutil.copytree(home / "toy/JPEGImages", tmp_path / "mine/JPEGImages")
    before = {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.jpg")}
    code, _ = command(*EAGER, f"--image={tmp_path}/mine/JPEGImages", f"--out={tmp_path}/mine", "--save=voc")
    assert code == 0
    assert {path: path.read_bytes() for path in (tmp_path / "mine").rglob("*.jpg")} == before
    assert len(VOCBboxDataset(tmp_path / "mine", "predicted")) == 5


def test_a_video_that_is_cut_short_is_told(command, home):
    code, stderr = command(LOAD, "--image=c*.*", "--out=both", "--every=3")
    assert code == 0
    (line,) = (line for line in stderr.splitlines() if line.startswith("warning: "))
    assert line.startswith("warning: cut.webm: ends after frame")
    assert 0 < len(shown(home / "both/cut.mp4")) < 80
    assert len(shown(home / "both/clip.mp4")) == 4


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_video_that_is_stopped_keeps_what_was_found(home, tmp_path, how):
    film(tmp_path / "long.mp4", grey([100] * 1500))
    words = ["predict", LOAD, f"--image={tmp_path}/long.mp4", f"--out={tmp_path}/out", "--save=pictures,json,voc"]
    stopped = the_runs().start(home, words)
    stopped.wait_for((tmp_path / "out/Annotations/long_000005.xml").exists)
    stopped.send(how)
    assert stopped.wait(60) == 128 + how
    assert "Traceback" not in stopped.stderr
    records = json.loads((tmp_path / "out/detections.json").read_text())["images"]
    assert 5 < len(records) < 1500
    assert f"stopped; 0 objects in {len(records)} frames" in stopped.stderr
    assert len(records) - 1 <= len(shown(tmp_path / "out/long.mp4")) <= len(records)
    assert len(records) - 1 <= len(VOCBboxDataset(tmp_path / "out", "predicted")) <= len(records)


MISTAKES = [
    (["--image=gone.mp4"], ["gone.mp4", "no such file"]),
    (["--image=text.mp4"], ["text.mp4", "not a video"]),
    (["--image=empty.mp4"], ["empty.mp4", "not a video"]),
    (["--image=clip.mp4", "--every=0"], ["--every=0", "at least 1"]),
    (["--image=clip.mp4", "--every=1.5"], ["--every=1.5", "whole number"]),
    (["--image=clip.mp4", "--save=jsn"], ["--save=jsn", "did you mean json?"]),
    (["--image=clip.mp4", "--save="], ["--save", "empty"]),
    (["--image=clip.mp4", "--out=."], ["--out=.", "choose another folder"]),
    (["--image=clip.mp4", "--out=text.mp4"], ["--out=text.mp4", "choose another folder"]),
]


@pytest.mark.parametrize(("words", "needles"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(home, command, words, needles):
    before = (home / "clip.mp4").read_bytes()
    code, stderr = command(LOAD, *words)
    assert code == 2
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert lines == stderr.splitlines()[-1:]
    for needle in needles:
        assert needle in lines[0]
    assert (home / "clip.mp4").read_bytes() == before


def test_what_could_not_be_written_is_known_before_the_work(home, tmp_path):
    for name in ("scores_classes.csv", "seen/detections.json", "texts/comp4_det_val_circle.txt"):
        (tmp_path / name).mkdir(parents=True)
    load = f"--load-path={home}/runs/first/last.pth"
    words = ["eval", load, f"--voc-data-dir={home}/toy", "--test-num-workers=0"]
    for more in (["--out=scores.json"], ["--save-detections=texts"]):
        done = run(tmp_path, *words, *more, code=2)
        assert "choose another" in done.stderr.splitlines()[-1]
        assert "eval on" not in done.stderr
        assert not (tmp_path / "scores.json").exists()
    done = run(tmp_path, "predict", load, f"--image={home}/toy/JPEGImages", "--out=seen", code=2)
    assert "seen: can't be written" in done.stderr
    assert not [*(tmp_path / "seen").glob("*.jpg")]
