"""utils/index_tool.py: nothing is read twice, unless it changed."""

import json
import os

import pytest

from utils.errors import UserError
from utils.index_tool import FileIndex


class Reader:
    """Reads a text, and counts how often it is asked."""

    def __init__(self):
        self.n = 0

    def __call__(self, path):
        self.n += 1
        text = path.read_text()
        if text == "bad":
            raise UserError(f"{path}: bad")
        return {"text": text}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "é.txt"
    path.write_text("one")
    return path


def test_what_is_known_is_not_read_again(tmp_path, file):
    read = Reader()
    for n in (1, 1):
        index = FileIndex(tmp_path / "deep/index.json")
        assert index.get("text", file, read) == index.get("text", file, read) == {"text": "one"}
        assert read.n == n
        index.save()
    assert index.get("other", file, lambda path: 7) == 7  # the same file, read for another purpose


@pytest.mark.parametrize("change", ["size", "time"])
def test_what_changed_is_read_again(tmp_path, file, change):
    read = Reader()
    index = FileIndex(tmp_path / "index.json")
    index.get("text", file, read)
    index.save()
    file.write_text("two" if change == "time" else "more")
    if change == "time":  # clocks of file systems may be coarse
        os.utime(file, ns=(5, file.stat().st_mtime_ns + 1))
    else:
        os.utime(file, ns=(5, 5))
    again = FileIndex(tmp_path / "index.json")
    assert again.get("text", file, read) == {"text": file.read_text()}
    assert read.n == 2


def test_errors_are_not_kept(tmp_path, file):
    read = Reader()
    index = FileIndex(tmp_path / "index.json")
    file.write_text("bad")
    for n in (1, 2):
        with pytest.raises(UserError):
            index.get("text", file, read)
        assert read.n == n
    file.unlink()
    with pytest.raises(FileNotFoundError):
        index.get("text", file, read)


def test_files_that_are_gone_are_forgotten(tmp_path, file):
    index = FileIndex(tmp_path / "index.json")
    index.get("text", file, Reader())
    index.save()
    file.unlink()
    other = tmp_path / "other.txt"
    other.write_text("x")
    index.get("text", other, Reader())
    index.save()
    _, body = (tmp_path / "index.json").read_text().split("\n")
    assert [key.partition(" ")[2] for key in json.loads(body)] == [str(other)]


DAMAGES = {
    "empty": lambda whole: b"",
    "not ours": lambda whole: b"[]",
    "cut": lambda whole: whole[:-1],
    "without its end of line": lambda whole: whole.replace(b"\n", b""),
    "another version": lambda whole: whole.replace(b"version ", b"version 1", 1),
    "another value": lambda whole: whole.replace(b'"one"', b'"two"'),
    "a value of another kind": lambda whole: whole.replace(b'{"text": "one"}', b"null"),
    "a bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_index_is_as_none(tmp_path, file, damage):
    path = tmp_path / "index.json"
    index = FileIndex(path)
    index.get("text", file, Reader())
    index.save()
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    index = FileIndex(path)
    read = Reader()
    assert index.get("text", file, read) == {"text": "one"}
    assert read.n == 1
    index.save()
    read = Reader()
    FileIndex(path).get("text", file, read)
    assert read.n == 0


def test_many_at_once(tmp_path):
    """Those that can't be read are left to `get`."""
    paths = [tmp_path / f"{k}.txt" for k in range(40)]
    for k, path in enumerate(paths):
        path.write_text("bad" if k == 7 else "one")
    index, read = FileIndex(tmp_path / "index.json"), Reader()
    index.fill("text", paths, read, "texts")
    assert read.n == 40
    for k, path in enumerate(paths):
        if k != 7:
            assert index.get("text", path, read) == {"text": "one"}
    assert read.n == 40
    with pytest.raises(UserError):
        index.get("text", paths[7], read)


def test_where_nothing_can_be_written(tmp_path, file):
    (tmp_path / "file").write_text("")
    index = FileIndex(tmp_path / "file/index.json")
    assert index.get("text", file, Reader()) == {"text": "one"}
    index.save()
    FileIndex().save()


def test_each_folder_has_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert FileIndex.of("a").path == FileIndex.of(tmp_path / "a").path != FileIndex.of("b").path
    assert FileIndex.of("a").path.parent == tmp_path / "faster-rcnn"
