"""utils/command_options.py and utils/help_tool.py: the help of a command lists what that command reads.

What is read is derived twice: from the source (all that a command may read) and from runs (what it did read).
"""

import ast
import re
import sys
from dataclasses import fields
from pathlib import Path

import fire
import pytest

import train
from misc.make_toy_voc import make_toy_voc
from model.zoo import NETWORK_OPTIONS
from utils.cli_tool import run_command
from utils.command_options import ALL, COMMAND_OPTIONS, options_of, refuse_unread
from utils.config import Config, opt
from utils.errors import UserError
from utils.help_tool import command_help
from utils.option_set import GROUPS

ROOT = Path(__file__).resolve().parents[2]
READERS = ("train.py", "trainer.py", "model/start.py", "data/start.py",
           *(f"utils/{name}.py" for name in ("plan_tool", "dashboard_tool", "command_options", "resume_tool",
                                             "memory_tool", "predict_tool")))  # fmt: skip
NAMES = {f.name for f in fields(Config)}
# What the code reads without an attribute of its name, and why.
DYNAMIC = {"architecture_options": NETWORK_OPTIONS, "read_options": ("config",)}
WITHOUT_EFFECT = {"propose": ("score_thresh",)}  # of the detections that it does not make
DIRECTORY = {"data_dir": ("data", "voc_data_dir", "coco_data_dir")}


def functions():
    """Name → (options that a function reads itself, names that it mentions), of all functions that get a Config.

    A class is a function whose body is that of all its methods.
    """
    found = {}
    for path in READERS:
        tree = ast.parse((ROOT / path).read_text())
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                parts = list(ast.walk(node))
                mentioned = {part.id for part in parts if isinstance(part, ast.Name)}
                read = {part.attr for part in parts if isinstance(part, ast.Attribute) and _is_config(part.value)}
                read |= {part.left.value for part in parts if isinstance(part, ast.Compare)
                         and isinstance(part.left, ast.Constant)}  # fmt: skip
                for name in read & DIRECTORY.keys():
                    read.update(DIRECTORY[name])
                found[node.name] = (read & NAMES) | {*DYNAMIC.get(node.name, ())}, mentioned
    found["check_schedule"] = {"schedule", "proposals", "load_path", "finetune"}, set()
    return found


def _is_config(node):
    return (isinstance(node, ast.Name) and node.id in ("opt", "config")) or (
        isinstance(node, ast.Attribute) and node.attr == "config"
    )


def read_in_source(command):
    """All that the function of `command`, and what it calls, may read."""
    known = functions()
    to_do, seen, options = [train.COMMANDS[command].__name__], set(), set()
    while to_do:
        name = to_do.pop()
        if name in known and name not in seen:
            seen.add(name)
            options |= known[name][0]
            to_do += known[name][1]
    return options


@pytest.mark.parametrize("command", train.COMMANDS)
def test_what_the_help_lists_is_read_in_the_source(command):
    assert command in COMMAND_OPTIONS, "utils/command_options.py: say what it reads"
    assert set(options_of(command).names) - set(options_of(command).needed) <= read_in_source(command)


