"""The order in which a dataset's samples come, and the processes that load them."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.dataset import Batch, RawBatch, collate
from utils.dist_tool import ALONE
from utils.errors import UserError
from utils.terminal_tool import warn

MAX_DEATHS = 3  # of loading processes, without a batch between them


class Update(NamedTuple):
    """What one process takes for one update of the parameters, all its batches before the next update."""

    batches: list[Batch | RawBatch]
    weights: list[float]  # of their losses; those of all processes together add up to 1
    n_images: int  # of all processes together


class Part(NamedTuple):
    """A batch of an update, as indices."""

    indices: list[int]
    weight: float  # of its loss


class EpochBatches(Sampler):
    """The batches of an epoch, as lists of indices: a permutation that (seed, epoch) alone decide, cut into pieces.

    A batch is what one update learns from. Several processes have a share of each, and take it in one or several parts:
    what is in a batch does not depend on it. The parts are equally large up to one image, and every process takes as
    many: for one that has no image left, in an epoch's last batch, it is the batch's first image, with weight 0.

    Args:
        n: images.
        batch_size: images a batch; the last has what is left.
        wide: of each image, whether it is wider than tall: batches are then of wide ones or of tall ones, so that
            little is padded. What is left of both kinds at the end shares the last batches: there are as many as
            without.
        world: which of the processes this is: a `World`.
        accumulate: in how many parts a process takes what it has of a batch, at most.

    Attributes:
        epoch: the order's.
        skip: batches that are left out at the beginning: a run that goes on had them before.
    """

    def __init__(self, n, batch_size, seed=0, wide=None, world=ALONE, accumulate=1):
        self.n, self.batch_size, self.seed, self.wide = n, batch_size, seed, wide
        self.world, self.accumulate = world, accumulate
        self.epoch = self.skip = 0

    def __len__(self):
        return math.ceil(self.n / self.batch_size)

    def __iter__(self):
        return (part.indices for parts, _ in self.updates() for part in parts)

    def updates(self) -> list[tuple[list[Part], int]]:
        """For each update of the epoch but the first `skip`: what this process takes, and the images of all."""
        return [(self._own(batch), len(batch)) for batch in self._batches()[self.skip :]]

    def _own(self, batch):
        n_parts = min(self.accumulate, math.ceil(len(batch) / self.world.size))
        own = cut(cut(batch, self.world.size)[self.world.rank], n_parts)
        return [Part(part or batch[:1], len(part) / len(batch)) for part in own]

    def order(self):
        """The epoch's permutation of the indices."""
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist()

    def _batches(self):
        size, whole = self.batch_size, []
        waiting = {True: [], False: []}
        for i in self.order():
            own = waiting[self.wide is None or bool(self.wide[i])]
            own.append(i)
            if len(own) == size:
                whole.append(own.copy())
                own.clear()
        left = waiting[True] + waiting[False]
        return whole + [left[begin : begin + size] for begin in range(0, len(left), size)]


def cut(items: list, n: int) -> list[list]:
    """`items` in `n` pieces, in their order; the longest has one more than the shortest."""
    bounds = [len(items) * k // n for k in range(n + 1)]
    return [items[begin:end] for begin, end in pairwise(bounds)]


def train_loader(dataset, batch_size=1, num_workers=0, wide=None, world=ALONE, accumulate=1):
    """Batches of a `Dataset` in an order that seed and epoch decide; call `set_epoch(loader, epoch)` before each.

    Args:
        wide: of each image, whether it is wider than tall: see `EpochBatches`. None mixes them as they come.
        world, accumulate: see `EpochBatches`.
    """
    batches = EpochBatches(len(dataset), batch_size, dataset.seed, wide, world, accumulate)
    return _loader(dataset, num_workers, batch_sampler=batches, collate_fn=collate, persistent_workers=num_workers > 0)


def set_epoch(loader, epoch, skip=0):
    """Tell order and augmentation which epoch it is; its first `skip` batches are left out."""
    loader.batch_sampler.epoch, loader.batch_sampler.skip = epoch, skip
    loader.dataset.set_epoch(epoch)


def _first(samples):
    return samples[0]


def test_loader(dataset, num_workers=0, max_images=None, world=ALONE):
    """The samples of a `TestDataset` one by one, in order; the first `max_images` if that is given.

    Args:
        world: of several processes each loads its share of them.
    """
    n = len(dataset) if max_images is None else min(len(dataset), max_images)
    return _loader(dataset, num_workers, batch_size=1, sampler=world.share(n), collate_fn=_first)


test_loader.__test__ = False


def _loader(dataset, num_workers, **arguments):
    # A generator of its own: torch's takes a number of the global one for each pass, which dropout draws from too.
    return DataLoader(
        dataset,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_leave_signals_to_the_run,
        generator=torch.Generator(),
        **arguments,
    )


def _leave_signals_to_the_run(_):
    """In a loading process: Ctrl-C goes to all of a terminal's processes, and the run still needs its batches."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class EpochLoader:
    """What there is for each update, epoch by epoch. What a loading process had that was killed is loaded again.

    Args:
        make_loader: gives a `train_loader`, a new one each time.
    """

    def __init__(self, make_loader: Callable[[], DataLoader]):
        self._make, self._loader = make_loader, make_loader()

    def __len__(self):
        """Updates an epoch."""
        return len(self._loader.batch_sampler)

    def epoch(self, epoch: int, skip: int = 0) -> Iterator[Update]:
        """The updates of an epoch but the first `skip`.

        Raises:
            UserError: loading processes are killed again and again.
        """
        deaths = 0
        while True:
            set_epoch(self._loader, epoch, skip)
            try:
                batches = self._begin()
                for parts, n_images in self._loader.batch_sampler.updates():
                    own = list(islice(batches, len(parts)))
                    deaths = 0
                    skip += 1
                    yield Update(own, [part.weight for part in parts], n_images)
                return
            except (RuntimeError, OSError, EOFError) as error:  # torch's own, or a connection to it that broke
                if not self._has_lost_a_process(5.0 if isinstance(error, ConnectionError | EOFError) else 0.0):
                    raise
                deaths += 1
                if deaths == MAX_DEATHS:
                    raise UserError(
                        f"the processes that load pictures were killed {deaths} times (out of memory, most likely): "
                        "lower --num-workers; 0 loads in the run's own process"
                    ) from None
                warn("a process that loads pictures was killed (memory may be short); others load its batch again")
                self._loader = self._make()

    def _has_lost_a_process(self, seconds):
        """Whether one has ended, or does within so many seconds: its connections break before the system says so."""
        processes, deadline = getattr(self._loader._iterator, "_workers", ()), time.monotonic() + seconds
        while not (lost := any(not process.is_alive() for process in processes)) and time.monotonic() < deadline:
            time.sleep(0.05)
        return lost

    def _begin(self):
        batches = iter(self._loader)
        if self._loader.num_workers and threading.current_thread() is threading.main_thread():
            # torch would raise its error within whatever is going on when a process ends, an update of half the
            # parameters for one; without its handler the error comes where the next batch is asked for, 5 s later.
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return batches
