"""trainer.py: the four losses against the contract's formulas, what is sampled, the meters, and the files."""

import math

import numpy as np
import pytest
import torch

from model import FasterRCNNTiny
from trainer import FasterRCNNTrainer, LossTuple
from utils.config import Config

NAMES = ("a", "b", "c")
BOXES = torch.tensor([[8.0, 10, 40, 50], [20, 30, 60, 76]])
LABELS = torch.tensor([0, 2])


def make_trainer(amp=None, family=FasterRCNNTiny, **config):
    torch.manual_seed(0)
    model = family(3, min_size=64, max_size=96, label_names=NAMES)
    model.freeze_bn()
    return FasterRCNNTrainer(model.train(), config=Config(**config), amp=amp)


@pytest.fixture
def trainer():
    return make_trainer()


def images(n=1, height=64, width=80, seed=0):
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(seed))


class FixedTargets:
    """Stands in for both creators: the same arbitrary targets in each call, and the outputs that they are held to."""

    def __init__(self, trainer, n_anchor, n_sample=12, seed=0):
        rng = np.random.default_rng(seed)
        self.rpn_loc = torch.tensor(rng.normal(0, 0.4, (n_anchor, 4)), dtype=torch.float32)
        self.rpn_label = torch.tensor(rng.choice([-1, 0, 1], n_anchor, p=[0.6, 0.25, 0.15]))
        corner = rng.uniform(0, 40, (n_sample, 2))
        roi = np.concatenate([corner, corner + rng.uniform(5, 24, (n_sample, 2))], axis=1)
        self.sample_roi = torch.tensor(roi, dtype=torch.float32)
        self.roi_loc = torch.tensor(rng.normal(0, 1, (n_sample, 4)), dtype=torch.float32)
        self.roi_label = torch.tensor(rng.integers(0, 4, n_sample))
        trainer.anchor_target_creator = lambda *args: (self.rpn_loc, self.rpn_label)
        trainer.proposal_target_creator = lambda *args, **_: (self.sample_roi, self.roi_loc, self.roi_label)
        self.outputs = []
        model = trainer.faster_rcnn
        model.rpn.register_forward_hook(lambda module, _, out: self.outputs.append(out[:2]))
        model.head.register_forward_hook(lambda module, _, out: self.outputs.append(out))


def n_anchors(height, width):
    return math.ceil(height / 8) * math.ceil(width / 8) * 9


def slow_loc_loss(loc, gt_loc, label, sigma):
    total = 0.0
    for i in range(len(label)):
        if label[i] > 0:
            for k in range(4):
                x = abs(float(gt_loc[i, k]) - float(loc[i, k]))
                total += 0.5 * (sigma * x) ** 2 if x < 1 / sigma**2 else x - 0.5 / sigma**2
    return total / sum(int(value) >= 0 for value in label)


def slow_cls_loss(score, label):
    terms = []
    for row, target in zip(score.tolist(), label.tolist()):
        if target >= 0:
            terms.append(math.log(sum(math.exp(value) for value in row)) - row[target])
    return sum(terms) / len(terms)


# One image, fixed targets: the formulas


@pytest.mark.parametrize(("rpn_sigma", "roi_sigma"), [(3.0, 1.0), (1.0, 2.0)])
def test_losses_are_the_contracts(rpn_sigma, roi_sigma):
    trainer = make_trainer(rpn_sigma=rpn_sigma, roi_sigma=roi_sigma)
    with torch.no_grad():  # outputs on both sides of the bend of the smooth L1 loss
        trainer.faster_rcnn.rpn.loc.weight.normal_(0, 0.1)
        trainer.faster_rcnn.head.cls_loc.weight.normal_(0, 0.1)
        trainer.faster_rcnn.head.score.weight.normal_(0, 0.2)
    fixed = FixedTargets(trainer, n_anchors(64, 80))
    losses = trainer(images(), [BOXES], [LABELS], 1.5)
    (rpn_locs, rpn_scores), (roi_cls_locs, roi_scores) = fixed.outputs
    of_class = torch.stack([row[4 * c : 4 * c + 4] for row, c in zip(roi_cls_locs, fixed.roi_label.tolist())])
    expected = [
        slow_loc_loss(rpn_locs[0].detach(), fixed.rpn_loc, fixed.rpn_label, rpn_sigma),
        slow_cls_loss(rpn_scores[0], fixed.rpn_label),
        slow_loc_loss(of_class.detach(), fixed.roi_loc, fixed.roi_label, roi_sigma),
        slow_cls_loss(roi_scores, fixed.roi_label),
    ]
    assert min(expected) > 0.01
    assert [loss.item() for loss in losses[:4]] == pytest.approx(expected, rel=1e-4)
    assert losses.total_loss.item() == pytest.approx(sum(expected), rel=1e-4)
    assert all(loss.ndim == 0 and loss.requires_grad for loss in losses)


