"""The VOC matching as a slow loop, for the tests of the analyses, and the sets of images they are tried on."""

import csv
import io

import numpy as np
from hypothesis import strategies as st

from tests.utils.test_eval_tool import an_image, as_arrays, slow_iou

some_images = st.lists(an_image(), max_size=4)


def columns_of(*images):
    return as_arrays(images, np.float64)


def ranked(images, keep=lambda label, score: True):
    """(score, image, place, label) of all detections that `keep` takes, the best score first."""
    dets = [
        (score, i, d, label)
        for i, image in enumerate(images)
        for d, (label, score) in enumerate(zip(image[1], image[2]))
        if keep(label, score)
    ]
    return sorted(dets, key=lambda det: (-det[0], *det[1:3]))


def slow_match(images, iou_thresh, plus_one, keep=lambda label, score: True):
    """{(image, place): box found, "false" or "ignored"} by the VOC rule."""
    fate, taken = {}, set()
    for _, i, d, label in ranked(images, keep):
        boxes, labels, difficult = images[i][3:]
        best, best_iou = None, -1
        for g, box in enumerate(boxes):
            iou = slow_iou(images[i][0][d], box, plus_one)
            if labels[g] == label and iou > best_iou:
                best, best_iou = g, iou
        if best is None or best_iou < iou_thresh or (i, best) in taken:
            fate[i, d] = "false"
        elif difficult[best]:
            fate[i, d] = "ignored"
        else:
            fate[i, d] = best
            taken.add((i, best))
    return fate


def n_boxes(images, wanted):
    return sum(label in wanted and not hard for image in images for label, hard in zip(image[4], image[5]))


def slow_counts(images, fate, wanted, kept):
    """Boxes found, false alarms and boxes of the classes `wanted`, among the ranked detections `kept`."""
    fates = [fate[i, d] for _, i, d, label in kept if label in wanted]
    hits = sum(isinstance(f, int) for f in fates)
    return hits, fates.count("false"), n_boxes(images, wanted)


def read_csv(rows):
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue().splitlines()
