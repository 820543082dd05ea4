"""The ways to train: RPN alone, the head on stored proposals, and the four steps; as a user runs them."""

import json
import shutil

import numpy as np
import pytest
import torch

from data.loader import EpochBatches
from misc.demo import TRAINING
from misc.make_toy_voc import make_toy_voc
from model import build_model, load_model
from tests.run_server import the_runs
from tests.test_train import SMALL, run, run_anew
from tests.test_trainer import BOXES, LABELS, images, make_trainer
from tests.voc_folder import break_in_the_middle
from trainer import FasterRCNNTrainer
from utils.config import Config

TRAIN = ["train", *SMALL, "--voc-data-dir=toy", "--visdom=False", "--use-adam=True", "--lr=0.001"]
EVAL = ["--voc-data-dir=toy", "--test-num-workers=0"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy dataset, an RPN trained for two epochs, and its proposals for both sets."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=8, n_val=5, size=96)
    run(folder, *TRAIN, "--schedule=rpn", "--epoch=2", "--name=rpn")
    for split in ("train", "val"):
        start = run_anew if split == "val" else run
        done = start(folder, "propose", "--load-path=runs/rpn/last.pth", *EVAL, f"--val-split={split}")
        (folder / f"{split}.log").write_text(done.stdout)
    return folder


# Parts of a step


def part_trainer(parts):
    trainer = make_trainer()
    return FasterRCNNTrainer(trainer.faster_rcnn, config=Config(), parts=parts)


def changed(trainer, **arguments):
    """Which parts of the model one step changes."""
    before = {name: p.detach().clone() for name, p in trainer.faster_rcnn.named_parameters()}
    losses = trainer.train_step(images(), [BOXES], [LABELS], 1.0, **arguments)
    after = trainer.faster_rcnn.named_parameters()
    return losses, {name.split(".")[0] for name, p in after if not torch.equal(p, before[name])}


def test_the_rpn_alone():
    losses, parts = changed(part_trainer("rpn"))
    assert parts == {"extractor", "rpn"}
    assert losses.roi_loc_loss == losses.roi_cls_loss == 0
    assert losses.total_loss == losses.rpn_loc_loss + losses.rpn_cls_loss > 0
    both = make_trainer()(images(), [BOXES], [LABELS], 1.0)
    assert (losses.rpn_loc_loss, losses.rpn_cls_loss) == (both.rpn_loc_loss, both.rpn_cls_loss)


@pytest.mark.parametrize("stored", [True, False])
def test_the_head_alone(stored):
    rois = [torch.tensor([[5.0, 8, 42, 51], [0, 0, 30, 30], [22, 31, 59, 70]])] if stored else None
    trainer = part_trainer("head")
    if stored:
        trainer.faster_rcnn.rpn.forward = None  # is not called
    losses, parts = changed(trainer, rois=rois)
    assert parts == {"extractor", "head"}
    assert losses.rpn_loc_loss == losses.rpn_cls_loss == 0
    assert losses.roi_cls_loss > 0
    if stored:  # the three and the two true boxes
        assert trainer.roi_cm.value().sum() == 5


def test_rois_of_other_images_are_refused():
    with pytest.raises(ValueError, match="RoIs of other ones"):
        part_trainer("head")(images(2), [BOXES] * 2, [LABELS] * 2, 1.0, rois=[BOXES])


def test_an_extractor_that_does_not_learn_keeps_its_statistics():
    model = build_model("tiny", 3)
    model.extractor.requires_grad_(False)
    model.train()
    before = [buffer.clone() for buffer in model.extractor.buffers()]
    model.extractor(images())
    assert all(torch.equal(a, b) for a, b in zip(before, model.extractor.buffers(), strict=True))
    model.extractor[0].requires_grad_(True)
    model.train().extractor(images())
    assert not all(torch.equal(a, b) for a, b in zip(before, model.extractor.buffers(), strict=True))


# RPN alone


def test_an_rpns_checkpoint_is_a_detector_of_one_class(home):
    done = run(home, "eval", "--load-path=runs/rpn/last.pth", *EVAL)
    table = done.stdout[done.stdout.index("AP area") :]
    assert "object" in table
    assert "triangle" not in table
    result = json.loads((home / "runs/rpn/last_eval_val.json").read_text())
    assert result["map"] > 0
    run(home, "predict", "--load-path=runs/rpn/last.pth", "--image=toy/JPEGImages/000001.jpg", "--out=seen",
        "--score-thresh=0.01")  # fmt: skip
    found = json.loads((home / "seen/detections.json").read_text())["images"][0]["detections"]
    assert found
    assert {one["label"] for one in found} == {"object"}


def test_its_score_is_the_rpns(home):
    model = load_model(home / "runs/rpn/last.pth")
    assert model.rpn_only
    img = np.random.default_rng(0).uniform(0, 255, (3, 96, 96)).astype(np.float32)
    model.score_thresh, model.nms_thresh = 0.0, 1.0
    (bbox,), (label,), (score,) = model.predict([img])
    ((proposals, proposal_scores),) = model.propose([img])
    np.testing.assert_allclose(bbox, proposals)
    np.testing.assert_allclose(score, proposal_scores)
    assert (label == 0).all()
    assert ((score >= 0) & (score <= 1)).all()


def test_propose_writes_boxes_and_prints_recall(home):
    assert "IoU 0.5" in (home / "val.log").read_text()
    ids = (home / "toy/ImageSets/Main/val.txt").read_text().split()
    with np.load(home / "runs/rpn/last_proposals_val.npz") as arrays:
        assert {name.split("/")[1] for name in arrays} == set(ids)
        for i in ids:
            bbox, score = arrays[f"bbox/{i}"], arrays[f"score/{i}"]
            assert bbox.shape == (len(score), 4)
            assert len(bbox) > 100  # more than the 100 of testing
            assert (np.diff(score) <= 0).all()
            assert bbox.min() >= 0
            assert bbox.max() <= 96
    few = run(home, "propose", "--load-path=runs/rpn/last.pth", *EVAL, "--rpn-n-test-post-nms=7", "--out=few.npz")
    assert "35 proposals for 5 images" in few.stdout
    shutil.copytree(home / "toy", home / "other")
    for path in (home / "other/Annotations").iterdir():  # classes that the checkpoint has not seen are objects too
        path.write_text(path.read_text().replace("<name>star</name>", "<name>sun</name>"))
    other = "--voc-data-dir=other", "--test-num-workers=0", "--out=other.npz"
    assert "proposals for 5 images" in run(home, "propose", "--load-path=runs/rpn/last.pth", *other).stdout
    assert "object" in run(home, "eval", "--load-path=runs/rpn/last.pth", *other).stdout
    done = run(home, "eval", "--load-path=runs/rpn/last.pth", *EVAL, "--proposals=few.npz", code=2)
    assert done.stderr.strip().endswith("--proposals: the checkpoint is an RPN, which makes its own; leave them out")


# Fast R-CNN on stored proposals


def test_fast_rcnn_on_stored_proposals(home):
    files = "--proposals=runs/rpn/last_proposals_train.npz,runs/rpn/last_proposals_val.npz"
    done = run(home, *TRAIN, "--schedule=fast_rcnn", files, "--epoch=2", "--name=fast")
    assert "epoch 2: mAP" in done.stdout
    run(home, "eval", "--load-path=runs/fast/last.pth", *EVAL, files, "--out=stored.json")
    run(home, "eval", "--load-path=runs/fast/last.pth", *EVAL, "--out=own.json")
    assert f"train.py eval --load-path=runs/fast/best.pth --voc-data-dir=toy --val-split=val {files}" in done.stdout
    assert "train.py predict" not in done.stdout  # with what proposals?
    warned = run(home, "predict", "--load-path=runs/fast/last.pth", "--image=toy/JPEGImages/000001.jpg", "--out=x")
    assert "warning: runs/fast/last.pth learned on stored proposals, and its RPN nothing" in warned.stderr
    refused = run(home, "predict", "--load-path=runs/fast/last.pth", "--image=toy/JPEGImages", files, code=2)
    assert "--proposals: predict does not read it" in refused.stderr
    stored, own = (json.loads((home / f"{name}.json").read_text()) for name in ("stored", "own"))
    assert stored["n_images"] == own["n_images"] == 5
    fresh, fast = (load_model(home / f"runs/{name}/last.pth") for name in ("rpn", "fast"))
    assert not torch.equal(fresh.extractor[0][0].weight, fast.extractor[0][0].weight)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--schedule=fast_rcnn"], "--proposals"),
        (["--schedule=joint", "--proposals=runs/rpn/last_proposals_train.npz"], "leave out --proposals"),
        (["--schedule=rpn", "--proposals=runs/rpn/last_proposals_train.npz"], "leave out --proposals"),
        (["--schedule=fast_rcnn", "--proposals=none.npz"], "no such file"),
        (["--schedule=fast_rcnn", "--proposals=runs/rpn/last_proposals_train.npz"], "has none for"),
        (["--schedule=alternating", "--load-path=runs/rpn/last.pth"], "leave out"),
        (["--schedule=turns"], "must be one of"),
    ],
)
def test_mistakes_are_one_line(home, words, message):
    done = run(home, *TRAIN, *words, "--name=wrong", code=2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (home / "runs/wrong/last.pth").exists()


# The four steps


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def same(a, b, part):
    return all(torch.equal(a[name], b[name]) for name in a if name.startswith(part))


@pytest.fixture(scope="module")
def alternated(home):
    done = run(home, *TRAIN, "--schedule=alternating", "--epoch=2", "--name=four")
    (home / "four.log").write_text(done.stdout)
    return home / "runs/four"


def test_the_four_steps(home, alternated):
    log = (home / "four.log").read_text()
    assert all(f"step {k} of 4" in log for k in (1, 2, 3, 4))
    assert log.count(": mAP") == 2  # of the last step alone
    one, two, three, four = (weights(alternated / f"step{k}.pth") for k in (1, 2, 3, 4))
    assert not same(one, two, "extractor.")
    assert same(two, three, "extractor.")
    assert same(three, four, "extractor.")
    assert same(two, three, "head.")
    assert same(three, four, "rpn.")
    assert not same(two, three, "rpn.")
    assert not same(three, four, "head.")
    assert same(four, weights(alternated / "last.pth"), "")
    assert "circle" in run(home, "eval", f"--load-path={alternated / 'best.pth'}", *EVAL, "--out=four.json").stdout
    assert not load_model(alternated / "last.pth").rpn_only
    assert load_model(alternated / "step3.pth").rpn_only


FOUR = [*TRAIN, "--schedule=alternating", "--epoch=2", "--name=four", "--resume=auto", "--save-every=3"]


@pytest.mark.parametrize("step", [*(pytest.param(k, marks=pytest.mark.slow) for k in (1, 2, 3)), 4])
def test_killed_in_any_step_it_goes_on_to_the_same_end(home, alternated, step, tmp_path):
    """Killed in mid-epoch: the same command goes on where it was saved last, and ends with the same weights."""
    shutil.copytree(home / "toy", tmp_path / "toy")
    last = tmp_path / "runs/four/last.pth"

    def in_the_middle():
        info = torch.load(last, weights_only=True)["other_info"] if last.exists() else {"part": 0}
        return info["part"] == step and info["batch"]

    killed = the_runs().start(tmp_path, FOUR)
    killed.wait_for(in_the_middle)
    killed.kill()
    assert torch.load(last, weights_only=True)["other_info"]["part"] == step
    done = run(tmp_path, *FOUR)
    assert f"step {step} of 4" in done.stdout
    assert f"step {step - 1} of 4" not in done.stdout
    assert same(weights(last), weights(alternated / "last.pth"), "")
    assert "has had its 2 epochs" in run(tmp_path, *FOUR).stdout
    again = run(tmp_path, *TRAIN, "--schedule=alternating", "--epoch=2", "--name=four", code=2)
    assert "--resume=runs/four" in again.stderr
    assert "--overwrite" in again.stderr


def test_stopped_before_its_first_picture_was_seen_twice_it_goes_on_in_the_same_epoch(home, alternated, tmp_path):
    shutil.copytree(home / "toy", tmp_path / "toy")
    picture = tmp_path / f"toy/JPEGImages/{EpochBatches(8, 2).order()[-1] + 1:06}.jpg"  # the last of the first epoch
    whole = picture.read_bytes()
    break_in_the_middle(picture)
    stopped = run(tmp_path, *FOUR, code=2).stderr
    assert "stopped after step 3 of 8; python train.py train --resume=runs/four goes on from there" in stopped
    picture.write_bytes(whole)
    run(tmp_path, "train", "--resume=runs/four", "--num-workers=0", "--test-num-workers=0", "--visdom=False")
    assert same(weights(tmp_path / "runs/four/last.pth"), weights(alternated / "last.pth"), "")


@pytest.mark.slow
def test_the_four_steps_come_near_joint_training(tmp_path):
    """On the demo's toy data and with its options, of which each step has the epochs: no more than 0.05 behind."""
    make_toy_voc(tmp_path / "toy_voc", n_train=800, n_val=100)
    options = [f"--{name}={value}" for name, value in TRAINING.items()]
    best = {}
    for schedule in ("joint", "alternating"):
        run(tmp_path, "train", *options, "--voc-data-dir=toy_voc", "--visdom=False", f"--schedule={schedule}",
            f"--name={schedule}")  # fmt: skip
        best[schedule] = torch.load(tmp_path / f"runs/{schedule}/best.pth", weights_only=True)["other_info"]["best_map"]
    assert best["joint"] > 0.7
    assert best["alternating"] > best["joint"] - 0.05, best
