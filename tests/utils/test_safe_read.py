"""utils/safe_read.py and who reads through it: pipes, devices, sizes, archives, links; and an error's one line."""

import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from tests.no_file import make_no_file
from utils import terminal_tool
from utils.detections import Names, read_detections
from utils.errors import UserError
from utils.event_log import FILE, read_events
from utils.image_tool import image_sizes, read_image
from utils.json_tool import read_json
from utils.label_names import parse_label_names
from utils.proposal_tool import read_proposals, write_proposals
from utils.safe_read import is_within, read_bounded
from utils.vis_tool import Visualizer

READERS = {
    "bytes": read_bounded,
    "json": read_json,
    "detections": lambda path: read_detections(path, Names(["a"], {"cat": 1})),
    "proposals": lambda path: read_proposals([path], ["a"]),
    "size": image_sizes,
    "picture": read_image,
    "events": lambda path: read_events(path.parent),
}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_file_is_one_line(tmp_path, kind, what):
    path = tmp_path / (FILE if kind == "events" else "x.json")
    make_no_file(path, what)
    with pytest.raises(IsADirectoryError if (kind, what) == ("bytes", "folder") else UserError) as error:
        READERS[kind](path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["bytes", "json", "events", "names"])
def test_absurd_sizes_are_refused_before_they_are_read(tmp_path, kind):
    path = tmp_path / (FILE if kind == "events" else "x.json")
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no place on the disk
    with pytest.raises(UserError, match=r"x\.json: .*|jsonl: has 1,099,512 MB, of .* at most; choose another file"):
        {**READERS, "names": parse_label_names}[kind](path)


def test_a_small_file_takes_little_memory_however_large_it_may_be(tmp_path):
    (tmp_path / "x.json").write_text("[1]")
    tracemalloc.start()
    try:
        assert read_json(tmp_path / "x.json") == [1]
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_archives_of_proposals(tmp_path):
    path = tmp_path / "p.npz"
    boxes = np.zeros((3, 4), np.float32)
    write_proposals(path, ["x"], [(boxes, boxes[:, 0])])
    np.testing.assert_array_equal(read_proposals([path], ["x"])[0], boxes)
    np.savez_compressed(path, **{"bbox/x": np.zeros((30_000_000, 4), np.float32)})
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="not a file of proposals"):
        read_proposals([path], ["x"])

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "pwned"),)

    np.savez(path, **{"bbox/x": np.array([Evil()], dtype=object)})
    np.save(tmp_path / "array.npy", np.array([Evil()], dtype=object))
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Evil()))
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(
        118
    )
    with zipfile.ZipFile(tmp_path / "absurd.npz", "w") as archive:
        archive.writestr("bbox/x.npy", header)
    for name in ("p.npz", "array.npy", "pickle.npz", "absurd.npz"):
        with pytest.raises(UserError, match="not a file of proposals"):
            read_proposals([tmp_path / name], ["x"])
    assert not (tmp_path / "pwned").exists()


def test_within(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    (tmp_path / "run" / "circle").symlink_to(tmp_path / "run" / "circle")
    for name, inside in (("a", True), ("b/../a", True), ("../a", False), ("/etc/passwd", False), ("link/a", False),
                         ("link/run/a", True), ("a\0", False), ("../run2/a", False)):  # fmt: skip
        assert is_within(tmp_path / "run" / name, tmp_path / "run") == inside, name


def jpeg(path, colour):
    from PIL import Image

    Image.new("RGB", (8, 8), colour).save(path, "JPEG")


def test_a_log_of_events_shows_no_file_outside_of_its_run(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    jpeg(tmp_path / "private.jpg", "red")
    jpeg(run / "own.jpg", "blue")
    os.mkfifo(run / "pipe.jpg")
    (run / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (run / "link.jpg").symlink_to(tmp_path / "private.jpg")
    names = ["own.jpg", "../private.jpg", str(tmp_path / "private.jpg"), "link.jpg", "pipe.jpg", "picture.png", "a\0b"]
    events = [{"win": f"w{k}", "kind": "img", "file": name} for k, name in enumerate(names)]
    shown = {}
    vis = Visualizer(enabled=False)
    vis._add_picture = lambda win, picture, caption: shown.update({win: picture.jpeg()})
    vis.replay(events, run)
    vis.close()
    assert shown == {"w0": (run / "own.jpg").read_bytes()}


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb", "a\x1b[2Jb", "a\u2028b", "a\x85b", "a\u202eb", "a\0b"])
def test_what_a_file_says_is_one_line_of_an_error(text, capsys):
    line = str(UserError(f"x.json: {text}; correct it"))
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.startswith("x.json: a\\")
    assert line.endswith("b; correct it")
    for speak in (terminal_tool.say, terminal_tool.say_result, terminal_tool.warn, terminal_tool.tell):
        speak(f"{text}\tand\nanother line")
        said = "".join(capsys.readouterr())
        assert said.replace("\n", "").replace("\t", "").isprintable()
        assert "\tand\nanother line" in said
