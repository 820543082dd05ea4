"""The commands, as a user runs them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fire
import numpy as np
import pytest
import torch

from data.loader import EpochBatches
from misc.make_toy_voc import CLASSES, make_toy_voc
from model import FasterRCNNVGG16
from tests.run_server import the_runs
from tests.voc_folder import break_in_the_middle
from utils.cli_tool import run_command
from utils.config import Config, opt
from utils.event_log import read_events
from utils.label_names import VOC_BBOX_LABEL_NAMES
from utils.visdom_server import port_in_use

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--model=tiny", "--min-size=96", "--max-size=192", "--num-workers=0", "--test-num-workers=0", "--batch-size=2",
         "--rpn-n-train-post-nms=60", "--roi-n-sample=32"]  # fmt: skip


def free_port():
    return next(port for port in range(18097, 19000) if not port_in_use(port))


def run(folder, *words, code=0):
    """Run `train.py WORDS` in `folder`, in a process that has its packages already; its exit code must be `code`."""
    return the_runs().run(folder, words, code=code)


def run_anew(folder, *words, code=0):
    """The same as a user does it, `python train.py WORDS`, which takes seconds longer: once for each command."""
    return the_runs().run(folder, words, anew=True, code=code)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy dataset and a run `first` of two epochs, trained without any visdom server."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=8, n_val=5, size=96)
    words = ["--voc-data-dir=toy", "--epoch=2", "--use-adam=True", "--lr=0.001", "--plot-every=2", "--name=first"]
    done = run_anew(folder, "train", *SMALL, *words, f"--port={free_port()}", "--env=2024")
    (folder / "log").write_text(done.stdout + "\n" + done.stderr)
    return folder


def test_train_says_what_it_does_and_leaves_checkpoints(home):
    log = (home / "log").read_text()
    assert "FasterRCNNTiny on" in log
    assert "8 steps of 2 images: 2 epochs of 4" in log
    assert re.search(r"parameters +2,\d{3},\d{3}, all trained", log)
    assert re.search(r"memory +about 0\.\d+ GB \(parameters", log)
    assert "runs/first/best.pth: the best checkpoint" in log
    assert "no visdom answers" in log
    assert "epoch 2: mAP" in log
    assert "train.py eval --load-path=" in log
    last = torch.load(home / "runs/first/last.pth", weights_only=True)
    assert set(last) >= {"model", "config", "other_info", "vis_info", "optimizer"}
    assert (last["config"]["model"], last["config"]["env"]) == ("tiny", "2024")
    assert (last["other_info"]["epoch"], last["other_info"]["step"]) == (2, 8)
    assert last["other_info"]["label_names"] == ["circle", "cross", "ring", "square", "star", "triangle"]
    assert [*last["vis_info"]["lines"]["total_loss"]["x"]] == [2, 4, 6, 8]


def test_eval_takes_everything_from_the_checkpoint(home):
    done = run_anew(home, "eval", "--load-path=runs/first/last.pth", "--voc-data-dir=toy", "--test-num-workers=0")
    for name in ("circle", "triangle", "mAP"):
        assert name in done.stdout
    result = json.loads((home / "runs/first/last_eval_val.json").read_text())
    assert result["n_images"] == 5
    assert result["split"] == "val"


def test_classes_in_another_order_are_still_the_files(home):
    """A class is its place in the weights: the order in which --label-names has them changes no number."""
    eval_ = ["eval", "--load-path=runs/first/last.pth", "--voc-data-dir=toy", "--test-num-workers=0"]
    run(home, *eval_, "--out=plain.json")
    run(home, *eval_, "--out=other.json", "--label-names=triangle,star,square,ring,cross,circle", "--max-size=150")
    run(home, *eval_, "--out=sized.json", "--max-size=150")
    plain, other, sized = (json.loads((home / f"{name}.json").read_text()) for name in ("plain", "other", "sized"))
    assert other == sized
    assert plain.keys() == other.keys()


def test_predict_takes_a_file_a_folder_and_a_glob(home):
    load = "--load-path=runs/first/last.pth"
    few = "--score-thresh=0.01", "--max-dets=3"
    run_anew(home, "predict", load, "--image=toy/JPEGImages/000001.jpg", "--out=one", *few)
    assert sorted(p.name for p in (home / "one").iterdir()) == ["000001.jpg", "detections.json"]
    found = json.loads((home / "one/detections.json").read_text())["images"][0]["detections"]
    assert len(found) <= 3
    (home / "some").mkdir()
    for name in ("000001.jpg", "000002.jpg"):
        shutil.copy(home / "toy/JPEGImages" / name, home / "some")
    (home / "some" / "broken.jpg").write_bytes(b"no picture")
    done = run(home, "predict", load, "--image=some", "--out=two")
    assert "broken.jpg" in done.stderr
    assert len(list((home / "two").glob("*.jpg"))) == 2
    run(home, "predict", load, "--image=toy/JPEGImages/00000[1-3].jpg", "--out=three")
    assert len(list((home / "three").glob("*.jpg"))) == 3


def test_load_path_goes_on_and_finetune_takes_other_classes(home, tmp_path):
    steps = ["--max-iter=1", "--visdom=False", "--voc-data-dir=toy", "--num-workers=0"]
    run(home, "train", "--load-path=runs/first/last.pth", *steps, "--name=on")
    config = torch.load(home / "runs/on/last.pth", weights_only=True)["config"]
    assert (config["model"], config["min_size"]) == ("tiny", 96)
    shutil.copytree(home / "toy", tmp_path / "toy")
    for path in (tmp_path / "toy/Annotations").iterdir():
        path.write_text(path.read_text().replace("<name>star</name>", "<name>sun</name>"))
    other = [*steps[:2], f"--voc-data-dir={tmp_path}/toy", "--num-workers=0"]
    done = run(home, "train", "--load-path=runs/first/last.pth", *other, code=2)
    assert "--finetune" in done.stderr
    assert "'sun'" in done.stderr
    run(home, "train", "--finetune=runs/first/last.pth", *other, "--name=other")
    names = torch.load(home / "runs/other/last.pth", weights_only=True)["other_info"]["label_names"]
    assert "sun" in names
    assert "star" not in names


def test_sizes_ratios_and_aspects_of_training_images(home):
    words = ["--voc-data-dir=toy", "--max-iter=3", "--visdom=False", "--name=sizes", "--convention=py-faster-rcnn"]
    run(home, "train", *SMALL, *words, "--train-sizes=64,128", "--max-ratio=1.5", "--group-by-aspect=True")
    config = torch.load(home / "runs/sizes/last.pth", weights_only=True)["config"]
    assert (config["train_sizes"], config["max_ratio"], config["group_by_aspect"]) == ([64, 128], 1.5, True)


def test_without_a_val_list_training_goes_on_unvalidated(home, tmp_path):
    shutil.copytree(home / "toy", tmp_path / "toy")
    (tmp_path / "toy/ImageSets/Main/val.txt").unlink()
    words = ["--voc-data-dir=toy", "--max-iter=1", "--visdom=False", "--name=blind"]
    done = run(tmp_path, "train", *SMALL, *words)
    assert "without validation" in done.stdout
    assert "train.py predict" in done.stdout
    assert "train.py eval" not in done.stdout  # on what?
    names = sorted(path.name for path in (tmp_path / "runs/blind").glob("[!.]*"))
    assert names == ["events.jsonl", "last.pth", "pictures", "run.json"]
    done = run(tmp_path, "train", *SMALL, "--voc-data-dir=toy", "--val-split=val", code=2)
    assert "val.txt" in done.stderr


def test_a_picture_that_breaks_in_mid_run_is_one_line_and_nothing_is_lost(home, tmp_path):
    shutil.copytree(home / "toy", tmp_path / "toy")
    last = EpochBatches(8, 1).order()[-1]  # in the order of the first epoch: seven steps come before it
    picture = tmp_path / f"toy/JPEGImages/{last + 1:06}.jpg"
    break_in_the_middle(picture)
    words = ["--voc-data-dir=toy", "--epoch=3", "--visdom=False", "--name=hurt", "--batch-size=1", "--num-workers=1"]
    done = run(tmp_path, "train", *SMALL[:3], *words, code=2)
    assert picture.name in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    kept = torch.load(tmp_path / "runs/hurt/last.pth", weights_only=True)
    assert kept["other_info"]["step"] == 7


def test_a_run_that_diverges_never_takes_the_place_of_a_good_checkpoint(home, tmp_path):
    words = [f"--voc-data-dir={home}/toy", "--epoch=3", "--visdom=False", "--lr=100", "--plot-every=1000", "--name=up"]
    done = run(tmp_path, "train", *SMALL, *words, code=2)
    assert "not finite" in done.stderr.splitlines()[-1]
    for path in (tmp_path / "runs/up").glob("*.pth"):
        state = torch.load(path, weights_only=True)["model"]
        assert all(value.isfinite().all() for value in state.values())


def test_a_run_keeps_its_numbers_and_pictures(home, tmp_path):
    """Without a dashboard too; at the steps of --plot-every, the last one and after each epoch."""
    words = [f"--voc-data-dir={home}/toy", "--epoch=2", "--visdom=False", "--plot-every=3", "--name=kept"]
    done = run(tmp_path, "train", *SMALL, *words)
    events = list(read_events(tmp_path / "runs/kept"))
    total = [event for event in events if event["win"] == "total_loss"]
    assert [event["x"] for event in total] == [event["step"] for event in total] == [3, 6, 8]
    assert all(event["y"] > 0 for event in total)
    maps = [event for event in events if event["win"] == "test_map"]
    assert [(event["x"], event["step"]) for event in maps] == [(1, 4), (2, 8)]
    assert [f"epoch {event['x']:.0f}: mAP {event['y']:.4f}" in done.stdout for event in maps] == [True] * 2
    pictures = [event for event in events if event["kind"] == "img"]
    steps = {win: [event["step"] for event in pictures if event["win"] == win] for win in ("pred_img", "followed_1")}
    assert steps == {"pred_img": [3, 6, 8], "followed_1": [3, 4, 8]}  # followed after each epoch too, once a step
    assert all((tmp_path / "runs/kept" / event["file"]).stat().st_size > 0 for event in pictures)
    stored = torch.load(tmp_path / "runs/kept/last.pth", weights_only=True)["vis_info"]["lines"]["total_loss"]
    assert stored["x"] == [3, 6, 8]


def test_overwrite_sets_the_former_runs_files_aside(home, tmp_path):
    (tmp_path / "runs/again").mkdir(parents=True)
    (tmp_path / "runs/again/epoch-0003.pth").write_text("the former run's")
    words = [f"--voc-data-dir={home}/toy", "--max-iter=1", "--visdom=False", "--name=again", "--overwrite"]
    run(tmp_path, "train", *SMALL, *words)
    names = sorted(path.name for path in (tmp_path / "runs/again").iterdir() if path.name[0] != ".")
    assert names == ["best.pth", "epoch-0003.pth.old", "events.jsonl", "last.pth", "pictures", "run.json"]


def test_a_run_may_overwrite_the_one_that_it_starts_from(home, tmp_path):
    (tmp_path / "runs/again").mkdir(parents=True)
    shutil.copy(home / "runs/first/last.pth", tmp_path / "runs/again")
    words = ["--load-path=runs/again/last.pth", f"--voc-data-dir={home}/toy", "--max-iter=1", "--visdom=False"]
    done = run(tmp_path, "train", *words, "--use-adam", "--num-workers=0", "--name=again", "--overwrite")
    assert "starts afresh" not in done.stderr  # the optimizer goes on too
    before = torch.load(tmp_path / "runs/again/last.pth.old", weights_only=True)["model"]
    after = torch.load(tmp_path / "runs/again/last.pth", weights_only=True)["model"]
    assert not torch.equal(before["rpn.conv1.weight"], after["rpn.conv1.weight"])
    assert torch.allclose(before["rpn.conv1.weight"], after["rpn.conv1.weight"], atol=0.05)


def test_debug_file_opens_ipdb(home, tmp_path):
    (tmp_path / "debugf").touch()
    words = ["train", *SMALL, f"--voc-data-dir={home}/toy", "--max-iter=1", "--visdom=False", "--plot-every=1"]
    words += [f"--debug-file={tmp_path}/debugf", "--name=debug"]
    done = the_runs().run(tmp_path, words, stdin="p 6*7\nc\n")
    assert "42" in done.stdout
    done = the_runs().run(tmp_path, [*words, "--overwrite"], stdin="q\n", code=130)
    assert "Traceback" not in done.stderr


def test_models_lists_what_there_is_to_choose(tmp_path):
    done = run(tmp_path, "models", "--model=tinny", code=2)
    assert done.stderr == "error: --model=tinny: unknown; did you mean tiny?\n"
    done = run_anew(tmp_path, "models", "--model=tiny", "--device=cpu")
    header, row = done.stdout.splitlines()
    assert header.split()[:6] == ["model", "parameters", "stride", "RoIs", "GFLOPs", "ms"]
    assert row.split()[:4] == ["tiny", "2.4", "M", "8"]


@pytest.fixture
def command(home, monkeypatch, capsys):
    """Run a command in this process, with fresh options; its exit code and what it wrote to stderr."""
    from train import COMMANDS

    monkeypatch.chdir(home)

    def call(*words):
        opt.__dict__.update(Config().__dict__)
        opt.given = frozenset()
        code = run_command(COMMANDS, list(words), fire)
        opt.__dict__.update(Config().__dict__)
        return code, capsys.readouterr().err

    return call


LOAD = "--load-path=runs/first/last.pth"
MISTAKES = [
    (["dashboard", "--run=runs/first", "--visdom=off"], ["--visdom=off", "this command shows runs"]),
    (["train", "--voc-data-dir=toy", "--learning-rate=1"], ["--learning-rate", "unknown"]),
    (["train", "--voc-data-dir=toy", "--batchsize=1"], ["did you mean --batch-size?"]),
    (["train", "--voc-data-dir=toy", "--lr=fast"], ["--lr=fast", "a number"]),
    (["train", "--voc-data-dir=toy", "--epoch=-1"], ["--epoch=-1", "from 1 to"]),
    (["train", "--voc-data-dir=toy", "--use-drop=maybe"], ["--use-drop=maybe", "True or False"]),
    (["train", "--voc-data-dir=toy", "--use-chainer=True"], ["--use-chainer"]),
    (["train", "--voc-data-dir=toy", "--model=vgg61"], ["--model=vgg61", "did you mean vgg16?"]),
    (["train", "--voc-data-dir=toy", "--data=yolo"], ["--data=yolo: must be one of voc, coco"]),
    (["train", "--voc-data-dir=toy", "--min-size=2000"], ["--min-size=2000", "--max-size"]),
    (["train", "--voc-data-dir=nowhere"], ["nowhere"]),
    (["train", "--voc-data-dir=toy", "--train-split=best"], ["best.txt", "train"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--name=first"], ["first", "--overwrite"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--label-names=circle,square"], ["(circle, square)"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--pretrained-path=no.pth"], ["no.pth"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--pretrained-model=resnet"], ["--pretrained-model=resnet"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--caffe-pretrain=True"], ["--caffe-pretrain", "vgg16"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--caffe-pretrain-path=x.pth"], ["--caffe-pretrain=True"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--device=gpu"], ["--device=gpu", "cuda"]),
    (["train", "--voc-data-dir=toy", "--load-path=toy/Annotations/000001.xml"], ["000001.xml", "not a torch file"]),
    (["train", "toy"], ["toy", "--name=value"]),
    (["trian", "--voc-data-dir=toy"], ["did you mean train?"]),
    (["eval", "--voc-data-dir=toy"], ["--load-path"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--val-split=test"], ["test.txt", "val"]),
    (["eval", "--load-path=gone.pth", "--voc-data-dir=toy"], ["gone.pth"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--model=mobilenet_v2"], ["FasterRCNNMobileNetV2"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--label-names=a,b"], ["6 classes"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--score-thresh=2"], ["--score-thresh=2", "from 0 to 1"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--out=toy/Annotations/000001.xml/x"], ["--out"]),
    (["train", "--voc-data-dir=toy", "--seed=99999999999999999999"], ["--seed", "from 0 to"]),
    (["train", "--voc-data-dir=toy", "--model=tiny", "--name=../up"], ["--name=../up"]),
    (["train", "--voc-data-dir=toy", LOAD, "--pretrained-path=x.pth"], ["--pretrained-path", "--load-path"]),
    (["train", "--voc-data-dir=toy", "--pretrained-model=none", "--pretrained-path=x.pth"], ["--pretrained-path"]),
    (["train", "--voc-data-dir=toy", "-", "foo"], ["--name=value"]),
    (
        ["eval", LOAD, "--voc-data-dir=toy", "--label-names=ring,circle,cross,square,star,oval"],
        ["'ring'", "circle,cross,"],
    ),
    (["train", LOAD, "--voc-data-dir=toy", "--label-names=a,b,c,d,e,f"], ["'a'", "--finetune"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--out=toy"], ["--out=toy", "folder"]),
    (["eval", LOAD, "--voc-data-dir=toy", "--max-size=20"], ["first/last.pth", "--min-size"]),
    (["predict", LOAD], ["--image"]),
    (["predict", LOAD, "--image=nothing*.jpg"], ["nothing*.jpg"]),
    (["predict", LOAD, "--image=toy/Annotations"], ["no pictures"]),
    (["predict", LOAD, "--image=toy/Annotations/000001.xml"], ["not a picture"]),
    (["predict", LOAD, "--image=toy/JPEGImages", "--out=toy/Annotations/000001.xml"], ["--out"]),
]


@pytest.mark.parametrize(("words", "needles"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line_and_exit_code_2(command, words, needles):
    code, stderr = command(*words)
    assert code == 2
    lines = [line for line in stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert lines[0] == stderr.splitlines()[-1]
    for needle in needles:
        assert needle in lines[0]


def test_overlapping_splits_are_warned_of(command):
    words = ["train", "--voc-data-dir=toy", *SMALL, "--train-split=trainval", "--max-iter=1", "--visdom=False"]
    code, stderr = command(*words, "--name=overlap")
    assert code == 0
    assert "5 images are in both trainval and val" in stderr


HELP = [("train", "--plot-every", "40", "--image"), ("eval", "--test-num", "10000", "--lr "),
        ("predict", "--every", "1", "--val-split")]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "default", "absent"), HELP)
def test_help_helps_and_does_nothing(home, name, option, default, absent):
    before = sorted(os.listdir(home))
    done = run(home, name, "--help")
    assert re.search(f"^  {option} .*default: {default}", done.stdout, re.MULTILINE)
    assert "usage:" in done.stdout
    assert absent not in done.stdout
    assert sorted(os.listdir(home)) == before


def test_a_torchvision_that_does_not_fit_is_one_line(home, tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    words = [sys.executable, ROOT / "train.py", "train", "--voc-data-dir=toy"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(words, cwd=home, capture_output=True, text=True, env=env)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "nms does not exist" in done.stderr


@pytest.mark.slow
def test_a_published_checkpoint_loads_in_all_three_commands(home, tmp_path):
    """simple-faster-rcnn's: VGG16 of 20 classes, its keys of December 2017, a numpy scalar, the old torch format."""
    config = {
        "lr1": 1e-3,
        "lr2": 1e-4,
        "lr3": 1e-5,
        "milestone": 10,
        "caffe_pretrain": True,
        "min_size": 96,
        "max_size": 192,
    }
    content = {"model": FasterRCNNVGG16().state_dict(), "config": config, "other_info": {"best_map": np.float64(0.7)}}
    path = tmp_path / "published.pth"
    torch.save(content | {"vis_info": {}}, path, _use_new_zipfile_serialization=False)
    shutil.copytree(home / "toy", tmp_path / "toy")
    for annotation in (tmp_path / "toy/Annotations").iterdir():
        text = annotation.read_text()
        for name, new in zip(CLASSES, VOC_BBOX_LABEL_NAMES):
            text = text.replace(f"<name>{name}</name>", f"<name>{new}</name>")
        annotation.write_text(text)
    data = "--voc-data-dir=toy"
    assert "aeroplane" in run(tmp_path, "eval", f"--load-path={path}", data, "--test-num-workers=0").stdout
    run(tmp_path, "predict", f"--load-path={path}", "--image=toy/JPEGImages/000001.jpg", "--out=out")
    run(
        tmp_path, "train", f"--load-path={path}", data, "--max-iter=1", "--visdom=False", "--name=on", "--num-workers=0"
    )
    kept = torch.load(tmp_path / "runs/on/last.pth", weights_only=True, mmap=True)["config"]
    assert (kept["input_mode"], kept["min_size"]) == ("caffe_legacy", 96)


def test_two_runs_with_one_seed_are_equal_whatever_the_workers(home):
    words = ["--voc-data-dir=toy", "--max-iter=3", "--visdom=False"]
    run(home, "train", *SMALL, *words, "--name=a")
    run(home, "train", *SMALL, *words, "--name=b", "--num-workers=2")
    a, b = (torch.load(home / f"runs/{name}/last.pth", weights_only=True)["model"] for name in "ab")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["rpn.conv1.weight"], torch.zeros_like(a["rpn.conv1.weight"]))
