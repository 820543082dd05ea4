"""utils/precision_tool.py, and what stays in float32 when the network does not."""

import pytest
import torch

from model import FasterRCNNTiny
from trainer import FasterRCNNTrainer
from utils import precision_tool
from utils.config import Config
from utils.errors import UserError
from utils.precision_tool import amp_dtype, autocast, be_deterministic, not_deterministic

CPU = torch.device("cpu")


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("off", None)])
def test_names(name, dtype):
    assert amp_dtype(name, CPU) is dtype


@pytest.mark.parametrize(("units", "dtype"), [(True, torch.bfloat16), (False, None)])
def test_auto_follows_the_hardware(units, dtype, monkeypatch):
    monkeypatch.setattr(precision_tool, "has_bf16_units", lambda _: units)
    assert amp_dtype("auto", CPU) is dtype


def test_auto_on_this_machine():
    assert precision_tool.has_bf16_units(CPU) == torch.cpu._is_amx_tile_supported()


def test_float16_needs_a_gpu():
    with pytest.raises(UserError, match="--amp=fp16"):
        amp_dtype("fp16", CPU)


def test_autocast():
    a = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype == torch.bfloat16
        with autocast(CPU, None):
            assert (a @ a).dtype == torch.float32
    assert (a @ a).dtype == torch.float32


def losses(amp):
    torch.manual_seed(0)
    model = FasterRCNNTiny(2, min_size=64, max_size=96).train()
    trainer = FasterRCNNTrainer(model, config=Config(lr=0.01), amp=amp)
    boxes, labels = [torch.tensor([[8.0, 10, 40, 50], [30, 30, 60, 78]])] * 2, [torch.tensor([1, 0])] * 2
    imgs = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    steps = [trainer.train_step(imgs, boxes, labels, 1.0, indices=[0, 1]) for _ in range(3)]
    return model, steps


def test_the_last_layers_keep_float32():
    """Else most proposals and detections would tie with others, and the tie decide which are kept."""
    model, _ = losses(None)
    imgs = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(1))
    model.eval()
    with torch.no_grad(), autocast(CPU, torch.bfloat16):
        features = model.extract(imgs, [(64, 80)])
        rpn_locs, rpn_scores, rois, n_rois, *_ = model.rpn(features, [(64, 80)], [1.0])
        n = int(n_rois[0])
        roi_cls_locs, roi_scores = model.head(features, rois[0, :n], torch.zeros(n, dtype=torch.int64))
    assert features[0].dtype == torch.bfloat16
    for out in (rpn_locs, rpn_scores, roi_cls_locs, roi_scores):
        assert out.dtype == torch.float32
    scores = rpn_scores[0, :, 1]
    assert len(scores.unique()) > 0.9 * len(scores) > 2 * len(scores.bfloat16().unique())


def test_a_step_in_bfloat16_is_near_one_in_float32():
    _, exact = losses(None)
    model, rough = losses(torch.bfloat16)
    for a, b in zip(exact, rough, strict=True):
        assert all(loss.dtype == torch.float32 for loss in b)
        assert b.total_loss.item() == pytest.approx(a.total_loss.item(), rel=0.05)
    assert exact[0].total_loss.item() != rough[0].total_loss.item()
    assert all(p.dtype == p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in model.parameters())


def test_detections_in_bfloat16_are_float32_boxes_near_the_exact_ones():
    model, _ = losses(None)
    model.score_thresh = 0.0
    img = torch.rand(3, 64, 80, generator=torch.Generator().manual_seed(2)) * 255
    exact = model.predict([img], max_dets=5)
    with autocast(CPU, torch.bfloat16):
        rough = model.predict([img], max_dets=5)
    assert rough.bboxes[0].dtype == rough.scores[0].dtype == "float32"
    assert abs(exact.scores[0][0] - rough.scores[0][0]) < 0.05


def test_an_operation_without_a_deterministic_algorithm_is_one_line():
    """`put_` has none on a CPU either."""

    def put():
        torch.zeros(3).put_(torch.tensor([0]), torch.tensor([1.0]))

    be_deterministic(False)
    put()
    be_deterministic(True)
    try:
        with pytest.raises(RuntimeError) as error:
            put()
    finally:
        torch.use_deterministic_algorithms(False)
    line = not_deterministic(error.value)
    assert line.startswith("--deterministic: put_ has no deterministic algorithm on this device")
    assert "\n" not in line
    assert not_deterministic(RuntimeError("something else")) is None
