"""Batches: pictures from a dataset, augmented, prepared for a network, and padded to one size.

Letters: N images a batch, R boxes, (H, W) pixels.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from utils.bbox_tools import flip_bbox, resize_bbox
from utils.image_tool import inverse_normalize, prepare, resized_size

__all__ = ["Batch", "Dataset", "EpochSampler", "TestDataset", "inverse_normalize", "test_loader", "train_loader"]


class Batch(NamedTuple):
    """What `FasterRCNNTrainer.train_step` takes, in its order."""

    imgs: torch.Tensor  # (N, 3, H, W) float32 prepared, padded with zeros at the bottom and right
    bboxes: list  # N tensors (R, 4) float32 in pixels of the prepared images
    labels: list  # N tensors (R,) int64
    scale: torch.Tensor  # (N,) float64, prepared size / original size
    sizes: torch.Tensor  # (N, 2) int64, heights and widths without the padding
    indices: torch.Tensor  # (N,) int64, places in the dataset


class RawBatch(NamedTuple):
    """A Batch whose pictures still have to be prepared, on the device: as bytes they travel four times as fast."""

    pictures: list  # N tensors (3, H, W) uint8, mirrored as they shall be
    bboxes: list  # this and the others as in Batch: in pixels of the prepared images
    labels: list
    scale: torch.Tensor
    sizes: torch.Tensor
    indices: torch.Tensor


def _checked(db):
    if not hasattr(db, "get_example"):
        raise TypeError(
            f"{type(db).__name__} is no dataset: give one such as VOCBboxDataset(opt.voc_data_dir, 'train')"
        )
    return db


class Dataset:
    """Training samples of `db`: mirrored with probability ½, resized and normalised.

    Args:
        db: a dataset with `get_example(i)` → (img, bbox, label, difficult), such as `VOCBboxDataset`.
        min_size, max_size, input_mode: see `utils.image_tool.prepare`.
        seed: with the epoch and the index, all that decides whether an image is mirrored.
        flip: False leaves every image as it is.
        raw: leave it to `to_device` to resize and normalise the pictures of a batch.

    `dataset[i]` is (img, bbox, label, scale): (3, H, W) float32, (R, 4) float32, (R,) int32, float.
    """

    def __init__(self, db, min_size=600, max_size=1000, input_mode="torchvision", seed=0, flip=True, raw=False):
        self.db = _checked(db)
        self.min_size, self.max_size, self.input_mode = min_size, max_size, input_mode
        self.seed = seed
        self.flip, self.raw = flip, raw
        # Shared memory: worker processes that live on from one epoch to the next see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.db)

    def set_epoch(self, epoch):
        self._epoch.fill_(epoch)

    def _augmented(self, i):
        """The picture, mirrored or not; the size it will have, and the boxes in it."""
        img, bbox, label, _ = self.db.get_example(i)
        size = img.shape[1:]
        if self.flip and np.random.default_rng((self.seed, int(self._epoch), i)).random() < 0.5:
            img, bbox = np.ascontiguousarray(img[:, :, ::-1]), flip_bbox(bbox, size)
        new_size = resized_size(size, self.min_size, self.max_size)
        return img, new_size, resize_bbox(bbox, size, new_size), label, new_size[0] / size[0]

    def __getitem__(self, i):
        img, _, *others = self._augmented(i)
        return prepare(img, self.min_size, self.max_size, self.input_mode), *others

    def __getitems__(self, indices):
        """DataLoader's way to ask for a batch; the indices go along, for they decide what is sampled."""
        return [(i, self._augmented(i) if self.raw else self[i]) for i in indices]


