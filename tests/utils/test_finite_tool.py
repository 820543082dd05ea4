"""utils/finite_tool.py and its use in trainer.py: nothing is changed by what is not finite."""

import copy
import json
from itertools import product

import pytest
import torch

from model import FasterRCNNTiny
from model.faster_rcnn_resnet import FasterRCNNResNet18FPN
from tests.same import same
from tests.test_trainer import BOXES, LABELS, images
from trainer import FasterRCNNTrainer
from utils.config import Config
from utils.errors import UserError
from utils.finite_tool import FiniteCheck, NonFiniteError, Policy, RunningStatistics, is_finite
from utils.resume_tool import Position


def trainer_of(family=FasterRCNNTiny, **config):
    torch.manual_seed(0)
    model = family(3, min_size=64, max_size=96, freeze_at=0)
    return FasterRCNNTrainer(model.train(), config=Config(**config))


def everything(trainer):
    """All that a step changes."""
    state = trainer.faster_rcnn.state_dict(), trainer.optimizer.state_dict(), trainer._counted.state_dict()
    return copy.deepcopy((*state, trainer._n_seen))


def step(trainer, value=None, **others):
    imgs = images(2)
    if value is not None:
        imgs[1, 2, 7, 9] = value
    return trainer.train_step(imgs, [BOXES] * 2, [LABELS] * 2, 1.0, **others)


@pytest.mark.parametrize(
    ("family", "use_adam", "grad_clip"),
    [*product([FasterRCNNTiny], [False, True], [None, 10.0]), (FasterRCNNResNet18FPN, False, 10.0)],
)
def test_a_step_that_is_not_finite_changes_nothing(family, use_adam, grad_clip):
    """Neither the statistics of a BatchNorm that learns, nor the meters, nor what the next samples are drawn from."""
    trainer = trainer_of(family, use_adam=use_adam, grad_clip=grad_clip)
    step(trainer)
    before = everything(trainer)
    with pytest.raises(NonFiniteError, match="loss is not finite") as error:
        step(trainer, value=float("nan"))
    assert same(everything(trainer), before)
    assert error.value.losses.keys() == set(trainer.meters)
    assert error.value.gradients
    assert not error.value.late
    assert error.value.batches[0][0].isnan().any()
    expected = trainer_of(family, use_adam=use_adam, grad_clip=grad_clip)
    for _ in range(2):
        step(expected)
    step(trainer)
    assert same(everything(trainer), everything(expected))


def test_a_gradient_alone_is_noticed(monkeypatch):
    trainer = trainer_of()
    real = FasterRCNNTrainer.forward

    def forward(self, *arguments):
        losses = real(self, *arguments)
        return losses._replace(total_loss=losses.total_loss + (losses.rpn_cls_loss * 0).sqrt())

    monkeypatch.setattr(FasterRCNNTrainer, "forward", forward)
    before = everything(trainer)
    with pytest.raises(NonFiniteError, match="the gradient is not finite") as error:
        step(trainer)
    assert all(torch.tensor(value).isfinite() for value in error.value.losses.values())
    assert "rpn.score.weight" in error.value.gradients
    assert same(everything(trainer), before)


def test_any_error_in_a_step_leaves_it_unmade():
    trainer = trainer_of(FasterRCNNResNet18FPN)
    step(trainer)
    before = everything(trainer)
    trainer.faster_rcnn.head.forward = None
    with pytest.raises(TypeError):
        step(trainer)
    assert same(everything(trainer), before)
    assert not trainer.half_updated


def test_an_error_within_the_update_is_told():
    trainer = trainer_of()

    def fail():
        raise MemoryError

    trainer.optimizer.step = fail
    with pytest.raises(MemoryError):
        step(trainer)
    assert trainer.half_updated


def test_the_optimizer_leaves_an_update_out_by_a_flag():
    """What a GPU does, where the host has not heard of it yet: the fused optimizers on a CPU have the same switch."""
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = kind([parameter], lr=0.1, fused=True)
        parameter.grad = torch.full((3,), float("nan"))
        optimizer.found_inf = torch.ones(())
        optimizer.step()
        assert parameter.tolist() == [1, 1, 1]
        parameter.grad = torch.ones(3)
        optimizer.found_inf = torch.zeros(())
        optimizer.step()
        assert parameter.isfinite().all()
        assert (parameter < 1).all()


