"""model/faster_rcnn.py: the parameters that learn, and how fast."""

import pytest
import torch

from model import FasterRCNNTiny, FasterRCNNVGG16


@pytest.mark.parametrize("use_adam", [False, True])
@pytest.mark.parametrize("build", [FasterRCNNVGG16, FasterRCNNTiny])
def test_optimizer(build, use_adam):
    with torch.device("meta"):
        model = build()
    optimizer = model.get_optimizer(lr=0.01, weight_decay=0.003, use_adam=use_adam)
    assert optimizer is model.optimizer
    assert isinstance(optimizer, torch.optim.AdamW if use_adam else torch.optim.SGD)
    found = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(found)
    n_biases = 0
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert id(parameter) not in found, name
            continue
        group = found[id(parameter)]
        assert use_adam or group["momentum"] == 0.9
        if name.endswith("bias"):
            n_biases += 1
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.02), 0), name
        elif parameter.ndim == 1:  # the gain of a norm
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.01), 0), name
        else:
            assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.01), 0.003), name
    assert n_biases > 5


def test_frozen_layers_are_not_in_the_optimizer():
    with torch.device("meta"):
        model = FasterRCNNVGG16()
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {f"extractor.{i}.{kind}" for i in (0, 2, 5, 7) for kind in ("weight", "bias")}
    assert sum(len(group["params"]) for group in model.get_optimizer().param_groups) == 40 - 8


def test_scale_lr():
    tiny = FasterRCNNTiny(3)
    optimizer = tiny.get_optimizer(lr=0.1)
    before = [group["lr"] for group in optimizer.param_groups]
    assert tiny.scale_lr() is optimizer
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr * 0.1 for lr in before])
    tiny.scale_lr(decay=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([lr * 0.05 for lr in before])