class TestDataset:
    """Samples for evaluation: prepared as in training, with the size and the boxes of the original picture.

    Args:
        db, min_size, max_size, input_mode: as in `Dataset`.
        raw: leave the picture as bytes, for `FasterRCNN.predict` to prepare on its device.

    `dataset[i]` is (img, (H, W), bbox, label, difficult).
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __init__(self, db, min_size=600, max_size=1000, input_mode="torchvision", raw=False):
        self.db = _checked(db)
        self.min_size, self.max_size, self.input_mode, self.raw = min_size, max_size, input_mode, raw

    def __len__(self):
        return len(self.db)

    def __getitem__(self, i):
        img, bbox, label, difficult = self.db.get_example(i)
        size = img.shape[1:]
        img = to_bytes(img) if self.raw else prepare(img, self.min_size, self.max_size, self.input_mode)
        return img, size, bbox, label, difficult


class EpochSampler(torch.utils.data.Sampler):
    """The order of an epoch: a permutation that (seed, epoch) alone decide."""

    def __init__(self, n, seed=0):
        self.n, self.seed, self.epoch = n, seed, 0

    def __len__(self):
        return self.n

    def __iter__(self):
        return iter(np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist())


def collate(samples):
    """[(index, sample), ...] → Batch, or RawBatch where the samples are raw."""
    indices, samples = zip(*samples, strict=True)
    imgs, *sizes, bboxes, labels, scales = zip(*samples, strict=True)
    raw = bool(sizes)
    if raw:
        imgs = [to_bytes(img) for img in imgs]
    others = (
        [torch.from_numpy(bbox) for bbox in bboxes],
        [torch.from_numpy(label).long() for label in labels],
        torch.tensor(scales, dtype=torch.float64),
        torch.tensor(sizes[0] if raw else [img.shape[1:] for img in imgs]),
        torch.tensor(indices),
    )
    return RawBatch(imgs, *others) if raw else Batch(pad(imgs), *others)


def to_bytes(img):
    """(3, H, W) array, 0..255 → uint8 tensor: the device gets a quarter of float32's bytes."""
    return torch.from_numpy(img).round().to(torch.uint8)


def pad(imgs):
    """N tensors (3, H, W) → (N, 3, H, W) of the largest sides, zeros at the bottom and right."""
    height, width = (max(img.shape[k] for img in imgs) for k in (1, 2))
    padded = imgs[0].new_zeros(len(imgs), 3, height, width)
    for out, img in zip(padded, imgs, strict=True):
        out[:, : img.shape[1], : img.shape[2]] = img
    return padded


def to_device(batch, device, min_size=600, max_size=1000, input_mode="torchvision"):
    """A Batch whose tensors are on `device`; sizes, scale and indices stay with the host, which reads them.

    Args:
        batch: a `Batch`, or a `RawBatch`, whose pictures are prepared there. From pinned memory no copy is waited for.
        min_size, max_size, input_mode: those of the `Dataset`.
    """
    move = partial(torch.Tensor.to, device=device, non_blocking=True)
    if isinstance(batch, RawBatch):
        pictures = (move(picture).float() for picture in batch.pictures)
        imgs = pad([prepare(picture, min_size, max_size, input_mode) for picture in pictures])
    else:
        imgs = move(batch.imgs)
    bboxes, labels = [move(bbox) for bbox in batch.bboxes], [move(label) for label in batch.labels]
    return Batch(imgs.contiguous(memory_format=torch.channels_last), bboxes, labels, *batch[3:])


def train_loader(dataset, batch_size=1, num_workers=0):
    """Batches of a `Dataset` in the order of `EpochSampler`; call `set_epoch(loader, epoch)` before each epoch."""
    return DataLoader(
        dataset,
        batch_size,
        sampler=EpochSampler(len(dataset), dataset.seed),
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
    )


def set_epoch(loader, epoch):
    """Tell order and augmentation which epoch it is."""
    loader.sampler.epoch = epoch
    loader.dataset.set_epoch(epoch)


def _first(samples):
    return samples[0]


def test_loader(dataset, num_workers=0, max_images=None):
    """The samples of a `TestDataset` one by one, in order; the first `max_images` if that is given."""
    n = len(dataset) if max_images is None else min(len(dataset), max_images)
    pin = torch.cuda.is_available()
    return DataLoader(dataset, 1, sampler=range(n), num_workers=num_workers, collate_fn=_first, pin_memory=pin)


test_loader.__test__ = False
