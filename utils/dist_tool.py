"""Several processes that train one model: torchrun starts them, and each learns here who it is, its `World`.

To a program that was started alone none of this makes a difference: it is a world of one, which asks nobody. What the
processes tell each other by these methods goes through the CPU (gloo); gradients are DistributedDataParallel's.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from utils.errors import UserError, error_line
from utils.terminal_tool import as_follower

TIMEOUT = timedelta(hours=2)  # the others wait while the first indexes a new data set or sums up an evaluation
SECONDS_TO_MEET = 600  # until all are there: a slow disk may load torch for minutes
SECONDS_TO_HEAR = 5.0  # until the first process has told the error that all of them came to


@dataclass(frozen=True)
class World:
    """Who a process is among `size` ones, of which `local_size` run on its machine.

    Every method that the others take part in must be called by all of them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes, shows and talks."""
        return self.rank == 0

    def share(self, n: int) -> range:
        """Which of `n` things this process does: every `size`-th, so that no process has the large ones alone."""
        return range(self.rank, n, self.size)

    def max(self, *numbers: int) -> list[int]:
        """Of each number, the largest of all processes'."""
        if self.size == 1:
            return list(numbers)
        tensor = torch.tensor(numbers, dtype=torch.int64)
        dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor.tolist()

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all processes' tensors of one shape, where they are; the same bits in each of them."""
        if self.size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, thing) -> list:
        """What all processes give, by rank; for each of them."""
        if self.size == 1:
            return [thing]
        things = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def gather_shares(self, rows: list) -> list | None:
        """All rows in their order, of which each process has those of its `share`; None but for the main one."""
        if self.size == 1:
            return rows
        shares = [None] * self.size if self.is_main else None
        dist.gather_object(rows, shares)
        if shares is None:
            return None
        return [shares[i % self.size][i // self.size] for i in range(sum(map(len, shares)))]

    def of_main(self, thing):
        """What the main process gives."""
        if self.size == 1:
            return thing
        things = [thing]
        dist.broadcast_object_list(things)
        return things[0]

    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the main one's buffers: BatchNorm's statistics, which each takes from its own images.

        DistributedDataParallel does so before a forward pass in training, but not behind the last one, when the main
        process saves its own and all of them predict.
        """
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Until all have come here."""
        self.max(0)

    @contextmanager
    def first_here(self) -> Iterator[None]:
        """A block that the first process of each machine does before the others: they find its downloads and caches."""
        if not self.local_rank:
            yield
            self.wait()
            return
        self.wait()
        as_follower(-1)  # it would only repeat what the first has said
        try:
            yield
        finally:
            as_follower(self.rank)


ALONE = World()


def of_environment() -> World:
    """What torchrun wrote into the environment. Raises UserError where it is not whole."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return ALONE
    names = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
    try:
        return World(*(int(os.environ[name]) for name in names))
    except (KeyError, ValueError):
        raise UserError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']} is set, but {', '.join(names)} are not numbers all: start several "
            "processes with torchrun, or unset it"
        ) from None


def check_start(world: World, batch_size: int, resume: str | None) -> None:
    """Raise UserError where several processes have less than an image each, or begin anew what they had begun."""
    if batch_size < world.size:
        raise UserError(
            f"--batch-size={batch_size}: is the images of a step of all {world.size} processes together; give at least "
            f"{world.size}"
        )
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and not resume:
        raise UserError("torchrun starts the processes again: with --name=NAME --resume=auto their run would go on")


def refuse_several(command: str) -> None:
    """Raise UserError where a command that is done by one process was started several times."""
    if of_environment().size > 1:
        raise UserError(f"{command}: is done by one process; start it with python in place of torchrun")


def must_be_alike(world: World, **things) -> None:
    """Raise UserError where the processes do not begin with the same things: each would wait for what never comes."""
    all_of_them = world.gather(things)
    for rank, own in enumerate(all_of_them):
        for name, thing in own.items():
            if thing != all_of_them[0][name]:
                raise UserError(
                    f"the processes don't begin alike: the {name} of process {rank} is {thing}, that of process 0 "
                    f"{all_of_them[0][name]}; all machines need the same options, data and runs/ (one folder that they "
                    "share)"
                )


@contextmanager
def joined() -> Iterator[World]:
    """The world of this process, for as long as it takes part. An error that all of them come to is told once.

    Raises:
        UserError: the processes do not find each other; or one of them ended.
    """
    world = of_environment()
    if world.size == 1:
        yield world
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        ranks = {"rank": world.rank, "world_size": world.size}
        dist.init_process_group(backend, store=_meeting_place(world), timeout=TIMEOUT, **ranks)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the {world.size} processes don't find each other ({error_line(error)})") from None
    as_follower(world.rank)
    try:
        yield world
    except UserError as error:
        if _is_told(world, error_line(error)):
            raise SystemExit(2) from None
        raise
    except RuntimeError as error:
        if not lost_another(error):
            raise
        if not world.is_main:
            raise SystemExit(1) from None
        raise UserError(
            f"another of the {world.size} processes ended: it was killed, or stopped, or its own last line says why"
        ) from None
    dist.destroy_process_group()  # after an error it may wait for those that are gone


def _meeting_place(world):
    """A store for the processes of this start alone.

    torchrun keeps one through its restarts (pytorch's issue 135712), in which the addresses of processes that are gone
    still stand. So the main process makes a new name up, and tells it to each that asks with a name of its own.
    """
    store, _, _ = next(dist.rendezvous("env://"))
    own, deadline = uuid.uuid4().hex, time.monotonic() + SECONDS_TO_MEET
    if not world.is_main:
        store.set(f"ask/{world.rank}", own)
        store.wait([f"answer/{own}"], timedelta(seconds=SECONDS_TO_MEET))
        name = store.get(f"answer/{own}").decode()
        store.add(f"met/{name}", 1)
        return dist.PrefixStore(name, store)
    asks, answered = [f"ask/{rank}" for rank in range(1, world.size)], set()
    while store.add(f"met/{own}", 0) < world.size - 1:
        for name in {store.get(ask).decode() for ask in asks if store.check([ask])} - answered:
            store.set(f"answer/{name}", own)
            answered.add(name)
        if time.monotonic() > deadline:
            raise RuntimeError(f"some are not there after {SECONDS_TO_MEET} s")
        time.sleep(0.02)
    return dist.PrefixStore(own, store)


def lost_another(error: BaseException) -> bool:
    """Whether `error` came because another process has ended."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    words = "gloo/transport", "Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed"
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def replica(module: nn.Module, world: World, untrained=()) -> nn.Module:
    """What calls `module` so that a backward pass gives the mean of all processes' gradients; alone, itself.

    Args:
        untrained: names of its parts that get no gradient, for which the others would wait.
    """
    if world.size == 1:
        return module
    ignored = [name for name in module.state_dict() if name.startswith(tuple(f"{part}." for part in untrained))]
    module._ddp_params_and_buffers_to_ignore = ignored  # read by the next line
    return DistributedDataParallel(module, gradient_as_bucket_view=True)


def _is_told(world, line):
    """Whether the main process tells this `line` too."""
    store = dist.distributed_c10d._get_default_store()
    try:
        if world.is_main:
            store.set("error", line)
            return False
        deadline = time.monotonic() + SECONDS_TO_HEAR
        while not store.check(["error"]) and time.monotonic() < deadline:  # `wait` would print lines of its own
            time.sleep(0.05)
        return store.check(["error"]) and store.get("error").decode() == line
    except RuntimeError:  # the store was the main process's, where torchrun has none, and that has ended with an error
        return True
