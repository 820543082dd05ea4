"""model/zoo.py: one line for a file that is no checkpoint, and nothing in it is run."""

import os
import pickle

import numpy as np
import pytest
import torch

from model import build_model, load_model
from model.zoo import model_from_checkpoint
from utils.checkpoint import Checkpoint
from utils.errors import UserError


@pytest.fixture(scope="module")
def tiny():
    return build_model("tiny", 3, min_size=48, max_size=64)


class Evil:
    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def text(path, tiny):
    path.write_text("these are not the weights you are looking for\n" * 9)


def random_bytes(path, tiny):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def empty(path, tiny):
    path.touch()


def directory(path, tiny):
    path.mkdir()


def missing(path, tiny):
    pass


def truncated(path, tiny):
    torch.save(tiny.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def truncated_legacy(path, tiny):
    torch.save(tiny.state_dict(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-5000])


def other_zip(path, tiny):
    np.savez(path.with_suffix(".npz"), a=np.zeros(3))
    path.with_suffix(".npz").rename(path)


def code(path, tiny):
    torch.save({"model": tiny.state_dict(), "other_info": Evil(path.parent / "ran")}, path)


def code_in_a_plain_pickle(path, tiny):
    path.write_bytes(pickle.dumps(Evil(path.parent / "ran"), protocol=2))


def whole_model(path, tiny):
    torch.save(tiny, path)


def saved(content):
    return lambda path, tiny: torch.save(content, path)


def edited(**changes):
    """Tiny's checkpoint with changes to its state dict; None removes."""

    def write(path, tiny):
        state = {**tiny.state_dict(), **{name.replace("__", "."): value for name, value in changes.items()}}
        torch.save({"model": {k: v for k, v in state.items() if v is not None}, "config": {"model": "tiny"}}, path)

    return write


def of_config(**config):
    return lambda path, tiny: torch.save({"model": tiny.state_dict(), "config": config}, path)


WRONG = {
    "text": text,
    "random bytes": random_bytes,
    "empty": empty,
    "directory": directory,
    "missing": missing,
    "truncated": truncated,
    "truncated legacy": truncated_legacy,
    "another zip": other_zip,
    "code": code,
    "code in a plain pickle": code_in_a_plain_pickle,
    "whole model": whole_model,
    "tensor": saved(torch.zeros(3)),
    "list": saved([torch.zeros(3)]),
    "number": saved(3),
    "empty dict": saved({}),
    "dict without tensors": saved({"a": 1, "b": "c"}),
    "names that are numbers": saved({0: torch.zeros(3), 1: torch.zeros(2)}),
    "empty model": saved({"model": {}}),
    "model None": saved({"model": None}),
    "another network": saved({"conv1.weight": torch.zeros(3, 3)}),
    "no score": edited(head__score__weight=None),
    "lacks a layer": edited(rpn__loc__weight=None),
    "one layer more": edited(rpn__more__weight=torch.zeros(1)),
    "other anchors": edited(rpn__loc__weight=torch.zeros(4, 128, 1, 1)),
    "score of no shape": edited(head__score__weight=torch.zeros(())),
    "two kinds of head": edited(head__cls_loc__weight=torch.zeros(12, 256)),
    "for another model": of_config(model="mobilenet_v2"),
    "model of the future": of_config(model="vit"),
    "input of the future": of_config(model="tiny", input_mode="hsv"),
    "no size": of_config(model="tiny", min_size=float("nan")),
    "size 0": of_config(model="tiny", min_size=0),
    "sizes the wrong way round": of_config(model="tiny", min_size=300, max_size=200),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_file_is_one_line(tiny, tmp_path, kind):
    path = tmp_path / "wrong.pth"
    WRONG[kind](path, tiny)
    with pytest.raises(UserError) as error:
        load_model(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) > len(f"{path}: ") + 20
    assert not (tmp_path / "ran").exists()


def test_code_of_the_wrong_files_would_run(tmp_path):
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran"), protocol=2))
    assert (tmp_path / "ran").is_dir()


@pytest.mark.parametrize("part", ["config", "other_info"])
def test_part_of_another_kind_is_one_line(tiny, tmp_path, part):
    path = tmp_path / "wrong.pth"
    for wrong in (["not", "a", "dict"], torch.ones(3), 5):
        torch.save({"model": tiny.state_dict(), "config": {"model": "tiny"}, part: wrong}, path)
        with pytest.raises(UserError, match=r"^\S*wrong\.pth: [^\n]+$"):
            load_model(path)


@pytest.mark.parametrize("name", ["max_dets", "roi_n_sample", "rpn_n_test_pre_nms", "rpn_n_train_post_nms"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 1e-300, float("nan"), float("inf"), 10**7, True])
def test_a_number_of_boxes_that_can_not_be_is_refused_and_may_be_given(tiny, name, value):
    checkpoint = Checkpoint("x.pth", tiny.state_dict(), {"model": "tiny", name: value})
    with pytest.raises(UserError, match=rf"^x\.pth: its {name} is .*, which can't be; set --{name.replace('_', '-')}$"):
        model_from_checkpoint(checkpoint)
    assert model_from_checkpoint(checkpoint, **{name: 7})


def test_weights_that_are_not_finite(tiny):
    state = {name: value.clone() for name, value in tiny.state_dict().items()}
    state["rpn.score.bias"][0] = float("nan")
    with pytest.raises(UserError, match=r"^x\.pth: rpn\.score\.bias has numbers that are not finite"):
        model_from_checkpoint(Checkpoint("x.pth", state, {"model": "tiny"}))


@pytest.mark.parametrize("name", ["anchor_scales", "anchor_ratios"])
def test_a_checkpoint_of_millions_of_anchors_is_refused_before_they_are_made(name):
    config = {"model": "tiny", "anchor_scales": [8.0] * 50, "anchor_ratios": [1.0] * 50, name: [1.0] * 10**6}
    with pytest.raises(
        UserError, match=rf"^x\.pth: its {name} is .{{60}}, which can't be; set --{name.replace('_', '-')}$"
    ):
        model_from_checkpoint(Checkpoint("x.pth", {"head.score.weight": torch.zeros(3, 2)}, config))
