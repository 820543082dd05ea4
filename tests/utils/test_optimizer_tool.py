"""utils/optimizer_tool.py: what an optimizer left is taken up, and what none leaves is refused, with nothing taken."""

import copy
import math

import pytest
import torch
from torch import nn

from tests.same import same
from utils.optimizer_tool import take_up

KINDS = pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])


def stepped(kind, n=3, seed=0, **others):
    """A network and its optimizer, of two groups, after so many steps."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 1, 1))
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    weights, biases = ([layer.get_parameter(name) for layer in network] for name in ("weight", "bias"))
    groups = [{"params": weights}, {"params": biases, "weight_decay": 0.0}]
    optimizer = kind(groups, lr=0.01, fused=True, **options | others)
    for _ in range(n):
        step(network, optimizer)
    return network, optimizer


def step(network, optimizer):
    optimizer.zero_grad()
    network(torch.ones(1, 2, 5, 5)).square().mean().backward()
    optimizer.step()


@KINDS
def test_it_goes_on_as_the_other_would_have(kind):
    network, optimizer = stepped(kind)
    again, fresh = stepped(kind, n=0, seed=1)
    again.load_state_dict(network.state_dict())
    assert take_up(fresh, copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        step(network, optimizer)
        step(again, fresh)
    assert same(again.state_dict(), network.state_dict())
    assert same(fresh.state_dict(), optimizer.state_dict())


@KINDS
def test_one_that_has_made_no_step(kind):
    fresh = stepped(kind, n=0)[1]
    assert take_up(fresh, stepped(kind, n=0)[1].state_dict())
    assert not fresh.state


@KINDS
def test_what_the_options_say_is_this_runs(kind):
    other = copy.deepcopy(stepped(kind)[1].state_dict())
    other["param_groups"][0] |= {"lr": 0.3, "weight_decay": -7.0, "maximize": True, "fused": "x"}
    fresh = stepped(kind, n=0)[1]
    own = fresh.state_dict()["param_groups"][0]
    assert take_up(fresh, other)
    assert fresh.state_dict()["param_groups"][0] == own | {"lr": 0.3}


@KINDS
@pytest.mark.parametrize(
    "change",
    [
        lambda state: 5,
        lambda state: {},
        lambda state: state | {"param_groups": 5},
        lambda state: state | {"param_groups": [1]},
        lambda state: state | {"param_groups": [{}, {}]},
        lambda state: state | {"param_groups": state["param_groups"][:1]},
        lambda state: state | {"param_groups": [group | {"params": 5} for group in state["param_groups"]]},
        lambda state: state | {"param_groups": [group | {"params": [0]} for group in state["param_groups"]]},
    ],
)
def test_another_kind_is_left(kind, change):
    fresh = stepped(kind, n=1)[1]
    before = copy.deepcopy(fresh.state_dict())
    assert not take_up(fresh, change(stepped(kind)[1].state_dict()))
    assert same(fresh.state_dict(), before)


def test_one_that_learned_a_part_of_the_network():
    state = stepped(torch.optim.SGD)[1].state_dict()
    del state["state"][1]
    network, fresh = stepped(torch.optim.SGD, n=0)
    assert not take_up(fresh, state)
    assert not fresh.state
    idle = network[1].weight.requires_grad_(False)
    assert take_up(fresh, state, idle=[idle])
    step(network, fresh)
    assert idle not in fresh.state


def test_adams_is_another_kind_than_sgds():
    assert not take_up(stepped(torch.optim.SGD)[1], stepped(torch.optim.AdamW)[1].state_dict())
    assert not take_up(stepped(torch.optim.AdamW)[1], stepped(torch.optim.SGD)[1].state_dict())


def change_a_number(name, value):
    """A change of one parameter's numbers of that name, or for None of the only ones that both kinds have."""

    def change(state):
        numbers = state["state"][1]
        key = name or ("momentum_buffer" if "momentum_buffer" in numbers else "exp_avg")
        numbers[key] = value(numbers[key]) if callable(value) else value

    return change


WRONG = {
    "one number": change_a_number(None, torch.ones(1)),  # a fused update would walk through memory that is not its own
    "no dimension": change_a_number(None, torch.ones(())),
    "another order": change_a_number(None, lambda value: value.transpose(0, 1).contiguous()),
    "whole numbers": change_a_number(None, lambda value: value.long()),
    "a text": change_a_number(None, "x"),
    "nothing": change_a_number(None, None),
    "NaN": change_a_number(None, lambda value: value * math.nan),
    "infinite": change_a_number(None, lambda value: value + math.inf),
    "another name": change_a_number("x", torch.ones(1)),
    "no numbers": lambda state: state["state"].update({1: {}}),
    "a number": lambda state: state["state"].update({1: 5}),
    "of a parameter that is not there": lambda state: state["state"].update({4: state["state"][1]}),
    "of a parameter with a name": lambda state: state["state"].update({"x": state["state"][1]}),
    "no state": lambda state: state.pop("state"),
    "state is a number": lambda state: state.update(state=5),
    "numbers of parameters twice": lambda state: state["param_groups"][0].update(params=[0, 0]),
    "names of parameters": lambda state: state["param_groups"][0].update(params=["a", "b"]),
    "rate NaN": lambda state: state["param_groups"][0].update(lr=math.nan),
    "rate below 0": lambda state: state["param_groups"][1].update(lr=-1.0),
    "rate no float": lambda state: state["param_groups"][1].update(lr=10**400),
    "rate a text": lambda state: state["param_groups"][1].update(lr="x"),
}


@KINDS
@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_optimizer_leaves_is_refused(kind, wrong):
    state = copy.deepcopy(stepped(kind)[1].state_dict())
    WRONG[wrong](state)
    fresh = stepped(kind, n=1)[1]
    before = copy.deepcopy(fresh.state_dict())
    with pytest.raises(ValueError, match=r"paramet|rate"):
        take_up(fresh, state)
    assert same(fresh.state_dict(), before)


@pytest.mark.parametrize(
    ("name", "value"), [("step", torch.tensor(-1.0)), ("step", torch.ones(3)), ("exp_avg_sq", lambda value: -value - 1)]
)
def test_adams_own(name, value):
    state = copy.deepcopy(stepped(torch.optim.AdamW)[1].state_dict())
    change_a_number(name, value)(state)
    with pytest.raises(ValueError, match=f"the {name} of a parameter"):
        take_up(stepped(torch.optim.AdamW)[1], state)
