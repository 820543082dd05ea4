"""The folder of a run while it is written: one run at a time, checkpoints that are whole, and a disk that may fail.

| file              | holds                                                                                     |
|-------------------|-------------------------------------------------------------------------------------------|
| `last.pth`        | the run as it was saved last, to go on from                                               |
| `previous.pth`    | as it was saved before that: what --resume takes where `last.pth` is damaged              |
| `best.pth`        | the weights with the best mAP                                                             |
| `epoch-0007.pth`  | the run after an epoch: of the last `keep` ones                                           |
| `run.json`        | the run's own name, by which its checkpoints are known, and how it was begun and gone on  |
| `nonfinite/`      | what led to a loss or gradient that was not finite, see `finite_tool`                     |
"""

import json
import os
import tempfile
import time
import uuid
from contextlib import suppress
from pathlib import Path

from utils.errors import UserError
from utils.file_tool import place_of, remove_partials, whole_file
from utils.json_tool import read_json
from utils.option_values import save_interval
from utils.terminal_tool import tell, warn

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

LAST, PREVIOUS, BEST, FACTS = "last.pth", "previous.pth", "best.pth", "run.json"
FILES_IN_PLACE, FOLDERS_IN_PLACE = (".lock", "events.jsonl"), ("pictures", "detections", "nonfinite")


def free_run_dir(name, overwrite=False, root="runs"):
    """runs/NAME. Raises UserError if it has checkpoints and `overwrite` is not set."""
    path = Path(root, name)
    if ".." in path.parts or Path(name).is_absolute() or path == Path(root):
        raise UserError(f"--name={name}: is a folder under {root}/; give it a name, without '..' and a leading /")
    if any(path.glob("*.pth")) and not overwrite:
        raise UserError(
            f"--name={name}: {path} has checkpoints; go on with --resume={path}, choose another name, or allow it with "
            "--overwrite"
        )
    return path


class RunFolder:
    """For a `with`, which makes the folder and locks it: two runs can't write there.

    Args:
        path: the folder.
        goes_on: a run goes on there; else checkpoints and the log that are there are set aside.
        environment: see `environment_tool`; kept in `run.json`, which has those of all times that the run was begun.
        save_every: see --save-every.
        keep: how many epochs' checkpoints are kept.
        writes: False for a process that leaves the writing to another, and does nothing here.

    Attributes:
        run: the run's own name, which no other has: its checkpoints bear it.

    Raises:
        UserError: another run has it, or it can't be written.
    """

    def __init__(self, path, goes_on=False, environment=None, save_every="10min", keep=0, writes=True):
        self.path, self.keep, self.run, self._writes = Path(path), keep if writes else 0, None, writes
        self._goes_on, self._environment = goes_on, environment or {}
        self._steps, self._seconds = save_interval(save_every)
        self._saved_at, self._failed, self._lock, self._elsewhere = time.monotonic(), set(), None, None

    def __enter__(self):
        if not self._writes:
            return self
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            _refuse_others(self.path)
            self._lock = _locked(self.path / ".lock")
            self._place = place_of(self.path)
            remove_partials(self.path)
            if not self._goes_on:
                set_aside([*self.path.glob("*.pth"), *self.path.glob("events.jsonl"), *self.path.glob(FACTS)])
            facts = read_facts(self.path)
            self.run = facts.get("run") or uuid.uuid4().hex
            facts = {"run": self.run, "begun": [*facts.get("begun", ()), self._environment]}
            with whole_file(self.path / FACTS) as partial:
                partial.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            self.__exit__()
            raise UserError(f"{self.path}: can't be written ({error.strerror}); choose another --name") from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        if self._lock is not None:
            os.close(self._lock)  # which gives it free

    def is_due(self, step: int) -> bool:
        """Whether the run is to be saved after `step`."""
        if self._steps:
            return step % self._steps == 0
        return self._writes and time.monotonic() - self._saved_at >= self._seconds

    def save_last(self, trainer, show=None, **info) -> bool:
        """Save all that the run needs to go on. A failure is told, and the run goes on.

        Args:
            show: what the dashboard's `Show` needs.
            info: goes into `other_info`.
        """
        self._saved_at = time.monotonic()
        return self._save(LAST, trainer, show, info, predecessor=self.path / PREVIOUS)

    def save_best(self, trainer, **info) -> bool:
        """Save the weights, which are the best so far; where that fails, somewhere else."""
        return self._save(BEST, trainer, None, info) or self._rescue(BEST, trainer, None, info) is not None

    def save_end(self, trainer, show=None, **info) -> Path | None:
        """`save_last` when nothing comes after it: where that fails, somewhere else. The path, or None if nowhere."""
        if self.save_last(trainer, show, **info):
            return self.path / LAST
        return self._rescue(LAST, trainer, show, info)

    def keep_epoch(self, epoch: int):
        """Let the last `keep` epochs keep their checkpoints; `last.pth`, if it could be saved, is that of `epoch`."""
        if not self.keep or LAST in self._failed:
            return
        try:
            with whole_file(self.path / f"epoch-{epoch:04}.pth") as partial:
                try:
                    os.link(self.path / LAST, partial)  # no second gigabyte
                except OSError:
                    partial.write_bytes((self.path / LAST).read_bytes())
            for old in sorted(self.path.glob("epoch-*.pth"), key=lambda path: (len(path.name), path))[: -self.keep]:
                old.unlink()
        except OSError as error:
            warn(f"{self.path}: the checkpoint of epoch {epoch} can't be kept ({error.strerror}); the run goes on")

    def _save(self, name, trainer, show, info, predecessor=None):
        path = self.path / name
        if not self._writes:
            return True
        try:
            if place_of(self.path) != self._place:
                raise UserError(f"{path}: its folder is not the one that the run began in: deleted, or a disk is gone")
            self._write(path, trainer, show, info, predecessor)
        except UserError as error:
            self._failed.add(name)
            warn(f"{error}; the run goes on, and tries again")
            return False
        if name in self._failed:
            self._failed.remove(name)
            tell(f"{path} is written again")
        return True

    def _rescue(self, name, trainer, show, info):
        """Save it in the system's folder for temporary files. The path, or None where that fails too."""
        try:
            self._elsewhere = self._elsewhere or Path(tempfile.mkdtemp(prefix=f"{self.path.name}-"))
            path = self._elsewhere / name
            self._write(path, trainer, show, info)
        except (UserError, OSError):
            return None
        warn(f"{self.path / name} could not be written: {path} has it")
        return path

    def _write(self, path, trainer, show, info, predecessor=None):
        """All that a run goes on with, or for `BEST` the weights alone."""
        beside = {"run": self.run, "environment": self._environment, **({} if show is None else {"show": show})}
        how = {} if path.name == BEST else {"save_optimizer": True, "predecessor": predecessor}
        trainer.save(save_path=path, beside=beside, **how, **info)


