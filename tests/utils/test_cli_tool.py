"""utils/cli_tool.py: what a command line does and with which exit code."""

import re
import signal

import fire
import pytest
import torch
from fire.decorators import SetParseFn

import train
from utils.cli_tool import choose_device, error_line, run_command
from utils.config import Config
from utils.errors import UserError


@pytest.fixture
def calls():
    return []


@pytest.fixture
def commands(calls):
    @SetParseFn(str)
    def walk(*args, **kwargs):
        """Walk somewhere.

        And back."""
        calls.append((args, kwargs))

    @SetParseFn(str)
    def fall(*args, **kwargs):
        """Fall over a mistake of the user's."""
        raise UserError("--stone=3: is too large; take a smaller one")

    @SetParseFn(str)
    def crash(*args, **kwargs):
        """Fall over a mistake of ours."""
        raise ZeroDivisionError("ours")

    return {"walk": walk, "fall": fall, "crash": crash}


def test_success_is_0(commands, calls, capsys):
    assert run_command(commands, ["walk", "north", "--speed=3", "--my-env=run#2", "--year=2024", "--flag"], fire) == 0
    ((args, kwargs),) = calls
    assert args == ("north",)
    assert {name.replace("-", "_"): value for name, value in kwargs.items()} == {
        "speed": "3", "my_env": "run#2", "year": "2024", "flag": "True",
    }  # fmt: skip
    assert capsys.readouterr().err == ""


def test_mistake_of_the_user_is_2_and_one_line(commands, capsys):
    assert run_command(commands, ["fall", "--stone=3"], fire) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: --stone=3: is too large; take a smaller one\n"


def test_a_name_that_no_file_system_has_is_2_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for words in (["train", f"--resume={'x' * 5000}"], ["train", f"--name={'x' * 300}", "--resume=auto"]):
        assert run_command(train.COMMANDS, words, fire) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert "the name is too long; give a shorter one" in err


@pytest.mark.parametrize("words", [["eval", "--load-path=/"], ["propose", "--load-path=/"], ["eval", "--detections=/"]])
def test_a_folder_without_a_name_is_2_and_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr(train, "opt", Config())
    assert run_command(train.COMMANDS, words, fire) == 2
    assert capsys.readouterr().err == "error: /: a folder; name a file\n"


def test_mistake_of_ours_keeps_its_traceback(commands):
    with pytest.raises(ZeroDivisionError, match="ours"):
        run_command(commands, ["crash"], fire)


@pytest.mark.parametrize(("name", "near"), [("wlak", "did you mean walk"), ("zzz", "walk, fall, crash")])
def test_unknown_command(commands, calls, capsys, name, near):
    assert run_command(commands, [name, "--speed=3"], fire) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {name}: ")
    assert near in err
    assert err.count("\n") == 1
    assert calls == []


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_overview(commands, calls, capsys, argv):
    assert run_command(commands, argv, fire) == 0
    out = capsys.readouterr().out
    assert re.search(r"walk\s+Walk somewhere\.", out)
    assert "And back" not in out
    assert all(name in out for name in commands)
    assert calls == []


@pytest.mark.parametrize("argv", [["walk", "--help"], ["walk", "--lr=3", "-h"], ["walk", "--help", "--lr=3"]])
def test_help_of_a_command_does_not_run_it(commands, calls, capsys, argv):
    assert run_command(commands, argv, fire) == 0
    out = capsys.readouterr().out
    assert "Walk somewhere." in out
    assert calls == []
    for name in Config().state_dict():
        if name != "use_chainer":
            assert re.search(rf"^  --{name.replace('_', '-')} ", out, re.MULTILINE), name
    assert re.search(r"--plot-every .*default: 40\)", out)
    assert re.search(r"--lr-milestones .*default: 10\)", out)


@pytest.mark.parametrize("argv", [["help", "walk"], ["walk", "--help=all"], ["walk", "--help-all"]])
def test_other_ways_to_ask(commands, calls, capsys, argv):
    assert run_command(commands, argv, fire) == 0
    assert "usage: python train.py walk" in capsys.readouterr().out
    assert calls == []


def test_the_overview_tells_the_exit_codes(commands, capsys):
    run_command(commands, [], fire)
    out = capsys.readouterr().out
    for code in (0, 1, 2, 130, 128 + signal.SIGTERM, 128 + signal.SIGHUP):
        assert re.search(rf"\b{code}\b", out), code


@pytest.mark.parametrize("command", ["train", "eval", "predict"])
def test_real_commands_get_strings(monkeypatch, capsys, command):
    got = []

    def stop(opt, command, args, kwargs):
        got.append(kwargs)
        raise UserError("stopped")

    monkeypatch.setattr(train, "read_options", stop)
    argv = [command, "--env=2024", "--name=run#2", "--visdom=false", "--lr-milestones=3,5"]  # what they mean is later
    assert run_command(train.COMMANDS, argv, fire) == 2
    (kwargs,) = got
    kwargs = {name.replace("-", "_"): value for name, value in kwargs.items()}
    assert kwargs == {"env": "2024", "name": "run#2", "visdom": "false", "lr_milestones": "3,5"}
    assert capsys.readouterr().err == "error: stopped\n"


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["train", "--plot-evry=3"], "--plot-every"),
        (["train", "--lr=fast"], "--lr"),
        (["train", "stray"], "stray"),
        (["train", "--use-chainer=True"], "--use-chainer"),
        (["eval"], "--load-path"),
        (["predict"], "--load-path"),
        (["predict", "--load-path=x.pth"], "--image is missing"),
        (["eval", "--lr=3"], "--lr: eval does not read it"),
        (["models", "--seed=1"], "--seed: models does not read it"),
    ],
)
def test_real_commands_stop_before_anything_starts(monkeypatch, tmp_path, capsys, argv, word):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "opt", Config())
    assert run_command(train.COMMANDS, argv, fire) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert word in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_line_of_an_error_from_a_loader_process():
    wrapped = UserError(
        'Caught UserError in worker 0.\nTraceback:\n  File "x"\nutils.errors.UserError: a.jpg: broken\n'
    )
    assert error_line(wrapped) == "a.jpg: broken"
    assert error_line(UserError("a.jpg: broken")) == "a.jpg: broken"


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "", "cpu:x"])
def test_device_that_is_not_there(name):
    with pytest.raises(UserError, match=f"--device={name}: ") as error:
        choose_device(name)
    assert "\n" not in str(error.value)
