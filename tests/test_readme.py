"""Every command in README.md and the guides of docs/ is run, in their order, in a fresh copy of the files.

What can't be run here is in NOT_RUN with its reason, and its options are read at least. A new command that is in
neither way right fails.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from misc.make_toy_voc import make_toy_voc
from train import COMMANDS
from utils.config import Config

ROOT = Path(__file__).resolve().parent.parent
RECORDS = {"mistakes.md", "options.md", "performance.md", "results.md"}  # pages of what was measured or is generated
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md") if path.name not in RECORDS))

OPTIONS = {f.name for f in fields(Config)}

# How a command begins → why it is not run here.
NOT_RUN = {
    "make ": "installs, or runs all of these tests; that there is such a target is asked. The demo: test_demo.py",
    "python train.py train --voc-data-dir=VOCdevkit": "needs VOC 2007 and VGG16's ImageNet weights",
    "python train.py train --model=alexnet": "needs VOC 2007 and AlexNet's ImageNet weights; small: test_train_real.py",
    "python train.py train --resume=runs/first": "the short runs have had all of their steps; see test_train_resume.py",
    "python train.py eval --load-path=fasterrcnn_": "needs a published checkpoint; its layout: test_checkpoint.py",
    "python misc/convert_checkpoint.py": "needs a file of torchvision's; small ones: test_convert_checkpoint.py",
    "python train.py predict --load-path=coco.pth": "needs what the conversion writes",
    "python misc/visual_genome_to_coco.py": "needs Visual Genome; small: test_visual_genome_to_coco.py",
    "python misc/soak.py": "takes an hour; a minute of it: test_soak.py",
    "python misc/visdom_assets.py": "fetches 23 MB into the environment; see test_visdom_assets.py",
    "torchrun ": "several processes, for GPUs or machines; see test_distributed.py",
    "srun ": "a cluster's",
    "python train.py dashboard": "serves until Ctrl-C; see test_dashboard_tool.py",
}
# What makes a command short: options put in place of its own or added.
SHORT = {
    "train": {"epoch": 1, "max-iter": 1, "num-workers": 0, "test-num-workers": 0, "test-num": 4},
    "eval": {"test-num-workers": 0},
    "predict": {"score-thresh": 0.001, "max-dets": 3},  # two steps teach too little to be sure of anything
    "propose": {"test-num-workers": 0},
    "models": {"model": "tiny"},
    "misc/fuzz.py": {"seconds": 1},
    "misc/make_toy_voc.py": {"out": "another", "n-train": 2, "n-val": 1},
}
# Runs programs in turn, each in a process of its own that has the packages already: to load them anew takes longer
# than all else that a short command does.
IN_TURN = """
import gc, json, os, runpy, sys
sys.path.insert(0, os.getcwd())
import train
gc.freeze()  # else each would look through all of torch for garbage at its end
for words in json.load(sys.stdin):
    print("$", *words, flush=True)
    if os.fork() == 0:
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")
        sys.exit()
    if code := os.waitstatus_to_exitcode(os.wait()[1]):
        sys.exit(f"exit code {code}")
