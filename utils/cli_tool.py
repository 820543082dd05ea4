"""What the commands share: the device, the run's folder."""

import argparse
import ctypes
import difflib
import errno
import logging
import os
import select
import sys
from bdb import BdbQuit
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from utils.dist_tool import ALONE, of_environment
from utils.errors import UserError, error_line
from utils.file_tool import prepare_file
from utils.help_tool import HELP, command_help, overview
from utils.terminal_tool import as_follower, say


def choose_device(name, world=ALONE):
    """'auto' → a GPU if there is one; else the device of that name. Of several processes each has its own GPU.

    Raises:
        UserError: it is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if world.size > 1 and name.startswith("cuda"):
        return _own_gpu(name, world)
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device={name}: must be auto, cpu, cuda or cuda:0, cuda:1, ...") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device={name}: there are {torch.cuda.device_count()} GPUs that torch can use; try --device=cpu"
        )
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device={name}: must be auto, cpu, cuda or cuda:0, cuda:1, ...")
    return device


def _own_gpu(name, world):
    n = torch.cuda.device_count()
    if name != "cuda":
        raise UserError(f"--device={name}: {world.size} processes take a GPU each; give --device=cuda")
    if world.local_size > n:
        raise UserError(f"{world.local_size} processes on a machine with {n} GPUs: start {n or 1} there "
                        "(--nproc-per-node), or give --device=cpu")  # fmt: skip
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)  # nccl asks for the current one
    return device


def device_argument(name):
    """`choose_device` as argparse's `type`, for the programs of misc/."""
    try:
        return choose_device(name)
    except UserError as error:
        raise argparse.ArgumentTypeError(error) from None


def at_least_one(text):
    """A whole number from 1 on as argparse's `type`, likewise."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number of 1 or more")
    return int(text)


def return_free_memory():
    """Give back to the system what glibc's malloc keeps.

    Batches of ever new sizes leave its heap in pieces: on a CPU a run of a small network on photographs grows from 0.9
    to 5 GB in 700 steps, all of it free memory. Takes about 0.15 s.
    """
    with suppress(OSError, AttributeError):  # another system, another malloc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


@contextmanager
def writing(path):
    """Where a file is written: what goes wrong is one line."""
    try:
        yield
    except OSError as error:
        raise UserError(f"--out={path}: can't be written ({error.strerror}); choose another file") from None


def make_room(*paths):
    """Make the folder of files that will be written, and refuse a path that can't be one: before the work."""
    for path in paths:
        with writing(path):
            prepare_file(path)


def beside(stem, end):
    """A path beside the file or folder `stem` that is named after it: `stem` followed by `end`."""
    stem = Path(stem) if Path(stem).name else Path(stem).absolute()  # '.' has no name
    if not stem.name:
        raise UserError(f"{stem}: a folder; name a file")
    return stem.with_name(stem.name + end)


def workers(n, n_processes=1):
    """How many processes load pictures where `n` are wanted, and `n_processes` on this machine want as many."""
    return min(n, (os.cpu_count() or 1) // n_processes)


def run_command(commands, argv, fire):
    """Run `argv` (without the program's name) as one of `commands`, a dict of functions, through `fire`.

    Returns:
        the exit code: 0; 2 after a mistake of the user's, told in one line; 130 after Ctrl-C; 141 when nobody reads
        what is printed any more (`| head`): those of a program that a signal ended, so that a shell sees it.
    """
    try:
        code = _run(commands, argv, fire)
        sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is not yet written goes there at the exit
        code = 141
    return code


def _nobody_reads(stream):
    """Whether `stream` is a pipe whose other end is closed: other pipes break too, to the workers of a data loader."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(commands, argv, fire):
    logging.getLogger("PIL").setLevel(logging.CRITICAL)  # our own line says what is wrong with a picture
    for stream in (sys.stdout, sys.stderr):  # names in a file may be what no terminal can show
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not argv or argv[0] in ("-h", "--help", "help"):
        topic = [word for word in argv[1:] if word in commands]
        print(command_help(topic[0], commands[topic[0]]) if topic else overview(commands))
        return 0
    name = argv[0]
    if name not in commands:
        near = difflib.get_close_matches(name, commands, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(commands)}"
        say(f"error: {name}: unknown command; {hint}", file=sys.stderr)
        return 2
    if "-" in argv or "--" in argv:  # fire's own separators
        say("error: - and -- alone: an option is written --name=value; --help lists them", file=sys.stderr)
        return 2
    if asked := [word for word in argv if word in HELP]:
        print(command_help(name, commands[name], all_options=asked[0] in HELP[2:]))
        return 0
    try:
        as_follower(-1 if of_environment().local_rank else 0)
        fire.Fire(commands, command=argv, name="train.py")
    except UserError as error:
        say(f"error: {error_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        say(f"error: {error.filename!s:.60}...: the name is too long; give a shorter one", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, BdbQuit):  # BdbQuit: `q` in the debugger
        say("interrupted", file=sys.stderr)
        return 130
    return 0
