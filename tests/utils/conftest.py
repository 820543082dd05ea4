"""Fixtures for tests against a visdom server."""

import pytest

from tests.running_visdom import running_server
from utils.vis_tool import Visualizer


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("visdom") / "server"


@pytest.fixture(scope="module")
def server(server_folder):
    with running_server(server_folder) as (port, process):
        yield port, process


@pytest.fixture
def new_visualizer():
    """Makes Visualizers that try again soon and write their notes into `.notes`; closes them at the end."""
    made = []

    def make(port, **kwargs):
        notes = []
        visualizer = Visualizer(port=port, notify=notes.append, **{"timeout": 1.0, "retry_every": 0.2, **kwargs})
        visualizer.notes = notes
        made.append(visualizer)
        return visualizer

    yield make
    for visualizer in made:
        visualizer.close(timeout=2)
