"""Runs of train.py that begin at once: a process that has loaded torch forks for each of them.

As a program it is that process; `Runs` talks to it. A run may be given faults, see `arm`.
"""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Runs:
    """For a `with`. Runs are children of another process, and are what the command line would make."""

    def __enter__(self):
        self._server = subprocess.Popen([sys.executable, __file__], cwd=ROOT, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        assert self._server.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_):
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def _ask(self, **question):
        self._server.stdin.write(json.dumps(question) + "\n")
        return json.loads(self._server.stdout.readline())

    def start(self, home, words, faults=None):
        """Begin `train.py *words` in the folder `home`; a `Run`."""
        log = Path(home) / "run.log"
        log.write_text("")
        pid = self._ask(cwd=str(home), words=[str(word) for word in words], log=str(log), faults=faults or {})
        return Run(self, pid, log)

    def run(self, home, words, faults=None, code=0):
        """The same to its end; what it printed."""
        run = self.start(home, words, faults)
        assert run.wait() == code, run.text()
        return run.text()


class Run:
    """One that goes on."""

    def __init__(self, runs, pid, log):
        self._runs, self.pid, self._log, self._code = runs, pid, log, None

    def text(self):
        return self._log.read_text()

    def over(self):
        """Whether it has ended."""
        if self._code is None:
            self._code = self._runs._ask(look=self.pid)
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
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self):
        self.send(signal.SIGKILL)
        return self.wait()

    def children(self):
        """Process ids of its own processes: those that load pictures, in these tests."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]


# What follows runs in the other process.


def serve():
    sys.path.insert(0, str(ROOT))
    import fire

    import train

    say(None, "ready")
    children = {}
    for line in sys.stdin:
        asked = json.loads(line)
        if "look" in asked:
            pid = asked["look"]
            if pid not in children:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    children[pid] = os.waitstatus_to_exitcode(status)
            say(children.get(pid))
            continue
        pid = os.fork()
        if pid == 0:
            be_the_run(train, fire, asked)
        say(pid)


def say(answer, text=None):
    print(text or json.dumps(answer), flush=True)


def be_the_run(train, fire, asked):
    os.chdir(asked["cwd"])
    log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, log, log)):
        os.dup2(stream, number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    code = 1
    try:
        arm(train, **asked["faults"])
        sys.argv = ["train.py", *asked["words"]]
        code = train.run_command(train.COMMANDS, asked["words"], fire)
    except SystemExit as error:
        code = error.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def arm(train, nan=None, step=0, n_steps=1, kill_in_save=None, call=None, file_bytes=None, memory=None):
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
        arm_step(train.FasterRCNNTrainer, nan, range(step, step + n_steps), memory)


def arm_step(trainer_class, nan, steps, memory):
    import torch

    real_step, real_forward, n = trainer_class.train_step, trainer_class.forward, 0

    def train_step(self, imgs, *others):
        nonlocal n
        n += 1
        if n in steps and nan == "weights":
            next(self.faster_rcnn.parameters()).data[0] = torch.nan
        if n in steps and nan == "inputs":
            imgs = imgs.clone()
            imgs[0, 0, 5, 5] = torch.nan
        return real_step(self, imgs, *others)

    def forward(self, *arguments):
        losses = real_forward(self, *arguments)
        if n in steps and memory:
            torch.empty(memory, dtype=torch.uint8)
        if n in steps and nan == "loss":
            losses = losses._replace(total_loss=losses.total_loss * torch.nan)
        if n in steps and nan == "gradient":  # of a finite loss: the root of 0
            losses = losses._replace(total_loss=losses.total_loss + (losses.roi_cls_loss * 0).sqrt())
        return losses

    trainer_class.train_step, trainer_class.forward = train_step, forward


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
