"""utils/random_tool.py"""

import random

import numpy as np
import pytest
import torch

from utils.random_tool import random_state, seed_everything, set_random_state


def drawn():
    return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()


def test_numbers_decide():
    found = []
    for numbers in ((3,), (3, 0), (3, 1), (4, 0), (3,)):
        seed_everything(*numbers)
        found.append(drawn())
    assert found[0] == found[4]
    assert len({str(one) for one in found}) == 4


def test_a_state_comes_back_from_a_file(tmp_path):
    seed_everything(5)
    drawn()
    random.gauss(0, 1)  # keeps the second of a pair
    np.random.randn()
    torch.save(random_state(), tmp_path / "x")
    expected = drawn()
    seed_everything(6)
    set_random_state(torch.load(tmp_path / "x", weights_only=True))
    assert drawn() == expected


@pytest.mark.parametrize("wrong", [{}, {"torch": 3}, {"python": []}, {"numpy": None}])
def test_what_is_no_state(wrong):
    state = random_state() | wrong if wrong else {}
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        set_random_state(state)
