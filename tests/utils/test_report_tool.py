"""utils/report_tool.py and `train.py report`: of a real run, and of logs that somebody made."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from misc.make_toy_voc import make_toy_voc
from tests.page_reader import Page, check_markdown
from tests.test_train import run, run_anew
from utils import page_tool
from utils.errors import UserError
from utils.event_log import EventLog, read_events
from utils.plot_tool import one_line, shortened
from utils.report_tool import write_report
from utils.vis_windows import Picture

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--model=tiny", "--min-size=96", "--max-size=192", "--num-workers=0", "--test-num-workers=0"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run `runs/first` of 24 steps, evaluated, and its report."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=12, n_val=4, size=96)
    words = ["--voc-data-dir=toy", "--epoch=2", "--use-adam=True", "--plot-every=1", "--visdom=False", "--name=first"]
    run(folder, "train", *SMALL, *words)
    run(folder, "eval", "--load-path=runs/first/best.pth", "--voc-data-dir=toy", "--test-num-workers=0")
    done = run_anew(folder, "report", "--run=runs/first")
    assert done.stdout.strip() == "written to runs/first/report.html"
    return folder


def windows(folder):
    return {event["win"]: event["kind"] for event in read_events(folder)}


def test_a_real_run_is_all_in_its_report(home):
    page = Page((home / "runs/first/report.html").read_text())
    kinds = windows(home / "runs/first")
    assert {"total_loss", "test_map", "roi_cm", "rpn_cm", "gt_img", "pred_img", "labels", "log_text"} <= kinds.keys()
    for win in kinds:
        assert win in page.text
    assert page.all("h1") == [({}, "first")]
    n_pictures = sum(6 if win.startswith("followed_") else 1 for win, kind in kinds.items() if kind == "img")
    assert len(page.all("img")) == n_pictures
    assert "worst_1, epoch 2: " in page.text
    assert not [text for attrs, text in page.all("p") if attrs.get("class") == "note"]
    for name in ("circle", "--use-adam", "toy: train, evaluated on val", "best_eval_val.json", "COCO AP50"):
        assert name in page.text
    assert "--lr\n" not in page.text  # it has its default


def test_the_numbers_are_those_of_the_log(home):
    page = Page((home / "runs/first/report.html").read_text())
    for win in ("total_loss", "rpn_cls_loss", "test_map"):
        events = [event for event in read_events(home / "runs/first") if event["win"] == win]
        y = np.array([event["y"] for event in events])
        said = re.search(rf"{win}: last (\S+), lowest (\S+) at (\w+) (\d+), highest (\S+) at \w+ (\d+), (\d+) points",
                         page.text).groups()  # fmt: skip
        np.testing.assert_allclose([float(said[k]) for k in (0, 1, 4)], [y[-1], y.min(), y.max()], rtol=1e-5)
        assert said[2] == ("epoch" if win == "test_map" else "step")
        assert [int(said[k]) for k in (3, 5, 6)] == [events[y.argmin()]["x"], events[y.argmax()]["x"], len(y)]
    maps = [event["y"] for event in read_events(home / "runs/first") if event["win"] == "test_map"]
    cards = [text for attrs, text in page.all("div") if attrs.get("class") == "card"]
    assert cards[0] == f"best mAP{max(maps):.4f}epoch {np.argmax(maps) + 1}"
    assert cards[1] == f"last mAP{maps[-1]:.4f}epoch 2"
    assert cards[2] == "steps24epoch 2"
    result = json.loads((home / "runs/first/best_eval_val.json").read_text())
    rows = [re.findall(r"[^\x00]+", "\0".join(cells)) for cells in table_rows(page)]
    assert ["mAP, VOC area", f"{result['map']:.4f}"] in rows
    ap = dict(zip(result["label_names"], result["ap07"]))
    assert all([name, f"{value:.4f}"] in [[row[0], row[3]] for row in rows if len(row) > 9]
               for name, value in ap.items() if value is not None)  # fmt: skip


def table_rows(page):
    rows = [[]]
    for tag, _, text in page.elements:
        if tag in ("td", "th"):
            rows[-1].append(text)
        elif tag == "tr":
            rows.append([])
    return rows


def test_markdown_of_the_same_run(home):
    run(home, "report", "--run=runs/first", "--out=first.md")
    text = (home / "first.md").read_text()
    n_pictures = check_markdown(text)
    kinds = list(windows(home / "runs/first").values())
    assert n_pictures >= sum(kind == "img" for kind in kinds) + kinds.count("heatmap") + 6
    for win in windows(home / "runs/first"):
        assert win.replace("_", r"\_") in text or win.replace("_", "&#95;") in text


def test_runs_are_compared(home):
    made = home / "runs/second"
    with EventLog(made) as log:
        for x, y in ((1, 0.25), (2, 0.875)):
            log.step = 10 * x
            log.add("test_map", "point", x=x, y=y)
            log.add("class_ap", "bars", names=["circle", "comet"], values=[0.5, None])
    done = run(home, "report", "--run=runs/first,runs/second", "--out=both.html")
    assert done.stdout.strip() == "written to both.html"
    page = Page((home / "both.html").read_text())
    assert [row[:3] for row in table_rows(page) if row][2][:3] == ["second", "0.8750 (epoch 2)", "0.8750 (epoch 2)"]
    assert "second: last 0.875, lowest 0.25 at epoch 1, highest 0.875 at epoch 2, 2 points" in page.text
    assert "first: last" in page.text
    legends = [text for _, text in page.all("text")]
    assert {"first", "second", "comet", "best 0.8750, epoch 2"} <= {*legends}


def test_what_the_run_was_made_with(home, tmp_path):
    """The versions, the device and the command; of a run that went on each of them."""
    page = Page(write_report([home / "runs/first"], tmp_path / "one.html").read_text())
    rows = {row[0]: row[1] for row in table_rows(page) if len(row) == 2}
    assert torch.__version__.startswith(rows["torch"].partition("+")[0])
    assert rows["command"].startswith("python train.py train ")
    facts = json.loads((home / "runs/first/run.json").read_text())
    assert rows["device"] == facts["begun"][0]["device"]
    facts["begun"].append(facts["begun"][0] | {"torch": "9.9"})
    recorded(tmp_path / "again", ("loss", "point", {"x": 1, "y": 0.5}))
    (tmp_path / "again/run.json").write_text(json.dumps(facts))
    page = Page(write_report([tmp_path / "again"], tmp_path / "two.html").read_text())
    rows = {row[0]: row[1] for row in table_rows(page) if len(row) == 2}
    assert rows["torch"] == f"{facts['begun'][0]['torch']}; 9.9"
    assert rows["device"] == facts["begun"][0]["device"]


def test_a_mistake_is_one_line_and_exit_code_2(home):
    done = run(home, "report", "--out=a.md", code=2)
    assert done.stderr == "error: --run is missing: name the folder of a run, such as runs/NAME; several with commas\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("runs", "out", "told"),
    [(["one"], None, r"--run=one: no such folder; did you mean runs/one\?"),
     (["file"], None, "--run=file: is a file; name its folder"), (["runs"], None, "runs/events.jsonl: no such file"),
     (["runs/one", "runs"], None, "runs/events.jsonl: no such file"),
     (["runs/one"], "a.pdf", r"--out=a\.pdf: .*; end it in \.html or \.md"),
     (["runs/one"], "file/a.html", "--out=file/a.html: can't be written"),
     (["runs/one"], "folder.md", "--out=folder.md: can't be written .it is a folder")],
)  # fmt: skip
def test_what_can_not_be_read_or_written(tmp_path, monkeypatch, runs, out, told):
    monkeypatch.chdir(tmp_path)
    recorded(tmp_path / "runs/one", ("loss", "point", {"x": 1, "y": 0.5}))
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.md").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=told):
        write_report(runs, out)
    assert sorted(tmp_path.rglob("*")) == before


def recorded(folder, *events):
    """A log of (window, kind, content)."""
    with EventLog(folder) as log:
        for step, (win, kind, content) in enumerate(events):
            log.step = step
            log.add(win, kind, **content)
    return folder


def page_of(folder, **options):
    return Page(write_report([folder], **options).read_text())


@pytest.mark.parametrize(
    "content",
    [{"kind": "point", "x": "1", "y": 2}, {"kind": "point", "y": 2}, {"kind": "point", "x": None, "y": 1},
     {"kind": "point", "x": 1, "y": float("inf")}, {"kind": "point", "x": 1, "y": 1, "line": 3},
     {"kind": "img", "file": 3}, {"kind": "text"}, {"kind": "log", "text": None}, {"kind": ["a"]},
     {"kind": "heatmap", "matrix": [[1, 2]], "names": ["a"]}, {"kind": "heatmap", "matrix": [[-1]], "names": []},
     {"kind": "bars", "names": ["a"], "values": []}, {"kind": "bars", "names": [1], "values": [1]},
     {"kind": "curves", "names": ["a"], "x": [[1]], "y": [[1, 2]]},
     {"kind": "curves", "names": ["a"], "x": [], "y": []},
     {"kind": "text", "text": "", "time": "now"}, {"kind": "text", "text": "", "step": -1}],
    ids=str,
)  # fmt: skip
def test_a_foreign_log_is_one_line(tmp_path, content):
    good = {"time": 1.5, "step": 1, "win": "a", "kind": "text", "text": "b"}
    lines = [good, good | content] if "text" in content else [good, {**dict(list(good.items())[:4]), **content}]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"events\.jsonl: line 2 .*; this is not the log of a run"):
        write_report([tmp_path])
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("text", ["", '{"time": 1, "step": 1, "win'])
def test_a_log_that_has_not_begun(tmp_path, text):
    (tmp_path / "events.jsonl").write_text(text)
    with pytest.raises(UserError, match="holds no events yet"):
        write_report([tmp_path])


def test_a_run_that_goes_on(tmp_path):
    recorded(tmp_path, ("loss", "point", {"x": 1, "y": 0.5}))
    with (tmp_path / "events.jsonl").open("a") as file:
        file.write('{"time": 5, "step"')
    assert "loss: last 0.5," in page_of(tmp_path).text


def test_pictures_that_can_not_be_shown_are_told(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8")
    folder = tmp_path / "run"
    files = ["pictures/none.jpg", "../secret.jpg", "/etc/hostname", "broken.jpg", "", "a\0b", "events.jsonl"]
    recorded(folder, *((f"win_{k}", "img", {"file": file}) for k, file in enumerate(files)))
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    page = page_of(folder)
    assert page.all("img") == []
    notes = [text for attrs, text in page.all("p") if attrs.get("class") == "note"]
    assert [note.split(",")[0] for note in notes] == [f"win_{k}" for k in range(len(files))]


def test_a_followed_image_is_a_strip_from_the_first_to_the_last(tmp_path):
    with EventLog(tmp_path) as log:
        for step in range(0, 500, 10):
            log.step = step
            while log._waiting:  # of a slow disk some would be left out
                pass
            log.add_picture("followed_1", Picture(np.full((8, 16, 3), step // 2, np.uint8)), f"step {step}")
            log.add_picture("worst_1", Picture(np.full((8, 16, 3), step // 2, np.uint8)), f"{step} missed")
    shown = [attrs["alt"] for attrs, _ in page_of(tmp_path).all("img")]
    assert shown == ["step 0", "step 100", "step 200", "step 290", "step 390", "step 490", "worst_1, 490 missed"]


def test_the_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(page_tool, "MAX_SIZE", 60_000)
    monkeypatch.setattr(page_tool, "KEPT_FREE", 10_000)
    rng = np.random.default_rng(0)
    with EventLog(tmp_path) as log:
        for k in range(12):
            log.add_picture(f"img_{k}", Picture(rng.integers(0, 255, (100, 100, 3), np.uint8)))
        log.add("log_text", "log", text="the end")
    for name in ("a.html", "a.md"):
        path = write_report([tmp_path], tmp_path / name)
        assert 30_000 < path.stat().st_size < 70_000
        text = path.read_text()
        assert "left out" in text
        assert "the end" in text


VOC = {"label_names": ["a"], "map07": 0.5, "map": 0.5, "n_gt": [1], "n_det": [1], "ap07": [0.5], "ap": [0.5]}
LATE = json.dumps(VOC | {"curves": {"curves": [{"recall": [10**400], "precision": [1]}], "best": []}})


def test_what_is_damaged_beside_the_log_is_told(tmp_path):
    recorded(tmp_path, ("loss", "point", {"x": 1, "y": 0.5}), ("odd", "hologram", {"of": "a later version"}))
    (tmp_path / "best.pth").write_bytes(b"no checkpoint")
    for name, content in (("a", "["), ("b", "[]"), ("c", "{}"), ("d", '{"label_names": 3}'), ("e", LATE)):
        (tmp_path / f"best_eval_{name}.json").write_text(content)
    notes = [text for attrs, text in page_of(tmp_path).all("p") if attrs.get("class") == "note"]
    assert len(notes) == 7
    assert "best.pth" in notes[0]
    assert "odd: of a kind that this version does not know (hologram)" in notes


HOSTILE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["<script>alert(1)</script>", "</pre></details><img src=http://a.b/c onerror=x>", "]]>", "a|b\n# c",
                     "![x](http://a.b/c.png)", "[p0]: http://a.b", "<!--", "<![CDATA[", "&lt;b&gt;", '"><svg onload=x>',
                     "`x`", "http://a.b", "www.a.b", "\ud800", "\0", "$x$", "https://a.b\n\n![y](http://a.b)",
                     "<table><tr><td>a", "</td></table>", "<td style='x:url(http://a.b)'>", "1. a", "\\", "é日本"]),
)  # fmt: skip


@settings(max_examples=8, deadline=None)
@given(names=st.lists(HOSTILE, min_size=1, max_size=4, unique=True), win=HOSTILE, text=HOSTILE,
       y=st.lists(st.none() | st.floats(-1e299, 1e299), min_size=1, max_size=30))  # fmt: skip
def test_whatever_is_in_a_log_is_text_in_the_report(tmp_path_factory, names, win, text, y):
    folder = tmp_path_factory.mktemp("hostile")
    n = len(names)
    events = [(win, "point", {"x": k, "y": v, "line": names[k % n] or "-"}) for k, v in enumerate(y)]
    events += [(win, "text", {"text": text}), (win, "log", {"text": text}), (win, "img", {"file": text}),
               (win, "heatmap", {"matrix": np.eye(n).tolist(), "names": names}),
               (win, "bars", {"names": names, "values": (y * n)[:n]}),
               (win, "curves", {"names": names, "x": [y] * n, "y": [y[::-1]] * n})]  # fmt: skip
    lines = [
        {"time": 1.5, "step": k, "win": win, "kind": kind, **content} for k, (_, kind, content) in enumerate(events)
    ]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))  # with escapes: any text
    page = page_of(folder)
    assert one_line(win) in page.text
    drawn = [text for _, text in page.all("text")]
    for name in filter(one_line, names):  # at a row and at a column of the matrix
        assert drawn.count(shortened(name, 20)) >= 2
    if not re.search("[<&]", text):
        assert one_line(text) in one_line(page.text)
    check_markdown(write_report([folder], folder / "a.md").read_text())
