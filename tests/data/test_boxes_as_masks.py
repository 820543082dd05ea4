"""Every augmentation, alone and together: a box is drawn as a mask, and must come out where the mask does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augmentation import draw_augmentation
from data.dataset import Dataset, collate, inverse_normalize, to_device
from utils.bbox_tools import resize_bbox
from utils.image_tool import resize, resized_size

OPTIONS = {
    "flip": {},
    "multi-scale": {"flip": False, "min_sizes": (24, 60, 150)},
    "cut": {"flip": False, "max_ratio": 1.3},
    "scale crop": {"flip": False, "scale_crop": 1.0},
    "together": {"min_sizes": (24, 60, 150), "max_ratio": 1.3, "scale_crop": 0.7},
}
MAX_SIZE = 200


@st.composite
def scenes(draw):
    """The size of a picture, from a single pixel on, and boxes of whole pixels in it, (R, 4)."""
    size = height, width = draw(st.tuples(st.integers(1, 70), st.integers(1, 70)))
    boxes = []
    for _ in range(draw(st.integers(0, 4))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        boxes.append([y, x, draw(st.integers(y + 1, height)), draw(st.integers(x + 1, width))])
    return size, np.array(boxes, np.float32).reshape(-1, 4)


def masks_of(bbox, size):
    """(R, H, W) float32: each box by itself, 255 on 0."""
    masks = np.zeros((len(bbox), *size), np.float32)
    for mask, (y_min, x_min, y_max, x_max) in zip(masks, bbox.astype(int)):
        mask[y_min:y_max, x_min:x_max] = 255
    return masks


def extent(bright):
    """[y_min, x_min, y_max, x_max], edges, of what is True in an (H, W) array; None where nothing is."""
    rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
    return [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1] if len(rows) else None


def assert_shown(mask, box):
    """A mask, 0..255, that was resized passes one half at the box's edges: a pixel shows that within half a pixel."""
    if (box[2:] - box[:2]).min() >= 1:  # then the centre of some pixel is inside, where each direction leaves a half
        assert mask.max() > 63
    if mask.max() > 254.99:  # of one original pixel there may be no pixel that shows all, and one half lies elsewhere
        assert np.abs(np.subtract(extent(mask > 127.49), box)).max() < 0.51


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=100, deadline=None)
@given(scenes(), st.integers(0, 10**6), st.sampled_from([0, 1]))
def test_boxes_come_out_where_their_masks_do(name, scene, seed, plus_one):
    size, edges = scene
    bbox = edges - np.array([0, 0, plus_one, plus_one], np.float32)
    options = OPTIONS[name] | {"plus_one": plus_one}
    drawn = draw_augmentation(np.random.default_rng(seed), size, bbox, **options)._replace(colour=None)
    masks = masks_of(edges, size)
    cut = drawn.picture(masks)
    assert cut.shape == (len(bbox), *drawn.size)
    out = drawn.boxes(bbox)
    for mask, box in zip(cut, out, strict=True):
        if mask.any():
            assert np.add(box, [0, 0, plus_one, plus_one]).tolist() == extent(mask > 0)
        else:
            assert (box[2:] - box[:2]).min() == 0
    if drawn.crop is None:
        assert drawn.belong(bbox).all()
    else:
        y_min, x_min, y_max, x_max = drawn.crop
        centres = [np.argwhere(mask).mean(axis=0) + 0.5 for mask in masks]
        inside = [y_min <= y < y_max and x_min <= x < x_max for y, x in centres]
        assert drawn.belong(bbox).tolist() == inside

    if plus_one or not len(bbox):
        return
    final = resized_size(drawn.size, drawn.min_size, MAX_SIZE)
    resized = resize(torch.from_numpy(cut), final).numpy()
    for mask, box in zip(resized, resize_bbox(out, drawn.size, final), strict=True):
        assert_shown(mask, box)


class White:
    """Two pictures of a scene in which one box is white and the rest is black."""

    def __init__(self, size, bbox, which):
        self.size, self.bbox, self.which = size, bbox, which

    def __len__(self):
        return 2

    def get_example(self, i):
        masks = masks_of(self.bbox, self.size)
        img = masks[self.which] if len(masks) else np.zeros(self.size, np.float32)
        label = np.arange(len(self.bbox), dtype=np.int32)
        return np.stack([img] * 3), self.bbox, label, np.zeros(len(label), bool)


def dataset(size, bbox, which=0, **options):
    options = {"proposals": [bbox, bbox]} | options
    return Dataset(White(size, bbox, which), 60, MAX_SIZE, **options)


@pytest.mark.parametrize("name", OPTIONS)
@settings(max_examples=40, deadline=None)
@given(scenes(), st.integers(0, 10**6))
def test_samples_hold_their_boxes_and_labels(name, scene, seed):
    size, bbox = scene
    for which in range(max(1, len(bbox))):  # each box white once: nothing else changes, least of all what is drawn
        (img, out, label, scale), again = (dataset(size, bbox, which, seed=seed, **OPTIONS[name])[0] for _ in range(2))
        height, width = img.shape[1:]
        assert torch.equal(img, again[0])
        np.testing.assert_array_equal(out, again[1])
        assert out.dtype == np.float32
        assert out.shape == (len(label), 4)
        assert (out[:, 2:] > out[:, :2]).all()
        assert (out >= 0).all()
        assert (out <= np.array([height, width, height, width]) * (1 + 1e-6)).all()  # of float32's last bit
        assert scale > 0
        if name == "scale crop":
            assert len(label) > 0 or not len(bbox)
        if which in label:
            assert_shown(inverse_normalize(img)[1].numpy(), out[label.tolist().index(which)])


def test_epochs_and_images_and_seeds_draw_anew():
    bbox = np.array([[20, 20, 40, 40]], np.float32)
    options = {"scale_crop": 1.0, "jitter": 0.5}
    one, other = dataset((60, 70), bbox, seed=0, **options), dataset((60, 70), bbox, seed=1, **options)
    samples = [one[0], one[1], other[0]]
    one.set_epoch(1)
    samples += [one[0]]
    assert len({(tuple(img.shape), float(img.double().sum())) for img, *_ in samples}) == 4
    one.set_epoch(0)
    assert torch.equal(one[0][0], samples[0][0])


@pytest.mark.parametrize("plus_one", [0, 1])
def test_proposals_go_with_their_centre(plus_one):
    bbox = np.array([[4, 4, 24, 24], [20, 40, 50, 60], [0, 0, 60, 70], [50, 2, 58, 12]], np.float32)
    fewer = 0
    for seed in range(20):
        options = {"scale_crop": 1.0, "seed": seed, "plus_one": plus_one}
        batch = collate(dataset((60, 70), bbox, **options).__getitems__([0, 1]))
        for rois, boxes in zip(batch.rois, batch.bboxes, strict=True):
            assert torch.equal(rois, boxes)
            fewer += len(rois) < len(bbox)
    assert fewer > 20


@pytest.mark.parametrize("options", [{"jitter": 0.5}, {"scale_crop": 1.0}, {"jitter": 1.0, "scale_crop": 0.5}])
def test_pictures_travel_as_bytes_and_are_the_same(options):
    bbox = np.array([[20, 20, 40, 40]], np.float32)
    for seed in range(5):
        ready, raw = (
            to_device(collate(dataset((60, 70), bbox, seed=seed, raw=raw, **options).__getitems__([0, 1])), "cpu")
            for raw in (False, True)
        )
        assert torch.equal(ready.imgs, raw.imgs)
        assert all(torch.equal(a, b) for a, b in zip(ready.bboxes, raw.bboxes, strict=True))
