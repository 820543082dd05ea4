"""What `misc/fuzz.py` feeds as the state of a run: what a checkpoint says beside its weights."""

import json
import time
from contextlib import suppress
from functools import cache

import torch
from torch import nn

from model.zoo import build_model, model_from_checkpoint
from utils.checkpoint import as_checkpoint
from utils.command_options import ALL
from utils.config import Config
from utils.errors import UserError
from utils.optimizer_tool import take_up as take_up_optimizer
from utils.pace_tool import Pace
from utils.resume_tool import Position, check_data, n_recorded, position_of, take_options, take_up, what_it_has_had
from utils.show_tool import Show
from utils.training_meters import TrainingMeters

STORED = {
    "config": {"model": "tiny", "label_names": ["cat", "dog"], "min_size": 96, "max_size": 160, "roi": "align"}
    | {"anchor_scales": [2.0, 4], "anchor_ratios": [0.5, 1, 2], "rpn_n_test_pre_nms": 9, "nms_thresh": 0.3}
    | {"input_mode": "caffe", "convention": "continuous", "class_agnostic": False, "env": "e", "schedule": "joint"},
    "other_info": Position(epoch=1, step=2, total_step=2).info() | {"best_map": 0.5, "data": 7, "n_nonfinite": 1},
    "show": Show(None, Pace(1), 1).state_dict() | {"best": [0.5, 1], "events": 3},
}


@cache
def _tiny():
    return build_model("tiny", 2, ("cat", "dog")).state_dict()


def read_stored(_, content):
    """What a checkpoint says of its network and of how far its run was, and then what a run does with that."""
    stored = _read(content)
    checkpoint = as_checkpoint("x.pth", {"model": _tiny()} | (stored if isinstance(stored, dict) else {}))
    with suppress(UserError):
        model_from_checkpoint(checkpoint)
    config = Config()
    with suppress(UserError):
        take_options(config, checkpoint, set(ALL))
    with suppress(UserError):
        at = position_of(checkpoint)
        what_it_has_had(at, config, 1)
        check_data(at, checkpoint, ["000001", "000002"], 1)
        _ = (checkpoint.other_info.get("best_map") or -1.0) < 0.5, checkpoint.other_info.get("n_nonfinite", 0) < 10
    with suppress(UserError):
        n_recorded(checkpoint)
    pace = Pace(n_steps=10)
    take_up(Show(None, pace, 1), checkpoint)
    time.localtime(time.time() + (pace.seconds_left(1) or 0.0))
    pace.take()


def _read(content):
    with suppress(ValueError, RecursionError):  # not the reader's
        return json.loads(content)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1))


def _optimizer(network, use_adam):
    if use_adam:
        return torch.optim.AdamW(network.parameters(), lr=0.01, fused=True)
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, fused=True)


def _step(network, optimizer):
    optimizer.zero_grad()
    network(torch.ones(1, 2, 4, 4)).square().mean().backward()
    optimizer.step()


def states():
    """Of both optimizers after a step, with the meters, as JSON: a tensor is a list."""
    for use_adam in (False, True):
        network = _network()
        optimizer = _optimizer(network, use_adam)
        _step(network, optimizer)
        meters = TrainingMeters(["total_loss"], 3)
        meters.add_losses([torch.tensor(0.5)])
        state = {"optimizer": optimizer.state_dict(), "meters": meters.state_dict() | {"n_found": [1, 1, 2]}}
        yield json.dumps(state, default=torch.Tensor.tolist).encode()


def read_state(_, content):
    """An optimizer and meters that go on from it: whatever is taken, the steps after it must not end the process."""
    state = _read(content)
    if not isinstance(state, dict):
        return
    for use_adam in (False, True):
        network = _network()
        optimizer = _optimizer(network, use_adam)
        with suppress(ValueError):
            take_up_optimizer(optimizer, _with_tensors(state.get("optimizer")))
        _step(network, optimizer)
    meters = TrainingMeters(["total_loss"], 3)
    with suppress(Exception):  # as `FasterRCNNTrainer.load_state`, which takes any for a damaged file
        meters.load_state_dict(_with_tensors(state.get("meters")))
    meters.add_losses([torch.tensor(0.5)])
    meters.count_found([torch.ones(1, 4)], [None], [torch.ones(1, 4)])
    str([meters.averages["total_loss"].value(), meters.rpn_cm.value(), meters.roi_cm.value(), meters.recall])


def _with_tensors(value):
    """Lists of numbers as tensors, and texts of digits, which JSON has for whole numbers, as those."""
    if isinstance(value, dict):
        return {int(k) if k.isdigit() and k.isascii() else k: _tensor_of(k, v) for k, v in value.items()}
    return [_with_tensors(one) for one in value] if isinstance(value, list) else value


def _tensor_of(key, value):
    if key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step", "rpn", "roi"):
        with suppress(Exception):  # no list of numbers, or lists of several lengths
            return torch.tensor(value, dtype=torch.float32)
    return _with_tensors(value)
