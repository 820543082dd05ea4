"""utils/inference_tool.py with a stand-in for the detector, that knows what it sees by a picture's brightness."""

import tracemalloc
import weakref

import numpy as np
import pytest
import torch

from data.dataset import TestDataset
from data.loader import test_loader
from model import build_model
from tests.stand_in import TWO, Detector
from utils.inference_tool import detect_all, evaluate_model, propose_all

# evaluate_model


def samples():
    """Three pictures of brightness 1, 2, 3: a cat found, an été missed, a difficult cat."""
    box = np.array([[0, 0, 10, 10]], dtype=np.float32)
    for value, label, difficult in ((1, 0, False), (2, 1, False), (3, 0, True)):
        img = torch.full((3, 8, 8), float(value))
        yield img, (100, 200 + value), box, np.array([label], np.int32), np.array([difficult])


def test_evaluate_scores_what_was_found():
    hit = ((0.0, 0.0, 10.0, 10.0), 0, 0.8)
    detector = Detector({1: [hit], 2: [((50.0, 50.0, 60.0, 60.0), 1, 0.9)], 3: [hit]})
    ticks = []
    result = evaluate_model(detector, samples(), on_progress=ticks.append).voc
    assert tuple(result.label_names) == ("cat", "été")
    assert result.ap.tolist() == [1, 0]
    assert result.map07 == 0.5
    assert result.n_gt.tolist() == [1, 1]
    assert ticks == [1, 1, 1]
    assert [(n, list(sizes)) for n, sizes, _ in detector.calls] == [(1, [(100, 200 + k)]) for k in (1, 2, 3)]


@pytest.mark.parametrize(("n_together", "expected"), [(1, [1, 1, 1]), (2, [2, 1]), (3, [3]), (8, [3])])
def test_evaluate_several_at_a_time(n_together, expected):
    detector = Detector({1: [((0.0, 0.0, 10.0, 10.0), 0, 0.8)]})
    ticks = []
    result = evaluate_model(detector, samples(), on_progress=ticks.append, n_together=n_together).voc
    assert result.ap.tolist() == evaluate_model(detector, samples()).voc.ap.tolist()
    assert ticks == expected


def test_evaluate_without_detections():
    result = evaluate_model(Detector({}), samples()).voc
    assert result.map == 0
    assert result.n_det.tolist() == [0, 0]


def test_evaluate_keeps_no_picture():
    alive = []

    def many():
        for _ in range(20):
            for img, *rest in samples():
                alive.append(weakref.ref(img))
                yield img, *rest
                del img
                assert sum(ref() is not None for ref in alive) <= 2  # the consumer may still hold the last one

    result = evaluate_model(Detector({}), many()).voc
    assert len(alive) == 60
    assert result.n_gt.sum() == 40


class ManyPictures:
    """A data set of 20,000 made pictures, each with true boxes."""

    def __len__(self):
        return 20_000

    def get_example(self, i):
        img = np.full((3, 32, 32), i % 251, np.float32)
        return img, np.ones((9, 4), np.float32), np.zeros(9, np.int32), np.zeros(9, bool)


def test_memory_of_20000_images_is_that_of_their_detections():
    """Through the loader of `train.py eval`: neither pictures nor true boxes are held."""
    boxes = [((0.0, 0.0, 10.0, 10.0), 0, 0.5)] * 100
    detector = Detector(dict.fromkeys(range(251), boxes))
    detector.calls = Forgetful()
    loader = test_loader(TestDataset(ManyPictures(), raw=True))
    held, n_done = {}, 0

    def note(n):
        nonlocal n_done
        n_done += n
        if n_done in (1_000, 20_000):
            held[n_done] = tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    found = detect_all(detector, loader, note, n_together=8, raw=True)
    tracemalloc.stop()
    arrays = [array for column in found.columns for array in column[1_000:]]
    n_bytes = sum(array.nbytes for array in arrays)
    assert len(found) == 20_000
    grown = held[20_000] - held[1_000]
    assert n_bytes <= grown <= n_bytes + 200 * len(arrays)  # an array is an object of 112 bytes, a reshaped one two


class Forgetful(list):
    """What a stand-in notes would be counted as well."""

    def append(self, _):
        pass


def test_evaluate_gives_each_image_its_own_rois():
    detector = Detector({200: TWO})
    rows = list(samples())
    evaluate_model(detector, rows, n_together=2, rois=[np.full((1, 4), i) for i in range(len(rows))])
    given = [int(own[0, 0]) for _, _, rois in detector.calls for own in rois]
    assert given == list(range(len(rows)))
    assert len(detector.calls) == -(-len(rows) // 2)


def test_an_rpn_is_judged_as_a_detector_of_one_class():
    detector = Detector({200: [(box, 0, score) for box, _, score in TWO]})
    detector.rpn_only, detector.detected_names = True, ("object",)
    result = evaluate_model(detector, samples()).voc
    assert result.label_names == ("object",)
    assert result.n_gt.tolist() == [2]  # a cat and an été, and not the difficult one


# Proposals


def test_all_proposals_whatever_their_score():
    model = build_model("tiny", 2, rpn_score_thresh=1.0, rpn_n_test_post_nms=3)  # none is as sure
    loader = [(np.full((3, 64, 80), 9.0, np.float32), (64, 80), None, None, None)] * 2
    layer = model.rpn.proposal_layer
    before = vars(layer).copy()
    proposals = propose_all(model, loader, 10**6, 50, raw=True)
    assert [len(score) for _, score in proposals] == [50, 50]
    assert vars(layer) == before
