"""trainer.py: the options that come from the family: what they change, by hand."""

import pytest
import torch

from model import FasterRCNNTiny, build_model, load_model
from model.utils.creator_tool import AnchorTargetCreator, ProposalTargetCreator
from tests.test_trainer import BOXES, LABELS, NAMES, FixedTargets, images, make_trainer, n_anchors, slow_loc_loss
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.errors import UserError


@pytest.mark.parametrize("weight", [0.25, 1.0, 0.0])
def test_rpn_positive_weight(weight):
    """py-faster-rcnn: each positive's outside weight is p / positives in place of 1 / (positives + negatives)."""
    trainer = make_trainer(rpn_positive_weight=weight)
    with torch.no_grad():
        trainer.faster_rcnn.rpn.loc.weight.normal_(0, 0.1)
    fixed = FixedTargets(trainer, n_anchors(64, 80))
    losses = trainer(images(), [BOXES], [LABELS], 1.5)
    n_used, n_positive = (fixed.rpn_label >= 0).sum().item(), (fixed.rpn_label > 0).sum().item()
    usual = slow_loc_loss(fixed.outputs[0][0][0].detach(), fixed.rpn_loc, fixed.rpn_label, 3.0)
    assert losses.rpn_loc_loss.item() == pytest.approx(usual * n_used * weight / n_positive, rel=1e-4)


def test_rpn_positive_weight_without_positives():
    trainer = make_trainer(rpn_positive_weight=0.5)
    losses = trainer(images(), [BOXES[:0]], [LABELS[:0]], 1.0)
    assert losses.rpn_loc_loss == 0
    assert torch.isfinite(losses.total_loss)


def gradient_norm(trainer):
    return torch.stack([p.grad.norm() for p in trainer.faster_rcnn.parameters() if p.grad is not None]).norm().item()


def test_gradients_are_clipped_to_one_norm():
    free, clipped = make_trainer(), make_trainer(grad_clip=0.2)
    for trainer in (free, clipped):
        trainer.train_step(images(), [BOXES], [LABELS], 1.0, indices=[0])
    assert gradient_norm(free) > 0.5
    assert gradient_norm(clipped) == pytest.approx(0.2, rel=1e-3)
    factor = 0.2 / gradient_norm(free)
    for a, b in zip(free.faster_rcnn.parameters(), clipped.faster_rcnn.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad * factor, b.grad, rtol=1e-3, atol=1e-6)


def test_options_reach_the_creators():
    config = {"rpn_n_sample": 100, "rpn_pos_ratio": 0.3, "rpn_pos_iou": 0.6, "rpn_neg_iou": 0.2}
    config |= {"roi_pos_ratio": 0.4, "roi_pos_iou": 0.55, "roi_neg_iou_hi": 0.45, "roi_neg_iou_lo": 0.1}
    config["rpn_clobber_positives"] = True
    trainer = make_trainer(**config)
    anchors, rois = trainer.anchor_target_creator, trainer.proposal_target_creator
    assert (anchors.n_sample, anchors.pos_ratio, anchors.pos_iou_thresh, anchors.neg_iou_thresh) == (100, 0.3, 0.6, 0.2)
    assert anchors.clobber_positives
    assert (rois.pos_ratio, rois.pos_iou_thresh, rois.neg_iou_thresh_hi, rois.neg_iou_thresh_lo) == (
        0.4,
        0.55,
        0.45,
        0.1,
    )


def test_their_defaults_are_the_creators_own():
    trainer = make_trainer()
    border, n_sample = trainer.faster_rcnn.allowed_border, trainer.faster_rcnn.n_sample
    assert vars(trainer.anchor_target_creator) == vars(AnchorTargetCreator(allowed_border=border))
    assert vars(trainer.proposal_target_creator) == vars(ProposalTargetCreator(n_sample=n_sample))


@pytest.mark.parametrize(("low", "high"), [("rpn_neg_iou", "rpn_pos_iou"), ("roi_neg_iou_lo", "roi_neg_iou_hi")])
def test_thresholds_in_the_wrong_order(low, high):
    with pytest.raises(UserError, match=f"^--{low}=0.9 is more than --{high}=".replace("_", "-")):
        Config().parse({low: 0.9})


# Class-agnostic boxes


def agnostic(n_class=3):
    torch.manual_seed(0)
    return FasterRCNNTiny(n_class, min_size=64, max_size=96, label_names=NAMES, class_agnostic=True)


def test_class_agnostic_loss_is_of_the_one_box():
    trainer = FasterRCNNTrainer(agnostic().train(), config=Config())
    with torch.no_grad():
        trainer.faster_rcnn.head.cls_loc.weight.normal_(0, 0.1)
    fixed = FixedTargets(trainer, n_anchors(64, 80))
    losses = trainer(images(), [BOXES], [LABELS], 1.0)
    roi_locs = fixed.outputs[1][0]
    assert roi_locs.shape == (12, 4)
    expected = slow_loc_loss(roi_locs.detach(), fixed.roi_loc, fixed.roi_label, 1.0)
    assert losses.roi_loc_loss.item() == pytest.approx(expected, rel=1e-4)


def test_class_agnostic_detections_share_the_box_of_their_roi():
    model = agnostic().eval()
    with torch.no_grad():
        model.head.cls_loc.weight.normal_(0, 0.05)
        model.head.score.weight.zero_()  # all classes are as likely
    model.score_thresh, model.nms_thresh = 0.0, 1.0
    bbox, label, _ = (column[0] for column in model.predict([images()[0] * 50 + 100]))
    boxes_of = [{tuple(row) for row in bbox[label == k].tolist()} for k in range(3)]
    assert len(boxes_of[0]) > 5
    assert boxes_of[0] == boxes_of[1] == boxes_of[2]


def test_class_agnostic_through_a_file(tmp_path):
    model = build_model("tiny", 3, NAMES, class_agnostic=True)
    path = FasterRCNNTrainer(model, config=Config()).save(save_path=tmp_path / "x.pth")
    again = load_model(path)
    assert again.head.class_agnostic
    assert again.head.cls_loc.weight.shape == (4, 256)
    assert torch.equal(again.head.cls_loc.weight, model.head.cls_loc.weight)
