"""data/dataset.py: boxes follow the pixels, and nothing but (seed, epoch, index) decides the augmentation."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.dataset import (
    Batch,
    Dataset,
    TestDataset,
    collate,
    inverse_normalize,
    to_bytes,
    to_device,
)
from data.loader import EpochBatches, set_epoch, test_loader, train_loader
from model import FasterRCNNTiny
from utils.config import Config


class Pictures:
    """A stand-in for a VOC folder: grey pictures, each with white filled rectangles at its boxes."""

    def __init__(self, sizes, boxes):
        self.sizes, self.boxes = sizes, boxes

    def __len__(self):
        return len(self.sizes)

    def get_example(self, i):
        img = np.full((3, *self.sizes[i]), 60, dtype=np.float32)
        bbox = np.array(self.boxes[i], dtype=np.float32).reshape(-1, 4)
        for y_min, x_min, y_max, x_max in bbox.astype(int):
            img[:, y_min:y_max, x_min:x_max] = 255
        return img, bbox, np.arange(len(bbox), dtype=np.int32), np.zeros(len(bbox), dtype=bool)


def many(n=24):
    """n pictures of several sizes, each with one box left of the middle: its side shows whether it was mirrored."""
    sizes = [(30 + i % 3 * 6, 40 + i % 5 * 4) for i in range(n)]
    return Pictures(sizes, [[[5, 2, 15, 12]]] * n)


def mirrored(bbox, width):
    return bool(bbox[0, 1] + bbox[0, 3] > width)


def flips(dataset):
    """Which of the samples come mirrored."""
    return [mirrored(bbox, img.shape[2]) for img, bbox, _, _ in (dataset[i] for i in range(len(dataset)))]


def small(db, **kwargs):
    return Dataset(db, **({"min_size": 60, "max_size": 100} | kwargs))


# One sample


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_boxes_follow_the_pixels(data):
    height, width = data.draw(st.integers(20, 60)), data.draw(st.integers(20, 60))
    y, x = data.draw(st.integers(0, height - 10)), data.draw(st.integers(0, width - 10))
    box = [y, x, y + data.draw(st.integers(8, height - y)), x + data.draw(st.integers(8, width - x))]
    dataset = small(Pictures([(height, width)], [[box]]), seed=data.draw(st.integers(0, 50)))
    img, bbox, _, _ = dataset[0]
    bright = (inverse_normalize(img)[0] > (60 + 255) / 2).numpy()
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    found = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
    np.testing.assert_allclose(bbox[0], found, atol=1)


def test_a_sample_by_hand():
    img, bbox, label, scale = small(Pictures([(30, 40)], [[[3, 4, 12, 20], [0, 0, 30, 40]]]), flip=False)[0]
    assert img.shape == (3, 60, 80)
    assert img.dtype == torch.float32
    assert bbox.tolist() == [[6, 8, 24, 40], [0, 0, 60, 80]]
    assert bbox.dtype == np.float32
    assert label.tolist() == [0, 1]
    assert scale == 2


def test_a_flipped_sample_by_hand():
    db = Pictures([(30, 40)], [[[3, 4, 12, 20]]])
    samples = [small(db, seed=seed)[0] for seed in range(20)]
    assert {tuple(bbox[0]) for _, bbox, _, _ in samples} == {(6, 8, 24, 40), (6, 40, 24, 72)}
    for img, bbox, _, _ in samples:
        assert img[0, 15, int(bbox[0, 1]) + 4] > img[0, 15, 79 - int(bbox[0, 1]) - 4]


def test_long_pictures_are_limited_by_the_long_side():
    img, bbox, _, scale = small(Pictures([(40, 100)], [[[2, 10, 12, 20]]]), min_size=60, max_size=50, flip=False)[0]
    assert img.shape == (3, 20, 50)
    assert scale == 0.5
    assert bbox.tolist() == [[1, 5, 6, 10]]


def test_input_mode_reaches_the_pixels():
    db = Pictures([(30, 40)], [[]])
    img = small(db, input_mode="caffe")[0][0]
    assert img[:, 0, 0].tolist() == pytest.approx([60 - 102.9801, 60 - 115.9465, 60 - 122.7717], abs=1e-4)
    img = TestDataset(db, 60, 100, "caffe")[0][0]
    assert img[:, 0, 0].tolist() == pytest.approx([60 - 102.9801, 60 - 115.9465, 60 - 122.7717], abs=1e-4)


def test_a_picture_without_boxes():
    dataset = small(Pictures([(30, 40)], [[]]))
    for seed in range(4):  # mirrored and not
        dataset.seed = seed
        _, bbox, label, _ = dataset[0]
        assert bbox.shape == (0, 4)
        assert label.shape == (0,)
    batch = collate(dataset.__getitems__([0]))
    assert batch.bboxes[0].shape == (0, 4)
    assert batch.labels[0].shape == (0,)


# Flips


def test_flips_depend_on_seed_epoch_and_index_alone():
    dataset = small(many())
    first = flips(dataset)
    assert 4 < sum(first) < 20, "about half"
    np.random.seed(1)
    torch.manual_seed(1)
    assert flips(dataset) == first
    backwards = [(img, bbox) for img, bbox, _, _ in (small(many())[i] for i in reversed(range(24)))]
    assert [mirrored(bbox, img.shape[2]) for img, bbox in reversed(backwards)] == first
    dataset.set_epoch(1)
    second = flips(dataset)
    assert second != first
    dataset.set_epoch(0)
    assert flips(dataset) == first
    assert flips(small(many(), seed=1)) not in (first, second)
    assert not any(flips(small(many(), flip=False)))


def seen(batch_size, workers, epochs=2):
    """{epoch: [(index, mirrored, pixels) in the order they came]}."""
    loader = train_loader(small(many(), seed=3), batch_size, workers)
    out = {}
    for epoch in range(epochs):
        set_epoch(loader, epoch)
        out[epoch] = []
        for batch in loader:
            assert isinstance(batch, Batch)
            for i, img, bbox, size in zip(batch.indices.tolist(), batch.imgs, batch.bboxes, batch.sizes.tolist()):
                own = img[:, : size[0], : size[1]]
                out[epoch].append((i, mirrored(bbox, size[1]), own.double().sum().item()))
    return out


def test_workers_and_batch_size_change_nothing():
    expected = seen(1, 0)
    assert [i for i, _, _ in expected[0]] != [i for i, _, _ in expected[1]]
    for epoch in expected.values():
        assert sorted(i for i, _, _ in epoch) == list(range(24))
    assert {i: f for i, f, _ in expected[0]} != {i: f for i, f, _ in expected[1]}
    assert seen(5, 0) == expected
    assert seen(4, 2) == expected  # workers that live on from the first epoch to the second


# Batches


def test_collate_by_hand():
    dataset = small(
        Pictures([(30, 40), (40, 30), (20, 100)], [[[3, 4, 12, 20]], [], [[2, 10, 12, 20], [0, 0, 4, 4]]]), flip=False
    )
    batch = collate(dataset.__getitems__([2, 0, 1]))
    assert batch.sizes.tolist() == [[20, 100], [60, 80], [80, 60]]
    assert batch.sizes.dtype == batch.indices.dtype == torch.int64
    assert batch.indices.tolist() == [2, 0, 1]
    assert batch.scale.tolist() == [1, 2, 2]
    assert batch.scale.dtype == torch.float64
    assert [len(b) for b in batch.bboxes] == [2, 1, 0]
    assert batch.bboxes[0].tolist() == [[2, 10, 12, 20], [0, 0, 4, 4]]
    assert batch.bboxes[1].tolist() == [[6, 8, 24, 40]]
    assert batch.bboxes[1].dtype == torch.float32
    assert [label.tolist() for label in batch.labels] == [[0, 1], [0], []]
    assert all(label.dtype == torch.int64 for label in batch.labels)
    assert batch.imgs.shape == (3, 3, 80, 100)
    for k, i in enumerate([2, 0, 1]):
        height, width = batch.sizes[k].tolist()
        assert torch.equal(batch.imgs[k, :, :height, :width], dataset[i][0])
        assert batch.imgs[k, :, height:].abs().sum() == 0
        assert batch.imgs[k, :, :, width:].abs().sum() == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("input_mode", ["torchvision", "caffe"])
def test_pictures_may_be_prepared_on_the_device(workers, input_mode):
    """A raw batch becomes the very batch that the loader's processes would have made."""
    preparation = {"min_size": 60, "max_size": 100, "input_mode": input_mode}
    loaders = [train_loader(Dataset(many(), **preparation, raw=raw), 3, workers) for raw in (False, True)]
    for epoch in (0, 1):
        for loader in loaders:
            set_epoch(loader, epoch)
        for ready, raw in zip(*loaders, strict=True):
            assert all(picture.dtype == torch.uint8 for picture in raw.pictures)
            made = to_device(raw, torch.device("cpu"), input_mode)
            for a, b in zip(to_device(ready, torch.device("cpu")), made, strict=True):
                if isinstance(a, list):
                    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
                elif a is not None:
                    assert torch.equal(a, b)


