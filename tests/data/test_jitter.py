"""data/augmentation.py: other colours, against torchvision's functions and a loop over the pixels."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchvision.transforms.v2 import functional as theirs

from data.augmentation import Augmentation, Colour, draw_augmentation, recolour

FACTORS = st.floats(0, 2)
PICTURES = arrays(np.uint8, st.tuples(st.just(3), st.integers(1, 5), st.integers(1, 5))).map(np.float32)


def reference(img, brightness, contrast, saturation, hue):
    """Each pixel by itself: (3, H, W) float64, not rounded and not clipped."""
    out = np.empty(img.shape)
    mean = np.mean([0.299 * r + 0.587 * g + 0.114 * b for r, g, b in img.reshape(3, -1).T.tolist()])
    for y, x in np.ndindex(img.shape[1:]):
        r, g, b = img[:, y, x].tolist()
        luma = 0.299 * r + 0.587 * g + 0.114 * b
        chroma = complex(0.492 * (b - luma), 0.877 * (r - luma)) * cmath.exp(2j * math.pi * hue)
        luma, chroma = mean + contrast * (luma - mean), contrast * saturation * chroma
        r, b = luma + chroma.imag / 0.877, luma + chroma.real / 0.492
        g = (luma - 0.299 * r - 0.114 * b) / 0.587
        out[:, y, x] = [brightness * r, brightness * g, brightness * b]
    return out


def whole(img):
    return img.dtype == np.float32 and np.array_equal(img, np.round(img)) and img.min() >= 0 and img.max() <= 255


@settings(max_examples=100, deadline=None)
@given(PICTURES, FACTORS, FACTORS, FACTORS, st.floats(-0.5, 0.5))
def test_each_pixel_by_itself(img, brightness, contrast, saturation, hue):
    before = img.copy()
    out = recolour(img, brightness, contrast, saturation, hue)
    assert whole(out)
    assert np.abs(out - reference(img, brightness, contrast, saturation, hue).clip(0, 255)).max() < 0.501
    np.testing.assert_array_equal(img, before)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_as_torchvision_where_nothing_is_clipped(name, factor):
    img = np.random.default_rng(0).integers(90, 160, (3, 20, 30)).astype(np.float32)
    expected = getattr(theirs, f"adjust_{name}")(torch.from_numpy(img) / 255, factor) * 255
    # half a level of rounding, and torchvision's weights of luma, which sum to 0.9999
    assert np.abs(recolour(img, **{name: factor}) - expected.numpy()).max() < 0.53


@given(PICTURES)
def test_nothing_changes_at_strength_0(img):
    np.testing.assert_array_equal(recolour(img), img)
    np.testing.assert_array_equal(recolour(img, hue=1), img)
    grainy = img + np.float32(0.3)  # not whole, and so not what comes out of `recolour`
    drawn = draw_augmentation(np.random.default_rng(0), img.shape[1:], np.zeros((0, 4)), flip=False, jitter=0.0)
    np.testing.assert_array_equal(drawn.picture(grainy), grainy)


@given(PICTURES, FACTORS, st.floats(-0.5, 0.5))
def test_grey_stays_grey(img, saturation, hue):
    img[:] = img[:1]
    np.testing.assert_array_equal(recolour(img, saturation=saturation, hue=hue), img)


def test_a_third_of_a_turn_makes_red_green_and_green_blue():
    img = np.full((3, 1, 3), 100, np.float32)
    img[[0, 1, 2], 0, [0, 1, 2]] = 140  # reddish, greenish, bluish
    assert recolour(img, hue=1 / 3)[:, 0].argmax(axis=0).tolist() == [1, 2, 0]
    assert recolour(img, hue=-1 / 3)[:, 0].argmax(axis=0).tolist() == [2, 0, 1]


def test_strength_bounds_what_is_drawn():
    draws = [draw_augmentation(np.random.default_rng(i), (9, 9), np.zeros((0, 4)), jitter=0.4) for i in range(400)]
    colours = np.array([drawn.colour for drawn in draws])
    reach = np.array([0.4, 0.4, 0.4, 0.08])
    low, high = colours.min(axis=0), colours.max(axis=0)
    neutral = np.array(Colour())
    assert (low >= neutral - reach).all()
    assert (high <= neutral + reach).all()
    assert (low < neutral - 0.95 * reach).all()
    assert (high > neutral + 0.95 * reach).all()
    assert (np.abs(colours.mean(axis=0) - neutral) < 0.15 * reach).all()
    assert np.abs(np.corrcoef(colours.T) - np.eye(4)).max() < 0.2  # each by itself


def test_boxes_stay_where_they_were():
    bbox = np.array([[2, 3, 11, 17], [0, 0, 20, 30]], np.float32)
    options = {"min_sizes": (60, 90), "max_ratio": 1.2, "scale_crop": 0.5}
    for seed in range(20):
        plain, other = (
            draw_augmentation(np.random.default_rng(seed), (20, 30), bbox, jitter=jitter, **options)
            for jitter in (0.0, 0.7)
        )
        assert plain.colour is None
        assert other.colour is not None
        assert other._replace(colour=None) == plain


def test_the_kept_part_decides_what_the_contrast_is_around():
    img = np.zeros((3, 4, 8), np.float32)
    img[:, :, 4:] = np.array([80, 160] * 2)
    drawn = Augmentation((0, 4, 4, 8), True, 60, colour=Colour(contrast=0.5))
    assert drawn.picture(img)[0, 0].tolist() == [140, 100, 140, 100]
