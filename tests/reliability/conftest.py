"""Data, and a run that nothing disturbs."""

import pytest

from misc.make_toy_voc import make_toy_voc
from tests.disturbed import TRAIN
from tests.run_server import the_runs


@pytest.fixture(scope="module")
def runs():
    return the_runs()


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """A folder with a toy dataset and a run of 6 epochs, of 4 steps each, that nothing disturbed."""
    home = tmp_path_factory.mktemp("whole")
    make_toy_voc(home / "toy", n_train=8, n_val=3, size=96)
    runs.run(home, [*TRAIN, "--epoch=6", "--name=short"])
    return home


@pytest.fixture
def home(whole, tmp_path):
    """A folder with the same data."""
    (tmp_path / "toy").symlink_to(whole / "toy")
    return tmp_path
