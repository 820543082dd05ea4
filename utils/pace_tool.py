"""How fast a run is, what it waits for, what memory it takes, and when it will be done."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MOST_SECONDS = 3e9  # a century: what a calendar can show
MEMORY_OF_PACE = 0.8  # of the moving average by which the end is foretold: a look counts a fifth

# What `state_dict` has of a Pace, and as what.
KEPT = {"waited": float, "n_steps": int, "n_images": int, "seconds_a_step": float, "seconds_an_evaluation": float}


class Pace:
    """Where the time of a training run goes, by the host's clock.

    A GPU may lag behind the host by a step or two; over the steps between two looks that evens out.

    Args:
        n_steps: of the run in all.
        n_evaluations: of the run in all.
    """

    def __init__(self, n_steps: int, n_evaluations: int = 0):
        self.n_steps, self.n_evaluations = n_steps, n_evaluations
        self._seconds_a_step = self._seconds_an_evaluation = None
        self._begin_anew()

    def _begin_anew(self):
        self._begin, self._aside, self._waited = time.perf_counter(), 0.0, 0.0
        self._n_steps = self._n_images = 0

    def waiting(self, loader: Iterable) -> Iterator:
        """The batches of `loader`; the time until each of them is there counts as waiting."""
        batches = iter(loader)
        while True:
            begin = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - begin
            if batch is None:
                return
            yield batch

    def count(self, n_images: int):
        """A step of so many images was made."""
        self._n_steps += 1
        self._n_images += n_images

    @contextmanager
    def aside(self, evaluation: bool = False):
        """What happens within is no training: an evaluation, a look."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - begin
            self._aside += seconds
            if evaluation:
                self._seconds_an_evaluation = seconds
                self.n_evaluations -= 1

    def take(self) -> dict[str, float]:
        """images_per_second, step (ms, with the waiting), waiting (ms a step) and n_images since the last call."""
        seconds = time.perf_counter() - self._begin - self._aside
        n = max(self._n_steps, 1)
        taken = {
            "images_per_second": self._n_images / seconds,
            "step": 1000 * seconds / n,
            "waiting": 1000 * self._waited / n,
            "n_images": self._n_images,
        }
        before = self._seconds_a_step
        weight = MEMORY_OF_PACE if before is not None else 0.0
        self._seconds_a_step = weight * (before or 0.0) + (1 - weight) * seconds / n
        self._begin_anew()
        return taken

    def state_dict(self) -> dict:
        """What was counted since the last `take`, and the pace so far, as plain values."""
        seconds = time.perf_counter() - self._begin - self._aside
        own = {name: getattr(self, f"_{name}") for name in KEPT}
        return {"seconds": seconds, **own}

    def load_state_dict(self, state: dict):
        """Take up what `state_dict` gave. Raises KeyError, TypeError, ValueError or OverflowError for others."""
        self._begin_anew()
        if any(value is not None and not abs(float(value)) < MOST_SECONDS for value in state.values()):
            raise ValueError(f"of seconds and steps, one is beyond {MOST_SECONDS:g}")
        self._begin -= float(state["seconds"])
        for name, kind in KEPT.items():
            setattr(self, f"_{name}", None if state[name] is None else kind(state[name]))

    def seconds_left(self, step: int) -> float | None:
        """Until the end, evaluations with it, as far as one was seen; None before the first `take`."""
        if self._seconds_a_step is None:
            return None
        evaluations = max(self.n_evaluations, 0) * (self._seconds_an_evaluation or 0.0)
        return min((self.n_steps - step) * self._seconds_a_step + evaluations, MOST_SECONDS)


def memory_gb(device: torch.device) -> dict[str, float]:
    """GB (10⁹ bytes) that this process holds, by name; nothing where the system does not say."""
    held = {}
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        held["this process"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (OSError, ValueError, IndexError):  # not Linux
        pass
    if device.type == "cuda":
        held["GPU, in use at most"] = torch.cuda.max_memory_allocated(device) / 1e9
        held["GPU, held"] = torch.cuda.memory_reserved(device) / 1e9
    return held


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as 1:02:03, or 2:03 below an hour."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