def test_statistics_go_back_by_a_flag():
    layer = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2).eval())
    before = copy.deepcopy(layer.state_dict())
    for flag, changed in ((1.0, False), (0.0, True)):
        statistics = RunningStatistics(layer)
        layer(torch.randn(8, 2))
        statistics.restore_where(torch.tensor(flag))
        assert same(layer.state_dict(), before) != changed


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("use_adam", [False, True])
def test_on_a_gpu_the_host_hears_of_it_with_the_next_step(use_adam):
    trainer = trainer_of(use_adam=use_adam)
    trainer.faster_rcnn.cuda()
    trainer = FasterRCNNTrainer(trainer.faster_rcnn, config=trainer.config)
    boxes, labels = [BOXES.cuda()] * 2, [LABELS.cuda()] * 2
    bad = images(2).cuda()
    bad[0, 0, 3, 3] = float("nan")
    trainer.train_step(images(2).cuda(), boxes, labels, 1.0)
    before = copy.deepcopy(trainer.faster_rcnn.state_dict())
    trainer.train_step(bad, boxes, labels, 1.0)
    assert same(trainer.faster_rcnn.state_dict(), before)
    with pytest.raises(NonFiniteError) as error:
        trainer.train_step(images(2).cuda(), boxes, labels, 1.0)
    assert error.value.late
    assert error.value.batches[0][0].isnan().any()
    assert not same(trainer.faster_rcnn.state_dict(), before)
    trainer.train_step(bad, boxes, labels, 1.0)
    with pytest.raises(NonFiniteError):
        trainer.settle()


def error_of(late=False, indices=(2, 0)):
    batch = (torch.zeros(2, 3, 4, 4), [], [], 1.0, None, torch.tensor(indices), None)
    return NonFiniteError({"rpn_loc_loss": 0.5, "total_loss": float("inf")}, ["rpn.loc.weight"], [batch], late=late)


def test_what_led_to_it_is_kept(tmp_path):
    policy, at = Policy(tmp_path, skips=False, limit=0), Position(batch=6, step=6, total_step=106)
    told = r"step 107: the loss is not finite \(total_loss inf\), images c, a; .*kept in"
    with pytest.raises(UserError, match=told), policy.heeded(at, ["a", "b", "c"]):
        raise error_of()
    assert (at.batch, at.step, at.total_step) == (6, 6, 106)  # it comes again when the run goes on
    record = json.loads((tmp_path / "nonfinite/step-00000107.json").read_text())
    assert record["losses"] == {"rpn_loc_loss": 0.5, "total_loss": "inf"}
    assert record["images"] == ["c", "a"]
    assert record["gradients"] == ["rpn.loc.weight"]
    (batch,) = torch.load(tmp_path / "nonfinite" / record["batch"], weights_only=True)
    assert batch["imgs"].shape == (2, 3, 4, 4)
    assert batch["indices"].tolist() == [2, 0]


@pytest.mark.parametrize(
    ("late", "n", "step", "after"), [(True, 1, 106, 107), (True, 0, 106, 106), (False, 1, 107, 106)]
)
def test_a_step_is_counted_if_it_was_made(tmp_path, late, n, step, after):
    """Late: the error is of the step before the one that was made; with the wait for the last, of that one."""
    policy, at = Policy(tmp_path, skips=False, limit=0), Position(batch=6, step=6, total_step=106)
    with pytest.raises(UserError, match=f"^step {step}: "), policy.heeded(at, "abc", n):
        raise error_of(late)
    assert at.total_step == after


def test_so_many_may_be_left_out(tmp_path, capsys):
    policy, at = Policy(tmp_path, skips=True, limit=2, n=1), Position()
    with policy.heeded(at, "abc"):
        raise error_of()
    assert at.step == 1  # the batch is behind it
    assert "it is left out (2 of at most 2)" in capsys.readouterr().err
    with pytest.raises(UserError, match="one more than --nonfinite-limit=2"), policy.heeded(at, "abc"):
        raise error_of()
    assert at.step == 1


def test_a_record_that_can_not_be_written_does_not_hide_the_error(tmp_path):
    (tmp_path / "nonfinite").write_text("a file")
    policy = Policy(tmp_path, skips=False, limit=0)
    told = r"step 1: the loss is not finite .* its record can't be written \("
    with pytest.raises(UserError, match=told), policy.heeded(Position(), "abc"):
        raise error_of()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_parameters_that_are_not_finite(value):
    model = FasterRCNNTiny(2)
    assert is_finite(model)
    with torch.no_grad():
        model.rpn.loc.bias[3] = value
    assert not is_finite(model)


def test_opposite_infinities_do_not_cancel():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.tensor([float("inf"), -float("inf"), 1, 2])
    assert not FiniteCheck(torch.optim.SGD([parameter], 0.1), {"p": parameter})._size().isfinite()
