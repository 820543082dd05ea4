"""utils/option_values.py, where tests/utils/test_config.py does not look."""

import pytest

from utils.config import Config
from utils.errors import UserError
from utils.option_values import save_interval


@pytest.mark.parametrize(
    ("text", "steps", "seconds"),
    [
        ("500", 500, None),
        ("1", 1, None),
        ("30s", None, 30),
        ("10min", None, 600),
        ("10m", None, 600),
        ("2h", None, 7200),
    ],
)
def test_how_often_a_run_is_saved(text, steps, seconds):
    assert save_interval(text) == (steps, seconds)
    assert Config().parse({"save_every": text}).save_every == text


@pytest.mark.parametrize("text", ["0", "0min", "-5", "1.5h", "min", "", "5 apples", "5days", "1e3", "10000000000"])
def test_how_often_it_is_not(text):
    with pytest.raises(UserError, match=r"--save-every=.*: must be a number of steps, as 500, or a time"):
        Config().parse({"save_every": text})