def test_contract_defaults_of_the_formulas():
    config = Config()
    assert (config.rpn_sigma, config.roi_sigma) == (3.0, 1.0)
    assert LossTuple._fields == ("rpn_loc_loss", "rpn_cls_loss", "roi_loc_loss", "roi_cls_loss", "total_loss")


def test_nothing_takes_part(trainer):
    fixed = FixedTargets(trainer, n_anchors(64, 80))
    fixed.rpn_label.fill_(-1)
    losses = trainer(images(), [BOXES], [LABELS], 1.0)
    assert losses.rpn_loc_loss == losses.rpn_cls_loss == 0
    assert torch.isfinite(losses.total_loss)


def test_gradients_reach_what_learns(trainer):
    trainer(images(), [BOXES], [LABELS], 1.0).total_loss.backward()
    for name, parameter in trainer.faster_rcnn.named_parameters():
        if parameter.requires_grad:
            assert torch.isfinite(parameter.grad).all(), name
            assert (parameter.grad != 0).any(), name


# Batches


def test_batch_is_the_mean_of_its_images(trainer):
    imgs = images(3)
    bboxes, labels = [BOXES, BOXES[:1] + 5, BOXES[:0]], [LABELS, LABELS[:1], LABELS[:0]]
    indices, scales = [7, 3, 12], [1.0, 2.0, 1.5]
    alone = [
        trainer(imgs[i : i + 1], bboxes[i : i + 1], labels[i : i + 1], scales[i], indices=indices[i : i + 1])
        for i in range(3)
    ]
    together = trainer(imgs, bboxes, labels, torch.tensor(scales), indices=torch.tensor(indices))
    for name in LossTuple._fields:
        mean = sum(getattr(losses, name).item() for losses in alone) / 3
        assert getattr(together, name).item() == pytest.approx(mean, rel=1e-3), name
    assert alone[0].rpn_loc_loss > 2 * alone[1].rpn_loc_loss > 0  # so that a mean over samples is another number
    assert alone[0].roi_loc_loss > 0 == alone[2].roi_loc_loss


def drawn(trainer, indices, imgs=None, sizes=None):
    """What the RPN learns from in each image, and the head's generator after it, for a batch of `indices`."""
    labels, numbers = [], []
    creator, others = trainer.anchor_target_creator, trainer.proposal_target_creator

    def anchors(*args):
        loc, label = creator(*args)
        labels.append(label)
        return loc, label

    def proposals(*args, **kwargs):
        sample = others(*args, **kwargs)
        numbers.append(torch.rand(4, generator=args[-1]))
        return sample

    trainer.anchor_target_creator, trainer.proposal_target_creator = anchors, proposals
    try:
        n = len(indices)
        trainer(images(n) if imgs is None else imgs, [BOXES] * n, [LABELS] * n, 1.0, sizes, indices)
    finally:
        trainer.anchor_target_creator, trainer.proposal_target_creator = creator, others
    return list(zip(labels, numbers, strict=True))


def test_draws_do_not_depend_on_the_padding(trainer):
    """A picture with fewer anchors than there are slots for proposals, alone and beside a larger one."""
    imgs = torch.zeros(2, 3, 64, 80)
    imgs[0, :, :24, :24] = images(1)[0, :, :24, :24]
    (alone,) = drawn(trainer, [5], imgs[:1, :, :24, :24])
    padded, _ = drawn(trainer, [5, 7], imgs, [(24, 24), (64, 80)])
    assert same(padded, alone)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_samples_depend_on_seed_epoch_and_index_alone(trainer):
    (alone,) = drawn(trainer, [5])
    assert (alone[0] == -1).any()
    assert same(drawn(trainer, [5])[0], alone)
    nine, five, two = drawn(trainer, torch.tensor([9, 5, 2]))
    assert same(five, alone)
    assert not same(nine, five)
    assert not same(two, five)
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(drawn(make_trainer(), [5])[0], alone)
    assert not same(drawn(make_trainer(seed=1), [5])[0], alone)
    trainer.epoch = 1
    (later,) = drawn(trainer, [5])
    assert not torch.equal(later[0], alone[0])
    trainer.epoch = 0
    assert same(drawn(trainer, [5])[0], alone)


def test_without_indices_images_are_counted():
    counting, told = make_trainer(), make_trainer()
    for start in (0, 2):
        losses = [t(images(2), [BOXES] * 2, [LABELS] * 2, 1.0, indices=i)
                  for t, i in ((counting, None), (told, [start, start + 1]))]  # fmt: skip
        assert losses[0] == losses[1]


