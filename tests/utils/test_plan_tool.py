"""utils.plan_tool.py: what a run says before it begins and after its end."""

from pathlib import Path

import pytest

from model.zoo import build_model
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.plan_tool import closing_lines, next_lines, schedule_line


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "SGD, learning rate 0.001, times 0.1 after epoch 10"),
        ({"epoch": 5}, "SGD, learning rate 0.001"),
        ({"use_adam": True, "warmup": 1500, "lr_milestones": ()},
         "AdamW, learning rate 0.001, reached in 1,500 steps"),
        ({"scale_lr": True, "batch_size": 8, "lr_milestones": "4,9,20"},
         "SGD, learning rate 0.008, times 0.1 after epoch 4, 9"),
        ({"warmup": 10, "epoch": 11}, "SGD, learning rate 0.001, reached in 10 steps, times 0.1 after epoch 10"),
    ],
)  # fmt: skip
def test_the_learning_rate_in_words(given, line):
    config = Config().parse(given)
    assert schedule_line(config, FasterRCNNTrainer(build_model("tiny", 2), config=config)) == line


def test_what_was_made_is_what_is_there(tmp_path):
    run_dir = tmp_path / "a run"
    run_dir.mkdir()
    (run_dir / "last.pth").touch()
    opt = Config().parse({"data": "coco", "coco_data_dir": "my data", "val_split": "val"})
    lines = closing_lines(opt, run_dir, run_dir / "last.pth", True, 3723.4)
    assert lines[:2] == ["made in 1:02:03:", f"  {run_dir}/last.pth: the last, to go on from with --resume"]
    assert lines[2] == "next:"
    words = f"'--load-path={run_dir}/last.pth' --data=coco '--coco-data-dir=my data' --val-split=val"
    assert lines[3:5] == [f"  python train.py {command} '--run={run_dir}'" for command in ("dashboard", "report")]
    assert lines[5] == f"  python train.py eval {words}"
    assert lines[6] == f"  python train.py predict '--load-path={run_dir}/last.pth' --image=FILE_OR_FOLDER"


def test_nothing_is_advised_that_would_not_run():
    opt = Config().parse({"proposals": "a.npz,b.npz"})
    assert len(next_lines(opt, "runs/a", Path("x.pth"), has_val=False)) == 3
    assert next_lines(opt, "runs/a", Path("x.pth"), True)[3].endswith("--val-split=val --proposals=a.npz,b.npz")
    assert "made in 0:59:" in closing_lines(opt, Path("nowhere"), Path("x.pth"), True, 59.2)