def test_short_sides_are_drawn_and_reach_batches_and_bytes():
    options = {"min_size": 60, "max_size": 200, "min_sizes": (30, 45)}
    ready, raw = (Dataset(many(), **options, raw=raw) for raw in (False, True))
    short = [min(ready[i][0].shape[1:]) for i in range(24)]
    assert 4 < short.count(30) < 20
    assert set(short) == {30, 45}
    batch = to_device(collate(raw.__getitems__([0, 1, 2])), torch.device("cpu"))
    for k, img in enumerate(batch.imgs):
        height, width = batch.sizes[k].tolist()
        assert torch.equal(img[:, :height, :width], ready[k][0])


def test_long_pictures_are_cut_and_lose_the_boxes_outside():
    boxes = [[2, 0, 18, 4], [2, 150, 18, 155], [2, 195, 18, 199]]
    db = Pictures([(20, 200), (20, 30)], [boxes, [[1, 2, 9, 9]]])
    dataset = small(db, min_size=20, max_size=500, flip=False, max_ratio=2)
    counts = set()
    for seed in range(30):
        dataset.seed = seed
        img, bbox, label, scale = dataset[0]
        assert img.shape == (3, 20, 40)
        assert scale == 1
        assert len(bbox) == len(label)
        counts.add(tuple(label))
        for y_min, x_min, y_max, x_max in bbox.astype(int):
            pixels = inverse_normalize(img)[:, y_min:y_max, x_min:x_max]
            torch.testing.assert_close(pixels, torch.full_like(pixels, 255.0))
    assert {(), (1,), (1, 2)} & counts > {()}
    assert dataset[1][0].shape == (3, 20, 30)