def test_global_generators_are_left_alone(trainer):
    state = torch.get_rng_state()
    trainer(images(), [BOXES], [LABELS], 1.0)
    assert torch.equal(torch.get_rng_state(), state)


def test_nothing_is_taken_from_the_padding(trainer):
    sizes = [(64, 80), (37, 50)]
    anchors_seen, rois_seen = [], []
    anchor_creator, roi_creator = trainer.anchor_target_creator, trainer.proposal_target_creator
    trainer.anchor_target_creator = lambda *args: anchors_seen.append(args[1:3]) or anchor_creator(*args)
    trainer.proposal_target_creator = lambda *args, n_roi: (
        rois_seen.append(args[0][:n_roi]) or roi_creator(*args, n_roi=n_roi)
    )
    boxes = [BOXES, BOXES[:1] * 0.7]
    losses = trainer(images(2), boxes, [LABELS, LABELS[:1]], 1.0, torch.tensor(sizes))
    assert torch.isfinite(losses.total_loss)
    for (anchor, img_size), rois, size in zip(anchors_seen, rois_seen, sizes, strict=True):
        assert tuple(img_size) == size
        assert len(anchor) == n_anchors(*size)
        assert (rois[:, 2] <= size[0]).all()
        assert (rois[:, 3] <= size[1]).all()
        assert len(rois) > 10


# Images without boxes, and boxes without area


def test_no_boxes_at_all(trainer):
    losses = trainer.train_step(images(2), [BOXES[:0]] * 2, [LABELS[:0]] * 2, 1.0)
    assert losses.rpn_loc_loss == losses.roi_loc_loss == 0
    assert losses.rpn_cls_loss > 0
    assert losses.roi_cls_loss > 0
    assert all(torch.isfinite(p).all() for p in trainer.parameters())
    assert trainer.rpn_cm.value()[1].sum() == 0  # all samples are background
    assert trainer.roi_cm.value()[1:].sum() == 0
    assert trainer.rpn_cm.value()[0].sum() > 0


@pytest.mark.parametrize("shape", [(1, 0, 4), (1, 0)])
def test_no_boxes_in_the_contracts_form(trainer, shape):
    losses = trainer(images(), torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64), 1.0)
    assert torch.isfinite(losses.total_loss)
    assert losses.roi_loc_loss == 0


def test_some_images_without_boxes(trainer):
    imgs = images(2)
    with_boxes = trainer(imgs[:1], [BOXES], [LABELS], 1.0, indices=[4])
    both = trainer(imgs, [BOXES, BOXES[:0]], [LABELS, LABELS[:0]], 1.0, indices=[4, 5])
    for name in ("rpn_loc_loss", "roi_loc_loss"):
        assert getattr(with_boxes, name) > 0
        assert getattr(both, name).item() == pytest.approx(getattr(with_boxes, name).item() / 2, rel=1e-3)
    assert torch.isfinite(both.total_loss)


@pytest.mark.parametrize(
    "boxes",
    [
        [[20.0, 30, 20, 30]],
        [[20.0, 30, 20, 60]],
        [[0.0, 0, 40, 0], [10, 10, 40, 40]],
        [[64.0, 80, 64, 80]],
    ],
)
def test_boxes_without_area(trainer, boxes):
    bbox = torch.tensor(boxes)
    losses = trainer.train_step(images(), [bbox], [torch.zeros(len(bbox), dtype=torch.int64)], 1.0)
    assert all(torch.isfinite(loss) for loss in losses)
    assert all(torch.isfinite(p).all() for p in trainer.parameters())
    assert losses.total_loss < 1e3


# The step


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_step_in_the_contracts_form(trainer, dtype):
    before = {name: p.detach().clone() for name, p in trainer.named_parameters()}
    other = make_trainer()
    losses = trainer.train_step(images(), BOXES[None], LABELS[None].to(dtype), 1.6)
    assert isinstance(losses, LossTuple)
    assert losses == other(images(), [BOXES], [LABELS], torch.tensor([1.6]), sizes=[(64, 80)])
    for name, parameter in trainer.named_parameters():
        assert torch.equal(parameter, before[name]) is not parameter.requires_grad, name
    assert trainer.meters["total_loss"].value()[0] == pytest.approx(losses.total_loss.item())


def test_learning_rate(trainer):
    trainer.set_lr(0.3)
    rates = {id(p): group["lr"] for group in trainer.optimizer.param_groups for p in group["params"]}
    model = trainer.faster_rcnn
    assert rates[id(model.rpn.conv1.weight)] == pytest.approx(0.3)
    assert rates[id(model.rpn.conv1.bias)] == pytest.approx(0.6)
    assert trainer.optimizer is model.optimizer


