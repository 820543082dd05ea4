"""utils/file_tool.py: at any moment the old file or the new one."""

import errno
import os

import pytest

from tests.no_file import make_no_file
from utils.file_tool import remove_partials, whole_file


def write(path, text, **how):
    with whole_file(path, **how) as partial:
        partial.write_text(text)


def test_the_predecessor_is_kept(tmp_path):
    path, before = tmp_path / "last", tmp_path / "previous"
    write(path, "1", predecessor=before)
    assert not before.exists()
    write(path, "2", predecessor=before)
    write(path, "3", predecessor=before)
    assert (path.read_text(), before.read_text()) == ("3", "2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last", "previous"]


def test_also_on_a_file_system_without_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_the_predecessor_is_kept(tmp_path)


def test_the_order_of_what_a_power_cut_must_not_change(tmp_path, monkeypatch):
    """The content is on the disk before the name is, and the name before anybody is told."""
    calls = []

    def noted(name, real):
        return lambda *arguments: (calls.append(name), real(*arguments))[1]

    for name in ("fsync", "link", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    write(tmp_path / "x", "1")
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    write(tmp_path / "x", "2", predecessor=tmp_path / "y")
    assert calls == ["fsync", "link", "replace", "replace", "fsync"]
    calls.clear()
    write(tmp_path / "x", "3", durable=False)
    assert calls == ["replace"]


@pytest.mark.parametrize("call", ["fsync", "link", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_an_error_anywhere_leaves_the_old_file(tmp_path, monkeypatch, call, error):
    write(tmp_path / "last", "1")
    write(tmp_path / "last", "2", predecessor=tmp_path / "previous")

    def fail(*_):
        raise error

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(type(error)):
        write(tmp_path / "last", "3", predecessor=tmp_path / "previous")
    monkeypatch.undo()
    assert (tmp_path / "last").read_text() == "2"
    assert (tmp_path / "previous").read_text() in "12"


def test_what_writers_left_that_were_killed_is_removed(tmp_path):
    manager = whole_file(tmp_path / "x")
    partial = manager.__enter__()
    partial.write_text("half")
    (tmp_path / ".hidden").write_text("of somebody else")
    remove_partials(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [".hidden"]


@pytest.mark.parametrize("kind", ["pipe", "folder", os.devnull])
def test_what_is_no_file_is_not_replaced_by_one(tmp_path, kind):
    """Root may replace /dev/null, and then it is no device any more."""
    path = tmp_path / "x"
    make_no_file(path, kind)
    with pytest.raises(OSError, match="a folder, a pipe or a device"):
        write(path, "new")
    assert not path.is_file()
    assert [file.name for file in tmp_path.iterdir()] == ["x"]
