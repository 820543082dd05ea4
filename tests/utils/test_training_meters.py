"""utils/training_meters.py, where tests/test_trainer.py and test_trainer_recall.py do not look."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.training_meters import TrainingMeters

NAMES = ("a", "b")
LOSS = st.floats(-1e3, 1e3, width=32)


def add(meters, pair, n):
    meters.add_losses([torch.tensor(value) for value in pair])
    generator = torch.Generator().manual_seed(n)
    score = torch.rand(6, 3, generator=generator)
    meters.count("roi", score, torch.randint(-1, 3, (6,), generator=generator))
    meters.count("rpn", score[:, :2], torch.randint(-1, 2, (6,), generator=generator))
    box = torch.rand(4, 4, generator=generator) + torch.tensor([0, 0, 1, 1])
    meters.count_found([box], [None], [box[:2] + 0.1])


def seen(meters):
    averages = {name: {key: float(v) for key, v in vars(meter).items()} for name, meter in meters.averages.items()}
    return averages, meters.rpn_cm.conf.tolist(), meters.roi_cm.conf.tolist(), meters.recall


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(LOSS, LOSS), min_size=1, max_size=8), st.data())
def test_it_goes_on_where_it_was(pairs, data):
    """Saved between any two steps, whatever was looked at before, they end with the same numbers to the last bit."""
    at = data.draw(st.integers(0, len(pairs)))
    whole, first, second = (TrainingMeters(NAMES, 3) for _ in range(3))
    for n, pair in enumerate(pairs):
        add(whole, pair, n)
    for n, pair in enumerate(pairs[:at]):
        add(first, pair, n)
        if data.draw(st.booleans()):
            seen(first)
    second.load_state_dict(first.state_dict())
    for n, pair in enumerate(pairs[at:], at):
        add(second, pair, n)
    assert str(seen(second)) == str(seen(whole))  # nan is what nan is


def test_a_step_that_is_taken_back():
    meters, expected = TrainingMeters(NAMES, 3), TrainingMeters(NAMES, 3)
    for one in (meters, expected):
        add(one, (1.0, 2.0), 0)
    before = meters.counted()
    meters.count("roi", torch.rand(5, 3), torch.zeros(5, dtype=torch.int64))
    meters.count_found([torch.ones(1, 4)], [None], [torch.ones(1, 4)])
    meters.take_back(before)
    assert str(seen(meters)) == str(seen(expected))


def test_what_several_processes_have_counted():
    """Each adds what came since its last step, of one length whatever it had, and gets the sum."""
    one, other, expected = (TrainingMeters(NAMES, 3) for _ in range(3))
    for meters in (one, other, expected):
        add(meters, (1.0, 2.0), 0)
    before = one.counted(), other.counted()
    for meters, numbers in ((one, (1, 2)), (other, ()), (expected, (1, 2))):  # the other has no image this time
        for n in numbers:
            add(meters, (1.0, 2.0), n)
    other.add_losses([torch.tensor(1.0), torch.tensor(2.0)])
    total = one.since(before[0], "cpu") + other.since(before[1], "cpu")
    for meters, own in zip((one, other), before, strict=True):
        meters.add_since(own, total)
    assert one.recall == other.recall == expected.recall
    for name in ("rpn_cm", "roi_cm"):
        assert (getattr(one, name).value() == getattr(expected, name).value()).all()
        assert (getattr(other, name).value() == getattr(expected, name).value()).all()


def test_what_is_not_finite_stays_out_of_the_means():
    meters = TrainingMeters(NAMES, 3)
    for pair in ((1.0, 2.0), (math.nan, 1.0), (3.0, math.inf), (3.0, 4.0)):
        meters.add_losses([torch.tensor(value) for value in pair])
    assert [meter.value()[0] for meter in meters.averages.values()] == [2.0, 3.0]


@pytest.mark.parametrize("wrong", [{}, None, {"averages": {}}, {"rpn": torch.zeros(3, 3)}, {"roi": "x"},
                                   {"n_found": []}, {"n_found": [1, 2]}, {"n_found": [[1, 2, 3]]}])  # fmt: skip
def test_a_state_that_is_none(wrong):
    meters = TrainingMeters(NAMES, 3)
    state = None if wrong is None else TrainingMeters(NAMES, 3).state_dict() | wrong if wrong else {}
    with pytest.raises((KeyError, TypeError, ValueError)):
        meters.load_state_dict(state)
