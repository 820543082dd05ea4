"""data/loader.py: a run that goes on has the batches that it would have had; loading processes may be killed."""

import os
import signal
from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data.dataset import Dataset
from data.loader import MAX_DEATHS, EpochBatches, EpochLoader, set_epoch, train_loader
from utils.dist_tool import World
from utils.errors import UserError


class Pictures:
    """Twelve pictures; those in `deadly` kill the process that reads them, the first time or always."""

    def __init__(self, folder, deadly=(), always=False):
        self.folder, self.deadly, self.always = folder, deadly, always

    def __len__(self):
        return 12

    def get_example(self, i):
        mark = self.folder / f"{i}"
        if i in self.deadly and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return (
            np.full((3, 20, 30), i, np.float32),
            np.array([[2, 3, 9, 9]], np.float32),
            np.array([0]),
            np.array([False]),
        )


def loader_of(folder, n_workers, **others):
    dataset = Dataset(Pictures(folder, **others), 20, 40)
    return EpochLoader(lambda: train_loader(dataset, 2, n_workers))


def content(updates):
    return [(batch.indices.tolist(), batch.imgs.sum().item(), batch.bboxes[0].tolist(), update.weights, update.n_images)
            for update in updates for batch in update.batches]  # fmt: skip


@given(st.integers(0, 30), st.integers(1, 7), st.integers(0, 3), st.booleans(), st.data())
def test_an_order_that_is_begun_in_its_middle(n, size, epoch, grouped, data):
    wide = data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) if grouped else None
    batches = EpochBatches(n, size, seed=4, wide=wide)
    batches.epoch = epoch
    whole = list(batches)
    assert sorted(chain(*whole)) == list(range(n))
    assert len(whole) == len(batches)
    batches.skip = data.draw(st.integers(0, len(whole)))
    assert list(batches) == whole[batches.skip :]


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.data())
def test_what_several_processes_take_is_the_batch(n, size, n_processes, accumulate, grouped, data):
    wide = data.draw(st.lists(st.booleans(), min_size=n, max_size=n)) if grouped else None
    whole = list(EpochBatches(n, size, seed=4, wide=wide))
    shares = [EpochBatches(n, size, 4, wide, World(rank, n_processes), accumulate) for rank in range(n_processes)]
    of_ranks = [share.updates() for share in shares]
    assert all(len(share) == len(whole) == len(updates) for share, updates in zip(shares, of_ranks, strict=True))
    assert [list(share) for share in shares] == [
        [part.indices for parts, _ in own for part in parts] for own in of_ranks
    ]
    for batch, *own in zip(whole, *of_ranks, strict=True):
        parts = [part for parts, n_images in own for part in parts]
        assert {n_images for _, n_images in own} == {len(batch)}
        assert len({len(parts) for parts, _ in own}) == 1  # all processes take as many
        assert len(own[0][0]) <= accumulate
        taken = [part for part in parts if part.weight]
        assert [i for part in taken for i in part.indices] == batch
        assert all(part.weight == len(part.indices) / len(batch) for part in taken)
        assert max(len(part.indices) for part in taken) - min(len(part.indices) for part in taken) <= 1
        assert all(part.indices == batch[:1] for part in parts if not part.weight)


@pytest.mark.parametrize("n_workers", [0, 2])
def test_an_epoch_from_its_third_batch_on(tmp_path, n_workers):
    loader = loader_of(tmp_path, n_workers)
    epochs = [content(loader.epoch(epoch)) for epoch in range(2)]
    again = loader_of(tmp_path, n_workers)
    assert content(again.epoch(1, skip=3)) == epochs[1][3:]
    assert content(again.epoch(0)) == epochs[0]  # the next is whole
    assert len(again) == 6


def test_nothing_is_drawn_from_the_generator_that_dropout_has(tmp_path):
    before = torch.get_rng_state()
    list(loader_of(tmp_path, 0).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_killed_process_had_is_loaded_again(tmp_path, capsys):
    expected = content(loader_of(tmp_path, 0).epoch(0))
    found = content(loader_of(tmp_path, 2, deadly=(3, 7)).epoch(0))
    assert found == expected
    assert 1 <= capsys.readouterr().err.count("a process that loads pictures was killed") <= 2


def test_processes_that_are_killed_again_and_again_end_it(tmp_path):
    loader = loader_of(tmp_path, 1, deadly=(3,), always=True)
    with pytest.raises(UserError, match=f"were killed {MAX_DEATHS} times .*lower --num-workers"):
        list(loader.epoch(0))


def test_an_error_of_a_picture_is_no_death(tmp_path):
    loader = loader_of(tmp_path, 1)
    loader._loader.dataset.db.get_example = None
    with pytest.raises(TypeError):
        list(loader.epoch(0))


def test_the_epoch_is_the_augmentations_too(tmp_path):
    loader = train_loader(Dataset(Pictures(tmp_path), 20, 40), 12)
    flipped = []
    for epoch in range(4):
        set_epoch(loader, epoch)
        (batch,) = loader
        order = np.argsort(batch.indices)
        flipped.append([batch.bboxes[i][0, 1].item() != 3 for i in order])
    assert len({str(one) for one in flipped}) == 4
