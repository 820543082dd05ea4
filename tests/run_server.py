"""Runs of train.py and of the programs in misc/ that begin at once: a process that has loaded torch forks for each.

As a program it is that process; `Runs` talks to it. To load the packages anew takes several times as long as all else
that a short command does. A run may be given faults, see `arm`.
"""

import atexit
import functools
import gc
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Runs:
    """Runs are children of another process, and are what the command line would make."""

    def __init__(self):
        self._server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert self._server.stdout.readline() == "ready\n"

    def close(self):
        """End the process, and with it what still runs."""
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def ask(self, **question):
        self._server.stdin.write(json.dumps(question) + "\n")
        return json.loads(self._server.stdout.readline())

    def start(self, home, words, faults=None, program="train.py", stdin="", anew=False):
        """Begin `program *words` in the folder `home`; a `Run`.

        Args:
            program: its path from the repository's root.
            stdin: what it reads there.
            faults, anew: see `be_the_run`.
        """
        asked = {"cwd": str(home), "program": program, "words": [str(word) for word in words], "env": dict(os.environ)}
        return Run(self, stdin, **asked, faults=faults or {}, anew=anew)

    def run(self, home, words, faults=None, code=0, **others):
        """The same to its end, where its exit code must be `code`."""
        run = self.start(home, words, faults, **others)
        assert run.wait() == code, run.text()
        return run


@functools.cache
def the_runs():
    """Those of this process, which all test modules share."""
    runs = Runs()
    atexit.register(runs.close)
    return runs


class Run:
    """One that goes on. What it reads and prints is in files without a name: a test may look at all in its folder."""

    def __init__(self, runs, stdin, **question):
        self._runs, self._code = runs, None
        self._streams = [tempfile.TemporaryFile() for _ in range(3)]  # noqa: SIM115  # open as long as this is asked
        self._streams[0].write(stdin.encode())
        self._streams[0].flush()
        streams = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._streams]
        self.pid = runs.ask(streams=streams, **question)

    @property
    def stdout(self):
        return read(self._streams[1])

    @property
    def stderr(self):
        return read(self._streams[2])

    @property
    def returncode(self):
        return self._code

    def text(self):
        return self.stdout + self.stderr

    def over(self):
        """Whether it has ended."""
        if self._code is None:
            self._code = self._runs.ask(look=self.pid)
        return self._code is not None

    def wait(self, seconds=300):
        """Its exit code; −9 for one that SIGKILL ended."""
        deadline = time.monotonic() + seconds
        while not self.over() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert self.over(), f"still running after {seconds} s\n{self.text()}"
        return self._code

    def wait_for(self, what, seconds=300):
        """Until `what()` is true; it must not end before."""
        deadline = time.monotonic() + seconds
        while not what():
            assert not self.over(), f"ended with {self._code}\n{self.text()}"
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def send(self, number):
        if self._code is None:  # else the process id may be another's by now
            os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        return self.wait()

    def children(self):
        """Process ids of its own processes: those that load pictures, in these tests."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


def read(file):
    file.seek(0)
    return file.read().decode()


# What follows runs in the other process.


def serve():
    sys.path[0] = str(ROOT)  # as for a program there
    import numpy.ma  # noqa: F401  # what commands load later than at their start
    from PIL import Image

    import train  # noqa: F401

    Image.init()
    gc.freeze()  # else each run would copy all of it when it first looks for garbage
    say(None, "ready")
    codes = {}  # process id → exit code, None while it runs
    for line in sys.stdin:
        asked = json.loads(line)
        if "look" in asked:
            pid = asked["look"]
            if codes[pid] is None and (done := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(done[1])
            say(codes[pid])
            continue
        pid = os.fork()
        if pid == 0:
            be_the_run(**asked)
        codes[pid] = None
        say(pid)
    for pid, code in codes.items():
        if code is None:
            os.kill(pid, signal.SIGKILL)
    os._exit(0)


def say(answer, text=None):
    print(text or json.dumps(answer), flush=True)


def be_the_run(cwd, program, words, env, streams, faults, anew):
    """End this process as `program *words` would.

    Args:
        streams: paths of what it has for standard input, output and errors.
        faults: arguments of `arm`.
        anew: as a user does it, who loads the packages for each command; such a run has no faults.
    """
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, name in enumerate(streams):
        file = os.open(name, os.O_WRONLY | os.O_APPEND if number else os.O_RDONLY)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0)  # noqa: SIM115  # the former one has read ahead
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    program = str(ROOT / program)
    if anew:
        os.execv(sys.executable, [sys.executable, program, *words])
    arm(**faults)
    sys.argv, code = [program, *words], 1
    try:
        runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
    finally:  # all that is done when a program ends but taking torch down, which takes a second
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def arm(nan=None, step=0, n_steps=1, kill_in_save=None, call=None, file_bytes=None, memory=None):
    """Make a run fail.

    Args:
        nan: what becomes NaN in `n_steps` steps from `step` on (from 1) of this process: 'weights', 'inputs', 'loss' or
            'gradient'.
        kill_in_save: SIGKILL in so-manieth save of a checkpoint (from 1): at the system call number `call` of those
            that a save is made of, or for 'half' when half of the file is written.
        file_bytes: the largest file that it may write.
        memory: bytes that step `step` wants besides, more than there are.
    """
    if file_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    if kill_in_save:
        arm_save(kill_in_save, call)
    if nan or memory:
        arm_step(nan, range(step, step + n_steps), memory)


def arm_step(nan, steps, memory):
    import torch

    from trainer import FasterRCNNTrainer as trainer_class  # noqa: N813

    real_update, real_forward, n = trainer_class.update, trainer_class.forward, 0

    def update(self, batches, weights):
        nonlocal n
        n += 1
        if n in steps and nan == "weights":
            next(self.faster_rcnn.parameters()).data[0] = torch.nan
        if n in steps and nan == "inputs":
            batches[0] = batches[0]._replace(imgs=batches[0].imgs.clone())
            batches[0].imgs[0, 0, 5, 5] = torch.nan
        return real_update(self, batches, weights)

    def forward(self, *arguments):
        losses = real_forward(self, *arguments)
        if n in steps and memory:
            torch.empty(memory, dtype=torch.uint8)
        if n in steps and nan == "loss":
            losses = losses._replace(total_loss=losses.total_loss * torch.nan)
        if n in steps and nan == "gradient":  # of a finite loss: the root of 0
            losses = losses._replace(total_loss=losses.total_loss + (losses.roi_cls_loss * 0).sqrt())
        return losses

    trainer_class.update, trainer_class.forward = update, forward


def arm_save(number, call):
    import torch

    import trainer

    real, n, calls = trainer.save_checkpoint, 0, 0

    def die_at(frame, event, argument):
        nonlocal calls
        if event == "c_call" and argument.__name__ in ("fsync", "link", "replace", "posix_fadvise"):
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1

    def half(content, file):
        import io

        whole = io.BytesIO()
        real_save(content, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    real_save = torch.save

    def save_checkpoint(*arguments):
        nonlocal n
        n += 1
        if n == number and call == "half":
            torch.save = half
        elif n == number:
            sys.setprofile(die_at)
        try:
            return real(*arguments)
        finally:
            sys.setprofile(None)

    trainer.save_checkpoint = save_checkpoint


if __name__ == "__main__":
    serve()
