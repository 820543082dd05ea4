"""The commands on real photographs: MobileNetV2 from ImageNet weights learns, and the lecture's exercise."""

import numpy as np
import pytest
import torch

from tests.test_train import free_port, run


@pytest.fixture
def photographs(shared_data):
    folder = shared_data / "voc2007_subset"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder}")
    return folder


def test_the_loss_falls_on_photographs(photographs, shared_data, tmp_path):
    weights = shared_data / "weights/mobilenet_v2_imagenet.pth"
    run(tmp_path, "train", f"--voc-data-dir={photographs}", "--model=mobilenet_v2", f"--pretrained-path={weights}",
        "--min-size=160", "--max-size=240", "--batch-size=2", "--lr=0.005", "--warmup=20", "--max-iter=120",
        "--rpn-n-train-post-nms=300", "--roi-n-sample=32", "--plot-every=20", "--num-workers=0",
        "--test-num-workers=0", "--test-num=2", f"--port={free_port()}", "--name=real")  # fmt: skip
    lines = torch.load(tmp_path / "runs/real/last.pth", weights_only=True)["vis_info"]["lines"]
    for name in ("rpn_cls_loss", "roi_cls_loss", "total_loss"):
        losses = np.array([*lines[name]["y"]])
        assert len(losses) == 6
        assert losses[-3:].mean() < 0.9 * losses[:2].mean(), (name, losses)


def test_the_exercise_is_one_command(photographs, tmp_path):
    """README's line, for a step at a small size: AlexNet, the mAP, and drawn detections."""
    done = run(tmp_path, "train", "--model=alexnet", f"--voc-data-dir={photographs}", "--train-split=train",
               "--val-split=val", "--draw=2", "--pretrained-model=none", "--min-size=160", "--max-iter=1",
               "--test-num=2", "--score-thresh=0.01", "--visdom=False", "--num-workers=0",
               "--test-num-workers=0", "--name=exercise")  # fmt: skip
    assert "mAP" in done.stdout
    assert len(list((tmp_path / "runs/exercise/detections").glob("*.jpg"))) == 2