def _refuse_others(folder):
    """Raise UserError where a run in `folder`, which may be a stranger's, would write elsewhere, or could not write."""
    in_place = [folder / name for name in (*FILES_IN_PLACE, *FOLDERS_IN_PLACE)]
    for path in in_place:
        if path.is_symlink():
            raise UserError(f"{path}: is a link, and a run writes there; remove it, or choose another --name")
    moved = [path for end in ("*.pth", "*_proposals.npz") for path in folder.glob(end)]  # into their place
    for path in in_place + moved:
        if path.exists() and not (path.is_dir() if path.name in FOLDERS_IN_PLACE else path.is_file()):
            raise UserError(f"{path}: is not what a run has there; remove it, or choose another --name")


def set_aside(paths):
    """Give files of a former run the ending .old: beside the new ones they would pass for those of this run."""
    for path in paths:
        path.replace(f"{path}.old")


def read_facts(folder) -> dict:
    """What `run.json` says, if it says it: 'run', a text, and 'begun', a list of environments."""
    path = Path(folder, FACTS)
    with suppress(UserError):
        facts = read_json(path) if path.exists() else {}
        begun = facts.get("begun") if isinstance(facts, dict) else None
        if isinstance(begun, list) and isinstance(facts.get("run"), str):
            return {"run": facts["run"], "begun": [one for one in begun if isinstance(one, dict)]}
    return {}


def _locked(path):
    """An open file that this process alone has locked; the system gives it free when the process ends, however.

    A lock of POSIX's, not BSD's: those that a run's loading processes inherit would outlive a run that was killed.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if fcntl is None:
        return lock
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        holder = os.read(lock, 100).decode(errors="replace").strip()
        os.close(lock)
        raise UserError(
            f"{path.parent}: another run writes there ({holder}); wait for its end, or choose another --name"
        ) from None
    except OSError:  # a file system without locks
        return lock
    os.truncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {os.uname().nodename}".encode())
    return lock