def test_learns_two_images():
    torch.manual_seed(0)
    model = FasterRCNNTiny(2, min_size=64, max_size=96)
    trainer = FasterRCNNTrainer(model.train(), config=Config(lr=2e-3, use_adam=True))
    imgs = 0.1 * images(2)
    boxes = [torch.tensor([[8.0, 8, 40, 40]]), torch.tensor([[16.0, 30, 48, 78]])]
    for img, ((y0, x0, y1, x1),), colour in zip(imgs, boxes, ([2.0, -1, 0], [-1.0, 0, 2])):
        img[:, int(y0) : int(y1), int(x0) : int(x1)] += torch.tensor(colour)[:, None, None]
    labels = [torch.tensor([0]), torch.tensor([1])]
    history = [trainer.train_step(imgs, boxes, labels, 1.0, indices=[0, 1]).total_loss.item() for _ in range(40)]
    assert np.mean(history[-5:]) < 0.5 * np.mean(history[:3])


# Meters


def test_meters_are_the_means_and_counts_of_the_steps(trainer):
    fixed = FixedTargets(trainer, n_anchors(64, 80))
    history = [trainer.train_step(images(seed=k), [BOXES], [LABELS], 1.0) for k in range(3)]
    first_look = trainer.get_meter_data()
    history += [trainer.train_step(images(seed=k), [BOXES], [LABELS], 1.0) for k in range(3, 5)]
    expected_rpn, expected_roi = np.zeros((2, 2), int), np.zeros((4, 4), int)
    for (_, rpn_scores), (_, roi_scores) in zip(fixed.outputs[::2], fixed.outputs[1::2], strict=True):
        for label, score in zip(fixed.rpn_label.tolist(), rpn_scores[0].tolist()):
            if label >= 0:
                expected_rpn[label, score.index(max(score))] += 1
        for label, score in zip(fixed.roi_label.tolist(), roi_scores.tolist()):
            expected_roi[label, score.index(max(score))] += 1
    data = trainer.get_meter_data()
    assert list(data) == list(LossTuple._fields) == list(trainer.meters)
    for name in LossTuple._fields:
        values = [getattr(losses, name).item() for losses in history]
        assert type(data[name]) is float
        assert data[name] == pytest.approx(np.mean(values), rel=1e-5)
        assert first_look[name] == pytest.approx(np.mean(values[:3]), rel=1e-5)
    np.testing.assert_array_equal(trainer.rpn_cm.value(), expected_rpn)
    np.testing.assert_array_equal(trainer.roi_cm.value(), expected_roi)
    assert expected_rpn.sum() == 5 * (fixed.rpn_label >= 0).sum()
    assert expected_roi.sum() == 5 * 12


def test_meters_know_the_spread_of_the_steps(trainer):
    values = [trainer.train_step(images(seed=k), [BOXES], [LABELS], 1.0).total_loss.item() for k in range(4)]
    mean, std = trainer.meters["total_loss"].value()
    assert mean == pytest.approx(np.mean(values), rel=1e-5)
    assert std == pytest.approx(np.std(values, ddof=1), rel=1e-3)


def test_reset_meters(trainer):
    trainer.train_step(images(), [BOXES], [LABELS], 1.0)
    assert trainer.rpn_cm.value().sum() > 0
    trainer.train_step(images(), [BOXES], [LABELS], 1.0)
    trainer.reset_meters()
    assert trainer.rpn_cm.value().sum() == trainer.roi_cm.value().sum() == 0
    assert all(math.isnan(value) for value in trainer.get_meter_data().values())
    losses = trainer.train_step(images(), [BOXES], [LABELS], 1.0)
    assert trainer.get_meter_data()["total_loss"] == pytest.approx(losses.total_loss.item())


def test_state_dict_is_the_models(trainer):
    trainer.train_step(images(), [BOXES], [LABELS], 1.0)
    assert {name.removeprefix("faster_rcnn.") for name in trainer.state_dict()} == set(trainer.faster_rcnn.state_dict())
    assert {name for name, _ in trainer.named_buffers()} == {
        f"faster_rcnn.{n}" for n, _ in trainer.faster_rcnn.named_buffers()
    }


@pytest.mark.parametrize(("boxes", "labels"), [([BOXES], [LABELS] * 2), ([BOXES] * 2, [LABELS])])
def test_boxes_of_fewer_images(trainer, boxes, labels):
    with pytest.raises(ValueError, match="2 images, but boxes of"):
        trainer(images(2), boxes, labels, 1.0)
