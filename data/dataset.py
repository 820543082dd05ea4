"""Batches: pictures from a dataset, augmented, prepared for a network, and padded to one size.

Letters: N images a batch, R boxes, (H, W) pixels.
"""

from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from data.augmentation import draw_augmentation
from utils.bbox_tools import resize_bbox
from utils.image_tool import inverse_normalize, prepare, prepare_to, resized_size

__all__ = ["Batch", "Dataset", "RawBatch", "TestDataset", "collate", "inverse_normalize", "to_device"]


class Batch(NamedTuple):
    """What `FasterRCNNTrainer.train_step` takes, in its order."""

    imgs: torch.Tensor  # (N, 3, H, W) float32 prepared, padded with zeros at the bottom and right
    bboxes: list  # N tensors (R, 4) float32 in pixels of the prepared images
    labels: list  # N tensors (R,) int64
    scale: torch.Tensor  # (N,) float64, prepared size / original size
    sizes: torch.Tensor  # (N, 2) int64, heights and widths without the padding
    indices: torch.Tensor  # (N,) int64, places in the dataset
    rois: list | None = None  # N tensors (P, 4) float32: proposals to learn from in place of the network's own


class RawBatch(NamedTuple):
    """A Batch whose pictures still have to be prepared, on the device: as bytes they travel four times as fast."""

    pictures: list  # N tensors (3, H, W) uint8, augmented as they shall be
    bboxes: list  # this and the others as in Batch: in pixels of the prepared images
    labels: list
    scale: torch.Tensor
    sizes: torch.Tensor
    indices: torch.Tensor
    rois: list | None = None


class Sample(NamedTuple):
    """A training picture, augmented, that still has to be prepared."""

    picture: np.ndarray  # (3, H, W), 0..255
    size: tuple  # (H, W) that it will have
    bbox: np.ndarray  # (R, 4) in pixels of the prepared picture
    label: np.ndarray  # (R,)
    scale: float  # prepared size / original size
    rois: np.ndarray | None  # (P, 4) proposals, where the dataset has some


def _checked(db):
    if not hasattr(db, "get_example"):
        raise TypeError(
            f"{type(db).__name__} is no dataset: give one such as VOCBboxDataset(opt.voc_data_dir, 'train')"
        )
    return db


class Dataset:
    """Training samples of `db`: augmented, resized and normalised.

    Args:
        db: a dataset with `get_example(i)` → (img, bbox, label, difficult), such as `VOCBboxDataset`.
        min_size, max_size, input_mode, rule: see `utils.image_tool.prepare`.
        seed: with the epoch and the index, all that decides how an image is augmented.
        flip: False leaves every image as it is.
        min_sizes: short sides, one of which is drawn for each image, in place of `min_size`.
        max_ratio: a long side of more than so many short ones is cut to that, around the boxes; None cuts nothing.
        raw: leave it to `to_device` to resize and normalise the pictures of a batch.
        proposals: for each image (P, 4) boxes in its pixels, which come along in a batch as `rois`.
        plus_one: that of the network's `Convention`.
        jitter: strength of the change of colours, 0..1; 0 leaves them.
        scale_crop: probability with which a random part of a picture is taken for the whole. A box, or a proposal, goes
            with its centre.

    `dataset[i]` is (img, bbox, label, scale): (3, H, W) float32, (R, 4) float32, (R,) int32, float.
    """

    def __init__(
        self,
        db,
        min_size=600,
        max_size=1000,
        input_mode="torchvision",
        rule="round",
        *,
        seed=0,
        flip=True,
        min_sizes=None,
        max_ratio=None,
        raw=False,
        proposals=None,
        plus_one=0,
        jitter=0.0,
        scale_crop=0.0,
    ):
        self.db = _checked(db)
        self.max_size, self.input_mode, self.rule = max_size, input_mode, rule
        self.seed = seed
        self.augmentation = {
            "flip": flip,
            "min_sizes": min_sizes or (min_size,),
            "max_ratio": max_ratio,
            "plus_one": plus_one,
            "jitter": jitter,
            "scale_crop": scale_crop,
        }
        self.raw, self.proposals = raw, proposals
        # Shared memory: worker processes that live on from one epoch to the next see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def __len__(self):
        return len(self.db)

    def set_epoch(self, epoch):
        self._epoch.fill_(epoch)

    def _sample(self, i):
        img, bbox, label, _ = self.db.get_example(i)
        rng = np.random.default_rng((self.seed, int(self._epoch), i))
        drawn = draw_augmentation(rng, img.shape[1:], bbox, **self.augmentation)
        size = resized_size(drawn.size, drawn.min_size, self.max_size, self.rule)

        def boxes(bbox):
            return resize_bbox(drawn.boxes(bbox), drawn.size, size)

        belong, bbox = drawn.belong(bbox), boxes(bbox)
        left = belong & (bbox[:, 2:] > bbox[:, :2]).all(axis=1)  # what a cut leaves
        rois = None if self.proposals is None else self.proposals[i]
        if rois is not None:
            rois = boxes(rois[drawn.belong(rois)])
        return Sample(drawn.picture(img), size, bbox[left], label[left], size[0] / drawn.size[0], rois)

    def _prepare(self, sample):
        return prepare_to(sample.picture, sample.size, self.input_mode)

    def __getitem__(self, i):
        sample = self._sample(i)
        return self._prepare(sample), sample.bbox, sample.label, sample.scale

    def __getitems__(self, indices):
        """DataLoader's way to ask for a batch; the indices go along, for they decide what is sampled."""
        samples = [self._sample(i) for i in indices]
        imgs = [to_bytes(sample.picture) if self.raw else self._prepare(sample) for sample in samples]
        return list(zip(indices, imgs, samples, strict=True))


