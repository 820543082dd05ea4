"""trainer.py: checkpoints of a run, written and taken up again."""

import re
import warnings

import numpy as np
import pytest
import torch

from model import FasterRCNNTiny, load_model
from trainer import FasterRCNNTrainer
from utils.checkpoint import read_checkpoint
from utils.config import Config
from utils.errors import UserError

BOXES, LABELS = torch.tensor([[[8.0, 10, 40, 50]]]), torch.tensor([[1]])


def make_trainer(seed=0, **config):
    torch.manual_seed(seed)
    model = FasterRCNNTiny(2, min_size=64, max_size=96, label_names=("cat", "dog"))
    return FasterRCNNTrainer(model.train(), config=Config(**config))


def step(trainer, k=0):
    img = torch.randn(1, 3, 48, 64, generator=torch.Generator().manual_seed(k))
    return trainer.train_step(img, BOXES, LABELS, 1.0, indices=[k]).total_loss.item()


@pytest.fixture(scope="module")
def trained():
    trainer = make_trainer(lr=0.004, weight_decay=0.002, plot_every=7)
    for k in range(2):
        step(trainer, k)
    return trainer


def weights(trainer):
    return {name: value.clone() for name, value in trainer.faster_rcnn.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("others", "ending"),
    [
        ({}, ""),
        ({"best_map": 0.7}, "_0.7"),
        ({"best_map": np.float64(0.7)}, "_0.7"),
        ({"best_map": 0.25, "epoch": 3}, "_0.25_3"),
    ],
)
def test_default_name(trained, tmp_path, monkeypatch, others, ending):
    monkeypatch.chdir(tmp_path)
    path = trained.save(**others)
    assert isinstance(path, str)
    assert re.fullmatch(r"checkpoints/fasterrcnn_\d{8}" + re.escape(ending), path)
    assert (tmp_path / path).is_file()
    info = read_checkpoint(path).other_info
    assert all(info[name] == value for name, value in others.items())


def test_layout_of_the_file(trained, tmp_path):
    path = trained.save(save_path=str(tmp_path / "x.pth"), epoch=4)
    assert path == str(tmp_path / "x.pth")
    content = torch.load(path, weights_only=True)
    assert set(content) == {"model", "config", "other_info", "vis_info"}
    assert content["model"].keys() == trained.faster_rcnn.state_dict().keys()
    assert (content["config"]["lr"], content["config"]["plot_every"]) == (0.004, 7)
    assert (content["config"]["model"], content["config"]["min_size"]) == ("tiny", 64)
    assert content["other_info"]["label_names"] == ["cat", "dog"]
    assert content["other_info"]["epoch"] == 4
    assert content["other_info"]["format_version"] >= 1
    again = torch.load(trained.save(save_optimizer=True, save_path=path), weights_only=True)
    assert "optimizer" in again


def test_detector_from_the_file(trained, tmp_path):
    model = load_model(trained.save(save_path=tmp_path / "x.pth"))
    assert model.label_names == ("cat", "dog")
    assert equal(model.state_dict(), trained.faster_rcnn.state_dict())


def test_with_its_optimizer_a_run_goes_on_as_if_nothing_had_been(tmp_path):
    straight = make_trainer(lr=0.01)
    path = tmp_path / "x.pth"
    for k in range(2):
        step(straight, k)
    straight.save(save_optimizer=True, save_path=path)
    resumed = make_trainer(seed=9, lr=0.01)
    assert not equal(weights(resumed), weights(straight))
    assert resumed.load(path) is resumed
    assert equal(weights(resumed), weights(straight))
    for k in (2, 3):
        assert step(straight, k) == pytest.approx(step(resumed, k), rel=1e-6)
    assert equal(weights(resumed), weights(straight))


