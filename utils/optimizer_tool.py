"""An optimizer's state out of a file that may be anybody's: fused updates walk through memory as it says."""

import torch

from utils.json_tool import is_finite

NAMES = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}
NEVER_NEGATIVE = {"step", "exp_avg_sq"}


def take_up(optimizer, state, idle=()) -> bool:
    """Let `optimizer`, of a kind in `NAMES`, go on with the state dict of another one.

    Its numbers for each parameter and its learning rates are taken. Momentum, weight decay and the like stay this
    run's.

    Args:
        idle: parameters of `optimizer` that are never updated, and need no numbers.

    Returns:
        False where that one is of another kind, or has other parameters; nothing is taken then.

    Raises:
        ValueError: it is of this kind, but such a state no optimizer leaves; nothing is taken.
    """
    own = optimizer.state_dict()["param_groups"]
    groups = state.get("param_groups") if isinstance(state, dict) else None
    if not _are_alike(groups, own):
        return False
    ids = [number for group in groups for number in group["params"]]
    if not all(type(number) is int for number in ids) or len(set(ids)) < len(ids):
        raise ValueError("its parameters have no numbers of their own")
    places = {number: place for place, number in enumerate(ids)}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    stored = state.get("state")
    if not isinstance(stored, dict) or not all(type(number) is int and number in places for number in stored):
        raise ValueError("it has numbers for parameters that there are not")
    taken = {
        places[number]: _checked(values, parameters[places[number]], NAMES[type(optimizer)])
        for number, values in stored.items()
    }
    idle = {id(parameter) for parameter in idle}
    if taken and any(place not in taken and id(one) not in idle for place, one in enumerate(parameters)):
        return False  # it learned a part of the network: torch's fused SGD needs the momentum of all, or of none
    rates = [group["lr"] for group in groups]
    if not all(is_finite(rate) and rate >= 0 for rate in rates):
        raise ValueError("a learning rate is no number from 0 on")
    groups = [group | {"lr": float(rate)} for group, rate in zip(own, rates, strict=True)]
    optimizer.load_state_dict({"state": taken, "param_groups": groups})
    return True


def _are_alike(groups, own):
    """Whether they have the same options for as many parameters."""
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        return False
    if [group.keys() for group in groups] != [group.keys() for group in own]:
        return False
    sizes = [len(group["params"]) if isinstance(group["params"], list) else None for group in groups]
    return sizes == [len(group["params"]) for group in own]


def _checked(values, parameter, names):
    """The numbers for `parameter`, laid out in memory as it is."""
    if not isinstance(values, dict) or values.keys() != names:
        raise ValueError(f"a parameter has not {' and '.join(sorted(names))}")
    taken = {}
    for name, value in values.items():
        place = torch.zeros(()) if name == "step" else parameter
        if not isinstance(value, torch.Tensor) or value.shape != place.shape or not value.is_floating_point():
            raise ValueError(f"the {name} of a parameter is not of its shape")
        if not value.isfinite().all() or (name in NEVER_NEGATIVE and (value < 0).any()):
            raise ValueError(f"the {name} of a parameter has numbers that can't be")
        taken[name] = torch.empty_like(place, requires_grad=False).copy_(value)
    return taken
