"""`train --resume`: a run that was ended at any moment goes on, in the same curves, to the same end."""

import signal

import pytest
import torch

from misc.make_toy_voc import make_toy_voc
from tests.run_server import the_runs
from tests.running_visdom import Page, running_server
from tests.test_train import SMALL, run
from utils.event_log import read_events
from utils.report_tool import write_report

BESIDE = ["--num-workers=0", "--test-num-workers=0"]  # options that a run does not take from another
TRAIN = ["train", *SMALL, "--use-adam=True", "--plot-every=2", "--eval-every=2", "--epoch=6"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a toy dataset and a run of six epochs that nothing stopped."""
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=8, n_val=3, size=96)
    run(folder, *TRAIN, "--voc-data-dir=toy", "--visdom=False", "--name=whole")
    return folder


def points(folder, win):
    return [(event["x"], event["y"]) for event in read_events(folder) if event["win"] == win]


def test_a_killed_run_goes_on_to_the_same_weights_in_the_same_curves(home):
    folder = home / "runs/killed"
    words = [*TRAIN, "--voc-data-dir=toy", "--visdom=on", "--name=killed", "--env=killed", "--resume=auto"]
    with running_server(home / "server") as (port, _):
        killed = the_runs().start(home, [*words, f"--port={port}"])
        killed.wait_for((folder / "last.pth").exists)  # the first epoch is over
        n = len((folder / "events.jsonl").read_bytes())
        killed.wait_for(lambda: len((folder / "events.jsonl").read_bytes()) > n)
        assert killed.kill() != 0, killed.text()
    with running_server(home / "another_server") as (port, _):  # which knows nothing of the run
        done = run(home, *words, f"--port={port}")
        assert "going on from runs/killed/last.pth: epoch" in done.stdout
        page = Page(port, "killed")
        for win in ("total_loss", "test_map", "learning_rate"):
            expected = points(home / "runs/whole", win)
            assert points(folder, win) == expected
            assert [*zip(*page.series(win), strict=True)] == expected
    ends = [torch.load(home / "runs" / name / "last.pth", weights_only=True) for name in ("whole", "killed")]
    assert ends[0]["model"].keys() == ends[1]["model"].keys()
    assert all(torch.equal(ends[0]["model"][name], ends[1]["model"][name]) for name in ends[0]["model"])
    assert ends[0]["other_info"] == ends[1]["other_info"]
    report = write_report([folder], folder / "report.md").read_text()
    assert "killed" in report


def test_a_finished_run_goes_on_for_more_epochs_with_its_own_options(home):
    run(home, *TRAIN, "--voc-data-dir=toy", "--visdom=False", "--name=short", "--epoch=2", "--env=mine")
    done = run(home, "train", *BESIDE, "--resume=runs/short", "--visdom=False", "--epoch=6")
    assert "6 epochs" in done.stdout
    assert points(home / "runs/short", "total_loss") == points(home / "runs/whole", "total_loss")
    kept = torch.load(home / "runs/short/last.pth", weights_only=True)
    assert (kept["config"]["env"], kept["config"]["epoch"]) == ("mine", 6)


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--resume=runs/whole"], "--resume=runs/whole: has had its 6 epochs; for more give --epoch=7"),
     (["--resume=runs/whole", "--epoch=7", "--batch-size=4"], "but 6 epochs of these data have 12"),
     (["--resume=runs/whole", "--config=runs/whole"], "--config and --resume"),
     (["--resume=runs/whole/best.pth"], "goes on from a run's last.pth"),
     (["--resume=runs/none/last.pth"], "there is no runs/none/last.pth"),
     (["--resume=auto"], "--resume=auto: goes on with the run of --name")],
)  # fmt: skip
def test_a_mistake_is_one_line_and_loses_nothing(home, words, told):
    before = (home / "runs/whole/events.jsonl").read_bytes()
    done = run(home, "train", *BESIDE, "--visdom=False", *words, code=2)
    assert told in done.stderr.splitlines()[-1]
    assert (home / "runs/whole/events.jsonl").read_bytes() == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_stopped_keeps_what_it_learned(home, tmp_path, how):
    words = ["train", *SMALL, f"--voc-data-dir={home}/toy", "--epoch=1000", "--eval-every=1000", "--visdom=False"]
    run = the_runs().start(tmp_path, [*words, "--plot-every=2", "--name=stopped"], anew=how == signal.SIGINT)
    run.wait_for((tmp_path / "runs/stopped/last.pth").exists)  # until the first epoch is over
    run.send(how)
    assert run.wait() == 128 + how
    assert "Traceback" not in run.stderr
    assert "--resume=runs/stopped goes on from there" in run.stderr
    kept = torch.load(tmp_path / "runs/stopped/last.pth", weights_only=True)["other_info"]
    assert f"stopped after step {kept['step']:,} of" in run.stderr
    assert kept["step"] == 4 * kept["epoch"] + kept["batch"] >= 4
