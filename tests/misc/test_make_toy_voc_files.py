"""The toy dataset's folder: same options, same bytes; others' files are kept; the command line."""

import subprocess
import sys
from pathlib import Path

import pytest

import misc.make_toy_voc as maker
from tests.misc.toy_files import read_all, read_objects
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"circle", "square", "triangle", "star", "cross", "ring"}


def test_same_options_same_bytes(tmp_path):
    for folder in ("a", "b"):
        maker.make_toy_voc(tmp_path / folder, 6, 4, size=64, seed=5)
    first = read_all(tmp_path / "a")
    assert read_all(tmp_path / "b") == first
    maker.make_toy_voc(tmp_path / "a", 6, 4, size=64, seed=5)
    assert read_all(tmp_path / "a") == first
    maker.make_toy_voc(tmp_path / "b", 6, 4, size=64, seed=6)
    assert read_all(tmp_path / "b")["JPEGImages/000001.jpg"] != first["JPEGImages/000001.jpg"]


def test_an_image_depends_on_its_split_and_index_alone(tmp_path):
    maker.make_toy_voc(tmp_path / "few", 2, 5, size=64)
    maker.make_toy_voc(tmp_path / "many", 7, 3, size=64)
    for few, many in [(1, 1), (2, 2), (3, 8), (4, 9), (5, 10)]:
        picture = [(tmp_path / d / f"JPEGImages/{i:06d}.jpg").read_bytes() for d, i in [("few", few), ("many", many)]]
        objects = [read_objects(tmp_path / d / f"Annotations/{i:06d}.xml") for d, i in [("few", few), ("many", many)]]
        assert picture[0] == picture[1]
        assert objects[0] == objects[1]
    assert len({data for name, data in read_all(tmp_path / "many").items() if name.endswith("jpg")}) == 10


def test_a_smaller_run_leaves_nothing_of_the_larger_one(tmp_path):
    maker.make_toy_voc(tmp_path / "again", 4, 4, size=64)
    maker.make_toy_voc(tmp_path / "again", 2, 0, size=64)
    maker.make_toy_voc(tmp_path / "fresh", 2, 0, size=64)
    assert read_all(tmp_path / "again") == read_all(tmp_path / "fresh")


def test_a_run_cut_short_can_be_repeated(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(maker, "voc_xml", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            maker.make_toy_voc(tmp_path / "cut", 2, 1, size=64)
    maker.make_toy_voc(tmp_path / "cut", 2, 1, size=64)
    maker.make_toy_voc(tmp_path / "fresh", 2, 1, size=64)
    assert read_all(tmp_path / "cut") == read_all(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("made_before", "name"),
    [(False, "notes.txt"), (False, "JPEGImages/000001.jpg"), (True, "notes.txt"), (True, "JPEGImages/000099.jpg")],
)
def test_files_of_others_are_refused_and_kept(tmp_path, made_before, name):
    if made_before:
        maker.make_toy_voc(tmp_path, 2, 1, size=64)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = read_all(tmp_path)
    with pytest.raises(UserError, match=name):
        maker.make_toy_voc(tmp_path, 1, 1, size=64)
    assert read_all(tmp_path) == before


def test_a_file_for_a_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is a file"):
        maker.make_toy_voc(tmp_path / "file", 1, 1, size=64)


@pytest.mark.parametrize("wrong", [{"n_train": -1}, {"n_val": -1}, {"size": 63}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(tmp_path, wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))}=.* or more"):
        maker.make_toy_voc(tmp_path / "new", **({"n_train": 1, "n_val": 1} | wrong))
    assert not (tmp_path / "new").exists()


# ---- command line


def command(*arguments: object) -> subprocess.CompletedProcess:
    line = [sys.executable, "misc/make_toy_voc.py", *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_command_writes_and_prints_a_table(tmp_path):
    run = command(f"--out={tmp_path}/voc", "--n-train=3", "--n-val=2", "--size=64", "--seed=7")
    assert (run.returncode, run.stderr) == (0, "")
    counts = maker.make_toy_voc(tmp_path / "same", 3, 2, size=64, seed=7)
    assert read_all(tmp_path / "voc") == read_all(tmp_path / "same")
    header, *rows = (line.split() for line in run.stdout.splitlines())
    assert header == ["train", "val"]
    table = {name: (int(train), int(val)) for name, train, val in rows}
    assert set(table) == {"images", "empty", "boxes", "truncated", "difficult"} | CLASSES
    assert table == {name: (counts["train"][name], counts["val"][name]) for name in table}


def test_command_refuses_an_unknown_flag(tmp_path):
    run = command(f"--out={tmp_path}/voc", "--n-trian=3")
    assert run.returncode == 2
    assert "--n-trian=3" in run.stderr
    assert not (tmp_path / "voc").exists()


def test_command_refuses_a_folder_of_others(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    run = command(f"--out={tmp_path}", "--n-train=1", "--n-val=1")
    assert (run.returncode, run.stdout) == (2, "")
    assert "notes.txt" in run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize("wrong", ["--size=10", "--n-tr=3", "--n-val=two"])
def test_wrong_arguments_end_with_code_2(tmp_path, monkeypatch, capsys, wrong):
    """In this process, which is faster; argparse leaves through SystemExit, the program's own checks by returning."""
    monkeypatch.setattr(sys, "argv", ["make_toy_voc.py", f"--out={tmp_path}/voc", wrong])
    with pytest.raises(SystemExit) as leave:
        sys.exit(maker.main())
    assert leave.value.code == 2
    assert capsys.readouterr().err
    assert not (tmp_path / "voc").exists()


def test_a_link_leads_nothing_elsewhere(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/000001.jpg").write_text("precious")
    (tmp_path / "new").mkdir()
    (tmp_path / "new/JPEGImages").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="holds JPEGImages, which this program did not write"):
        maker.make_toy_voc(tmp_path / "new", n_train=1, n_val=0)
    assert (tmp_path / "mine/000001.jpg").read_text() == "precious"