def test_proposals_are_mirrored_and_resized_with_their_picture():
    db = many(6)
    proposals = [np.array([[5, 2, 15, 12], [0, 0, 30, 40]], np.float32)] * 6  # the first is the true box
    loader = train_loader(small(db, proposals=proposals), 3)
    flipped = 0
    for epoch in range(3):
        set_epoch(loader, epoch)
        for batch in loader:
            batch = to_device(batch, torch.device("cpu"))
            for bbox, rois, size in zip(batch.bboxes, batch.rois, batch.sizes.tolist(), strict=True):
                assert torch.equal(rois[:1], bbox)
                flipped += mirrored(bbox, size[1])
    assert 3 < flipped < 15
    assert next(iter(train_loader(small(db), 3))).rois is None


def test_batches_of_wide_and_of_tall_pictures():
    sizes = [(30, 40) if i % 3 else (40, 30) for i in range(23)]
    db = Pictures(sizes, [[[2, 2, 10, 10]]] * 23)
    wide = [width > height for height, width in sizes]
    loaders = [train_loader(small(db), 4, wide=own) for own in (wide, None)]
    orders = []
    for epoch in range(2):
        for loader in loaders:
            set_epoch(loader, epoch)
        grouped, mixed = ([batch.indices.tolist() for batch in loader] for loader in loaders)
        assert len(grouped) == len(mixed) == len(loaders[0]) == 6
        assert sorted(chain(*grouped)) == list(range(23))
        assert sum(len({wide[i] for i in batch}) == 2 for batch in grouped) <= 1
        assert sum(len({wide[i] for i in batch}) == 2 for batch in mixed) > 1
        own = [[i for i in chain(*order) if wide[i]] for order in (grouped, mixed)]
        assert set(own[0]) == set(own[1])
        orders.append(grouped)
    assert orders[0] != orders[1]
    set_epoch(loaders[0], 0)
    assert [batch.indices.tolist() for batch in loaders[0]] == orders[0]


