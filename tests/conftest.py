"""Fixtures that more than one test module uses."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from utils import terminal_tool

os.environ.setdefault("VISDOM", "on")  # a test that wants a server starts it, the others' commands none
os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is loaded, see utils/startup.py

# No test has a clock: other programs may take a machine's cores for seconds.
settings.register_profile("no clock", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no clock")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real test data beside the repository; tests that take it skip where it is absent."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real test data at {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """What commands keep of the data that they read shall not stay behind."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def _usual_verbosity(monkeypatch):
    """A command that a test ran with --quiet in this process shall not keep the next test's quiet too."""
    monkeypatch.setattr(terminal_tool, "_level", terminal_tool.USUAL)
