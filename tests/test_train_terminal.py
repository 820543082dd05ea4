"""What `train.py` writes to a terminal, to a pipe and to a log file; with --quiet, --verbose and --config."""

import os
import pty
import re
import subprocess
import sys

import pytest
import torch

from misc.make_toy_voc import make_toy_voc
from tests.test_train import ROOT, SMALL, run

TRAIN = ["train", *SMALL, "--voc-data-dir=toy", "--visdom=False", "--epoch=1", "--plot-every=1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=8, n_val=2, size=96)
    return folder


def in_a_terminal(folder, *words, **environment):
    """Run `python train.py WORDS` with a terminal for all its output; (exit code, what it wrote)."""
    ours, its = pty.openpty()
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | environment
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words], cwd=folder, stdin=its, stdout=its, stderr=its, env=env
    )
    os.close(its)
    written = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not chunk:
            break
        written += chunk
    os.close(ours)
    return process.wait(), written.decode()


@pytest.mark.parametrize("no_color", ["", "1"])
def test_in_a_terminal_the_bar_is_drawn_over_and_warnings_are_yellow(home, no_color):
    words = [*TRAIN, "--train-split=trainval", f"--name=terminal{no_color}"]
    code, written = in_a_terminal(home, *words, NO_COLOR=no_color)
    assert code == 0, written
    assert re.search(r"\rtrain: +\d+%\|.*\| *\d/5 \[\d\d:\d\d<\d\d:\d\d, .*(step/s|s/step).*loss=\d+\.\d+", written)
    assert ("\033[33mwarning:\033[0m" in written) is not bool(no_color)
    assert re.search(r"\033\[[0-9;]+m" if not no_color else r"(?<!\033\[)best mAP", written)
    assert not no_color or not re.search(r"\033\[[0-9;]+m", written)
    assert re.search(r"epoch 1: mAP \d\.\d{4}", written)


def test_an_error_is_red_in_a_terminal(home):
    code, written = in_a_terminal(home, "train", "--batchsize=2")
    assert code == 2
    assert written.startswith("\033[31merror:\033[0m --batchsize: unknown option")


def test_the_help_fits_a_terminal(home):
    code, written = in_a_terminal(home, "train", "--help=all", COLUMNS="90")
    assert code == 0
    assert max(map(len, written.splitlines())) <= 130  # the first lines are as they are; options are folded
    options = written[written.index("most used:") :].splitlines()
    assert max(map(len, options)) <= 90


@pytest.fixture(scope="module")
def piped(home):
    return run(home, *TRAIN, "--train-split=trainval", "--name=piped")


def test_in_a_pipe_there_are_lines_and_nothing_is_drawn_over(piped):
    assert not {"\r", "\033"} & {*piped.stdout, *piped.stderr}
    (bar,) = (line for line in piped.stderr.splitlines() if line.startswith("train: "))
    assert re.fullmatch(r"train: 5/5 \(100 %\), [\d.]+ (step/s|s/step), \d\d:\d\d taken, loss=\d+\.\d{3}", bar)
    assert "warning: 2 images are in both trainval and val" in piped.stderr
    assert "%|" not in piped.stderr


def test_quiet_says_results_and_warnings(home, piped):
    done = run(home, *TRAIN, "--train-split=trainval", "--name=quiet", "--quiet")
    assert [line.split(" ")[0] for line in done.stdout.splitlines()] == ["epoch", "best"]
    assert done.stdout.splitlines()[0] in piped.stdout  # the same run
    assert [line.split(" ")[0] for line in done.stderr.splitlines()] == ["warning:"]


def test_verbose_says_the_options_and_each_class(home):
    done = run(home, *TRAIN, "--name=verbose", "--verbose")
    assert f"options: {' '.join(SMALL[:1])}" in done.stdout or "--model=tiny" in done.stdout.split("options: ")[1]
    for name in ("circle", "triangle"):
        assert re.search(rf"^{name} +\d+ +\d+ ", done.stdout, re.MULTILINE)
    done = run(home, "train", "--quiet", "--verbose", code=2)
    assert done.stderr.startswith("error: --quiet and --verbose: ")


def test_config_brings_an_earlier_runs_options(home, tmp_path):
    first = ["--use-adam", "--lr=0.0005", "--seed=7", "--rpn-n-sample=64", "--anchor-scales=1,2,4", "--name=former"]
    run(home, *TRAIN, *first, "--port=8123")
    for where in ("runs/former", "runs/former/best.pth"):
        words = ["train", f"--config={where}", "--lr=0.001", "--visdom=False", "--name=again", "--overwrite"]
        run(home, *words, "--num-workers=0", "--test-num-workers=0")
        config = torch.load(home / "runs/again/last.pth", weights_only=True)["config"]
        taken = {name: config[name] for name in ("model", "min_size", "use_adam", "seed", "rpn_n_sample", "epoch")}
        assert taken == {"model": "tiny", "min_size": 96, "use_adam": True, "seed": 7, "rpn_n_sample": 64, "epoch": 1}
        assert config["anchor_scales"] == [1, 2, 4]
        assert config["lr"] == 0.001  # the command line is on top
        assert (config["port"], config["load_path"]) == (8097, None)
    done = run(home, "train", f"--config={tmp_path}", code=2)
    assert done.stderr == f"error: {tmp_path}/last.pth: no such checkpoint; check the path\n"


def test_config_of_a_run_is_enough_to_evaluate_its_checkpoint(home, piped):
    done = run(home, "eval", "--config=runs/piped", "--load-path=runs/piped/last.pth", "--test-num-workers=0")
    assert "val: 2 images" in done.stdout


@pytest.mark.parametrize("words", [["--help"], ["check", "--model=tiny", "--voc-data-dir=toy"]])
def test_when_nobody_reads_on_the_end_is_quiet(home, words):
    """As in `train.py check ... | head -1`."""
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *words], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.wait() == 141
    assert process.stderr.read() == b""