def test_bytes_are_the_nearest():
    assert to_bytes(np.array([[[0.4, 0.6, 254.7, 255.0]]], dtype=np.float32)).tolist() == [[[0, 1, 255, 255]]]


def test_pictures_for_evaluation_may_be_prepared_by_the_detector():
    torch.manual_seed(0)
    detector = FasterRCNNTiny(2, min_size=60, max_size=100).eval()
    detector.score_thresh = 0.0
    ready, raw = (TestDataset(many(3), 60, 100, raw=raw) for raw in (False, True))
    for (img, size, *truth), (picture, same_size, *same_truth) in zip(
        test_loader(ready), test_loader(raw), strict=True
    ):
        assert picture.dtype == torch.uint8
        assert size == same_size == picture.shape[1:]
        assert all(np.array_equal(a, b) for a, b in zip(truth, same_truth, strict=True))
        for a, b in zip(detector.predict([img], [size]), detector.predict([picture]), strict=True):
            assert len(a[0]) > 0
            np.testing.assert_array_equal(a[0], b[0])


def test_last_batch_is_the_rest():
    loader = train_loader(small(many(7)), batch_size=3)
    assert [len(batch.imgs) for batch in loader] == [3, 3, 1]


# Order


def test_an_epochs_order_is_a_permutation_by_seed_and_epoch():
    def order(n, seed, epoch):
        batches = EpochBatches(n, 4, seed)
        batches.epoch = epoch
        found = list(batches)
        assert len(found) == len(batches) == -(-n // 4)
        return list(chain(*found))

    first = order(50, 0, 0)
    assert sorted(first) == list(range(50))
    assert first != list(range(50))
    torch.manual_seed(9)
    np.random.seed(9)
    assert order(50, 0, 0) == first
    assert len({tuple(order(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0, 0) == []


# Evaluation


def test_test_dataset_keeps_the_original_size_and_boxes():
    dataset = TestDataset(Pictures([(30, 40), (20, 100)], [[[3, 4, 12, 20]], []]), 60, 100)
    assert len(dataset) == 2
    img, size, bbox, label, difficult = dataset[0]
    assert img.shape == (3, 60, 80)
    assert tuple(size) == (30, 40)
    assert bbox.tolist() == [[3, 4, 12, 20]]
    assert label.tolist() == [0]
    assert difficult.tolist() == [False]
    assert tuple(dataset[1][1]) == (20, 100)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("max_images", "count"), [(None, 5), (3, 3), (5, 5), (99, 5), (0, 0)])
def test_test_loader_goes_in_order_up_to_max_images(workers, max_images, count):
    sizes = [(30 + i, 50) for i in range(5)]
    loader = test_loader(TestDataset(Pictures(sizes, [[]] * 5), 30, 100), workers, max_images)
    assert len(loader) == count
    assert [tuple(size) for _, size, _, _, _ in loader] == sizes[:count]


def test_test_and_training_samples_have_the_same_pixels():
    db = many(3)
    for i in range(3):
        assert torch.equal(small(db, flip=False)[i][0], TestDataset(db, 60, 100)[i][0])


@pytest.mark.parametrize("kind", [Dataset, TestDataset])
def test_options_are_no_dataset(kind):
    with pytest.raises(TypeError, match="VOCBboxDataset"):
        kind(Config())
