"""trainer.py: the recall of the proposals that a step learns from."""

import math
from dataclasses import replace

import pytest
import torch

from tests.test_trainer import BOXES, LABELS, images, make_trainer


@pytest.mark.parametrize("plus_one", [0, 1])
def test_the_rpn_recall_is_the_share_of_boxes_that_some_proposal_meets(plus_one, monkeypatch):
    trainer = make_trainer()
    monkeypatch.setattr(
        trainer.faster_rcnn.rpn, "convention", replace(trainer.faster_rcnn.convention, plus_one=plus_one)
    )
    assert all(math.isnan(share) for share in trainer.rpn_recall.values())
    box = torch.tensor([[0.0, 0, 10 - plus_one, 10 - plus_one]])  # 10 × 10 either way
    low, well = box - torch.tensor([0.0, 0, 4, 0]), box - torch.tensor([0.0, 0, 2, 0])  # IoU 0.6 and 0.8
    rois = torch.cat([box + 100, low, well])
    boxes = [torch.cat([box, box + 50]), torch.zeros(0, 4)]
    trainer._counted.count_found([rois, rois], [torch.tensor(2), torch.tensor(3)], boxes)  # the third slot is not used
    assert trainer.rpn_recall == {0.5: 0.5, 0.7: 0.0}
    trainer._counted.count_found([rois], [None], [box])
    assert trainer.rpn_recall == {0.5: 2 / 3, 0.7: 1 / 3}
    trainer.reset_meters()
    assert all(math.isnan(share) for share in trainer.rpn_recall.values())


def test_a_step_counts_its_proposals():
    trainer = make_trainer()
    trainer.train_step(images(), [BOXES], [LABELS], 1.0)
    trainer.get_meter_data()  # which empties what is on the device
    recall = trainer.rpn_recall
    assert 0 <= recall[0.7] <= recall[0.5] <= 1