def test_all_that_train_reads_is_listed():
    assert read_in_source("train") - set(options_of("train").names) <= {"use_chainer"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    make_toy_voc(folder / "toy", n_train=4, n_val=2, size=96)
    return folder


def test_what_commands_read_when_they_run_is_what_they_list(home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    read = set()

    def recording(self, name):
        if name in NAMES | DIRECTORY.keys():
            caller = Path(sys._getframe(1).f_code.co_filename).name
            if caller not in ("config.py", "option_set.py", "dataclasses.py"):  # checks of all, and copies of all
                read.update(DIRECTORY.get(name, (name,)))
        return object.__getattribute__(self, name)

    data, loaders = ["--voc-data-dir=toy"], ["--num-workers=0", "--test-num-workers=0"]
    small = ["--model=tiny", "--min-size=96", "--max-size=192"]
    load = "--load-path=runs/a/last.pth"
    runs = [
        ["train", *data, *loaders, *small, "--max-iter=1", "--visdom=False", "--name=a", "--draw=1"],
        ["train", *data, *loaders, load, "--max-iter=1", "--visdom=False", "--name=b"],
        ["train", *data, *loaders, *small, "--epoch=1", "--schedule=alternating", "--visdom=False"],
        ["check", *data, *small],
        ["eval", *data, load, "--test-num-workers=0", "--save-detections=found.json"],
        ["eval", *data, "--detections=found.json"],
        ["predict", load, "--image=toy/JPEGImages/000001.jpg"],
        ["propose", *data, load, "--test-num-workers=0"],
        ["models", "--model=tiny", "--device=cpu"],
    ]
    monkeypatch.setattr(Config, "__getattribute__", recording)
    for words in runs:
        opt.__dict__.update(Config().__dict__)
        opt.given = frozenset()
        read.clear()
        assert run_command(train.COMMANDS, words, fire) == 0, capsys.readouterr().err
        own = options_of(words[0])
        assert read
        assert sorted(read - {*own.names, *own.also, *WITHOUT_EFFECT.get(words[0], ())}) == [], words
    monkeypatch.undo()
    opt.__dict__.update(Config().__dict__)
    opt.given = frozenset()


@pytest.mark.parametrize("command", COMMAND_OPTIONS)
def test_the_long_help_lists_each_option_once_and_the_short_one_counts_the_rest(command):
    long = command_help(command, train.COMMANDS[command], all_options=True)
    short = command_help(command, train.COMMANDS[command])
    listed = [line.split()[0] for line in long.splitlines() if line.startswith("  --")]
    assert sorted(listed) == sorted("--" + name.replace("_", "-") for name in options_of(command).names)
    some = [line.split()[0] for line in short.splitlines() if line.startswith("  --")]
    assert listed[: len(some)] == some
    assert f"\n{len(listed) - len(some)} more: python train.py {command} --help=all" in short
    titles = re.findall(r"^(.*):$", long, re.MULTILINE)
    assert [title for title in titles if title in GROUPS] == [group for group in GROUPS if group in titles]
    if options_of(command).needed:
        assert titles[0] == "needed"


def test_each_number_has_a_unit():
    """What is counted or measured is in the text, for there is no other place to look."""
    units = (
        "pixels|processes|stages|steps|epochs|passes|images|proposals|anchors|RoIs|boxes|strides|IoU|σ of|factor|share|"
        "pictures|probability|weight of|norm of|number|short sides|port|frame|score|height / width|at most"
    )
    for f in fields(Config):
        if any(kind in str(f.type) for kind in ("int", "float")):
            assert re.search(units, f.metadata["help"]), f.name


@pytest.mark.parametrize(
    ("command", "name", "line"),
    [
        ("eval", "lr", "--lr: eval does not read it, but train does; leave it out"),
        ("eval", "num-workers", "--num-workers: eval does not read it, but train does; did you mean --test-num-work"),
        ("predict", "proposals", "--proposals: predict does not read it, but train and eval do; leave it out"),
        ("train", "image", "--image: train does not read it, but predict does; "),
        ("models", "seed", "--seed: models does not read it, but train does; leave it out"),
    ],
)
def test_an_option_of_another_command_is_refused(command, name, line):
    with pytest.raises(UserError) as error:
        refuse_unread(command, [name])
    assert str(error.value).startswith(line)


def test_check_takes_the_words_of_train():
    refuse_unread("check", options_of("train").names)
    with pytest.raises(UserError, match="--image: check does not read it"):
        refuse_unread("check", ["image"])


def test_a_command_that_is_in_no_table_takes_all():
    refuse_unread("a new one", ALL)
    assert set(options_of("a new one").names) == set(ALL)