class TestDataset:
    """Samples for evaluation: prepared as in training, with the size and the boxes of the original picture.

    Args:
        db, min_size, max_size, input_mode, rule: as in `Dataset`.
        raw: leave the picture as bytes, for `FasterRCNN.predict` to prepare on its device.

    `dataset[i]` is (img, (H, W), bbox, label, difficult).
    """

    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __init__(self, db, min_size=600, max_size=1000, input_mode="torchvision", rule="round", *, raw=False):
        self.db = _checked(db)
        self.preparation = min_size, max_size, input_mode, rule
        self.raw = raw

    def __len__(self):
        return len(self.db)

    def __getitem__(self, i):
        img, bbox, label, difficult = self.db.get_example(i)
        size = img.shape[1:]
        img = to_bytes(img) if self.raw else prepare(img, *self.preparation)
        return img, size, bbox, label, difficult


def collate(rows):
    """[(index, picture, Sample), ...] → Batch; RawBatch where the pictures are bytes."""
    indices, imgs, samples = zip(*rows, strict=True)
    _, sizes, bboxes, labels, scales, rois = zip(*samples, strict=True)
    others = (
        [torch.from_numpy(bbox) for bbox in bboxes],
        [torch.from_numpy(label).long() for label in labels],
        torch.tensor(scales, dtype=torch.float64),
        torch.tensor(sizes),
        torch.tensor(indices),
        None if rois[0] is None else [torch.from_numpy(own) for own in rois],
    )
    return RawBatch(list(imgs), *others) if imgs[0].dtype == torch.uint8 else Batch(pad(imgs), *others)


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


def to_device(batch, device, input_mode="torchvision"):
    """A Batch whose tensors are on `device`; sizes, scale and indices stay with the host, which reads them.

    Args:
        batch: a `Batch`, or a `RawBatch`, whose pictures are prepared there. From pinned memory no copy is waited for.
        input_mode: that of the `Dataset`.
    """
    move = partial(torch.Tensor.to, device=device, non_blocking=True)
    if isinstance(batch, RawBatch):
        pictures = zip((move(picture).float() for picture in batch.pictures), batch.sizes.tolist(), strict=True)
        imgs = pad([prepare_to(picture, size, input_mode) for picture, size in pictures])
    else:
        imgs = move(batch.imgs)
    bboxes, labels = [move(bbox) for bbox in batch.bboxes], [move(label) for label in batch.labels]
    rois = None if batch.rois is None else [move(own) for own in batch.rois]
    imgs = imgs.contiguous(memory_format=torch.channels_last)
    return Batch(imgs, bboxes, labels, batch.scale, batch.sizes, batch.indices, rois)