"""
SHOWN = re.compile(r"^ *```sh\n(.*?)^ *```|`((?:python|make) [^`]+)`", re.DOTALL | re.MULTILINE)
FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)


def commands_of(text):
    """The commands of a page in its order: lines of its sh blocks, and what it has of python and make between `…`."""
    found = []
    for block, inline in SHOWN.findall(text):
        lines = re.sub(r"\\\n\s*", " ", block).splitlines() or [" ".join(inline.split())]
        found += [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]
    return found


TEXTS = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
COMMANDS_SHOWN = [command for text in TEXTS.values() for command in commands_of(text)]
SNIPPETS = [
    snippet
    for text in TEXTS.values()
    for snippet in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
]


def reason_not_to_run(command):
    return next((reason for beginning, reason in NOT_RUN.items() if f"{command} ".startswith(beginning)), None)


TO_RUN = [*dict.fromkeys(command for command in COMMANDS_SHOWN if not reason_not_to_run(command))]


def options_of(words):
    """--name=value and --name → value, 'True' for the latter."""
    pairs = (word.removeprefix("--").partition("=") for word in words if word.startswith("--"))
    return {name: value if equals else "True" for name, equals, value in pairs}


def shortened(command):
    """The command with the options of SHORT."""
    words = shlex.split(command)
    what = words[2] if words[1] == "train.py" else words[1]
    if what not in SHORT or "--help" in words:
        return words
    short = SHORT[what]
    kept = [word for word in words if word.removeprefix("--").partition("=")[0] not in short]
    return [*kept, *(f"--{name}={value}" for name, value in short.items())]


def fresh_copy(folder):
    """The files under version control, as they are now, and the pages' Python."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"the files under version control are not known: {listed.stderr.strip()}")
    for name in listed.stdout.split("\0"):
        if name and (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    for k, snippet in enumerate(SNIPPETS):
        (folder / f"snippet{k}.py").write_text(snippet, "utf-8")
    return folder


def words_to_run(words_of):
    """Of each command its words, and the pages' Python last; no server is to be started, nor to be met."""
    trains = {command: command.startswith("python train.py train ") and "--help" not in command for command in TO_RUN}
    commands = [[*words_of(command), *(["--visdom=False"] if trains[command] else [])] for command in TO_RUN]
    return [*commands, *(["python", f"snippet{k}.py"] for k in range(len(SNIPPETS)))]


def test_each_command_does_what_it_shall(tmp_path):
    """With few pictures and few steps."""
    home = fresh_copy(tmp_path)
    make_toy_voc(home / "toy_voc", n_train=400, n_val=4, size=64)  # as `make demo` does, but smaller
    for path in home.glob("toy_voc/*/*.*"):
        if "000006" < path.stem < "000401":
            path.unlink()
    (home / "toy_voc/ImageSets/Main/train.txt").write_text("".join(f"00000{k}\n" for k in range(1, 7)))
    commands = json.dumps(words_to_run(shortened))
    done = subprocess.run([sys.executable, "-c", IN_TURN], cwd=home, input=commands, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-1500:]}"
    assert done.stdout.count("$ python") == len(TO_RUN) + len(SNIPPETS)


@pytest.mark.slow
def test_each_command_as_it_stands(tmp_path):
    home = fresh_copy(tmp_path)
    make_toy_voc(home / "toy_voc", n_train=800, n_val=100)  # as `make demo` does
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for words in words_to_run(shlex.split):
        done = subprocess.run(words, cwd=home, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS_SHOWN))
def test_a_command_has_no_option_that_there_is_not(command):
    words = shlex.split(command)
    if "torchrun" in words:
        started = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        words = ["python", started.training_script, *started.training_script_args]
    if words[0] == "make":
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE) for word in words[1:] if "=" not in word)
    elif words[:2] == ["python", "train.py"]:
        assert words[2] in COMMANDS or words[2].isupper()
        Config().parse({name: value for name, value in options_of(words[3:]).items() if name != "help"})
    elif words[0] == "python" and words[1] != "-m":
        program = (ROOT / words[1]).read_text("utf-8")
        assert all(f'"--{name}"' in program for name in options_of(words[2:]))


@pytest.mark.parametrize("page", PAGES)
def test_options_between_the_lines_are_there(page):
    """`--name=value` and `--name` that stand alone in the text: of a command, of a program in misc/, or of torchrun."""
    text = FENCED.sub("", TEXTS[page])
    programs = "".join(path.read_text("utf-8") for path in (ROOT / "misc").glob("*.py"))
    programs += "".join(f'"{name}"' for action in get_args_parser()._actions for name in action.option_strings)
    for span in re.findall(r"`(--[a-z][^`]*)`", text):
        given = options_of(shlex.split(span))
        known = {name: value for name, value in given.items() if name.replace("-", "_") in OPTIONS}
        assert all(f'"--{name}"' in programs for name in given.keys() - known), f"`{span}`: there is no such option"
        said = {name: value for name, value in known.items() if f"--{name}=" in span}
        Config().parse({name: value for name, value in said.items() if not re.fullmatch("[A-Z_]+", value)})


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_hidden_in_another_form(page):
    """All are in blocks that say sh, or between `…`: else they would not be run."""
    assert not re.findall(r"python (?:train\.py|misc/|-m ).*", SHOWN.sub("", TEXTS[page]))


def test_what_is_not_run_is_still_shown():
    gone = [beginning for beginning in NOT_RUN if not any(f"{c} ".startswith(beginning) for c in COMMANDS_SHOWN)]
    assert not gone, "no page has such a command any more: take it out of NOT_RUN"
    assert len(TO_RUN) >= 10