@pytest.mark.parametrize("use_adam", [False, True])
@pytest.mark.parametrize("saved_last", [False, True])
def test_momentum_takes_the_layout_of_its_parameters(tmp_path, saved_last, use_adam):
    """A fused update walks through memory: momentum in another order than its parameter would be another momentum."""
    layouts = [torch.contiguous_format, torch.channels_last]
    straight = make_trainer(lr=0.01, use_adam=use_adam)
    straight.to(memory_format=layouts[saved_last])
    for k in range(2):
        step(straight, k)
    straight.save(save_optimizer=True, save_path=tmp_path / "x.pth")
    resumed = make_trainer(seed=9, lr=0.01, use_adam=use_adam)
    resumed.to(memory_format=layouts[not saved_last])
    resumed.load(tmp_path / "x.pth")
    for k in (2, 3):
        assert step(resumed, k) == pytest.approx(step(straight, k), rel=1e-4)
    for a, b in zip(straight.faster_rcnn.parameters(), resumed.faster_rcnn.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("saved", "loaded"), [(False, True), (True, False), (False, False)])
def test_without_its_optimizer(trained, tmp_path, saved, loaded):
    path = trained.save(save_optimizer=saved, save_path=tmp_path / "x.pth")
    fresh = make_trainer(seed=9, lr=0.5)
    assert fresh.load(path, load_optimizer=loaded) is fresh
    assert equal(weights(fresh), weights(trained))
    assert not fresh.optimizer.state
    assert max(group["lr"] for group in fresh.optimizer.param_groups) == pytest.approx(1.0)


def test_optimizer_of_another_kind(trained, tmp_path, capsys):
    path = trained.save(save_optimizer=True, save_path=tmp_path / "x.pth")
    fresh = make_trainer(seed=9, use_adam=True)
    fresh.load(path)
    assert "x.pth: its optimizer is of another kind" in capsys.readouterr().err
    assert equal(weights(fresh), weights(trained))
    assert not fresh.optimizer.state
    step(fresh)


def test_no_warning_where_all_fits(trained, tmp_path):
    path = trained.save(save_optimizer=True, save_path=tmp_path / "x.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_trainer().load(path)


def test_parse_opt(trained, tmp_path):
    path = trained.save(save_path=tmp_path / "x.pth")
    without, with_options = make_trainer(lr=0.5), make_trainer(lr=0.5)
    without.load(path)
    assert (without.config.lr, without.config.plot_every) == (0.5, 40)
    with_options.load(path, parse_opt=True)
    assert (with_options.config.lr, with_options.config.weight_decay) == (0.004, 0.002)
    assert with_options.config.plot_every == 7


def test_parse_opt_leaves_where_that_run_began(tmp_path):
    begun = make_trainer(lr=0.004, load_path="runs/before/last.pth")
    path = begun.save(save_path=tmp_path / "x.pth")
    trainer = make_trainer()
    trainer.load(path, parse_opt=True)
    assert trainer.config.lr == 0.004
    assert trainer.config.load_path is None


def test_wrong_file_changes_nothing(tmp_path):
    trainer = make_trainer()
    before = weights(trainer)
    path = tmp_path / "x.pth"
    path.write_text("not weights")
    with pytest.raises(UserError, match=r"x\.pth: "):
        trainer.load(path, parse_opt=True)
    with pytest.raises(UserError, match=r"none\.pth: "):
        trainer.load(tmp_path / "none.pth")
    assert equal(weights(trainer), before)
    assert trainer.config == Config()


@pytest.mark.parametrize("optimizer", [{}, {"param_groups": []}, {"state": {}}, "momentum", [1]])
def test_broken_optimizer_does_not_stop_the_weights(trained, tmp_path, optimizer):
    path = tmp_path / "x.pth"
    torch.save({"model": trained.faster_rcnn.state_dict(), "optimizer": optimizer}, path)
    fresh = make_trainer(seed=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fresh.load(path)
    assert equal(weights(fresh), weights(trained))


def test_numpy_values_in_other_info_are_read_again(tmp_path):
    trainer = FasterRCNNTrainer(FasterRCNNTiny(2))
    values = {"a": np.int32(3), "b": np.bool_(True), "c": np.arange(2), "d": np.float64(0.5)}
    path = trainer.save(save_path=tmp_path / "x.pth", **values)
    info = read_checkpoint(path).other_info
    assert [info[name] for name in "abcd"] == [3, True, [0, 1], 0.5]
