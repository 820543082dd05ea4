"""utils/eval_tool.py against a slow loop, hand-made cases and other evaluators' published results."""

import json
import xml.etree.ElementTree as ET
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.eval_tool import (
    calc_detection_voc_ap,
    calc_detection_voc_prec_rec,
    eval_detection_voc,
    evaluate_detections,
    match_detections_voc,
)

RECALLS = [0.1 * t for t in range(11)]


# The slow loop


def slow_iou(a, b, plus):
    height = min(a[2], b[2]) + plus - max(a[0], b[0])
    width = min(a[3], b[3]) + plus - max(a[1], b[1])
    inter = max(height, 0) * max(width, 0)
    area_a, area_b = ((box[2] + plus - box[0]) * (box[3] + plus - box[1]) for box in (a, b))
    union = area_a + area_b - inter
    return inter / union if union else -1


def slow_ap(matches, n_pos, use_07_metric):
    """From 1/0/−1 in order of score; straight from the definitions."""
    if n_pos == 0:
        return np.nan
    points = [(0.0, 0.0)]  # recall, precision
    tp = fp = 0
    for match in matches:
        tp, fp = tp + (match == 1), fp + (match == 0)
        points.append((tp / n_pos, tp / (tp + fp) if tp + fp else 0.0))
    if use_07_metric:
        return sum(max((p for r, p in points if r >= t), default=0.0) for t in RECALLS) / 11
    recalls = sorted({r for r, _ in points})
    return sum((high - low) * max(p for r, p in points if r >= high) for low, high in pairwise(recalls))


def slow_eval(images, n_classes, iou_thresh, use_07_metric, plus_one):
    """AP of each class; `images` is a list of (pred_bbox, pred_label, score, gt_bbox, gt_label, difficult) lists."""
    aps = []
    for c in range(n_classes):
        dets = [
            (score, i, box) for i, image in enumerate(images) for box, label, score in zip(*image[:3]) if label == c
        ]
        dets.sort(key=lambda det: -det[0])
        taken = set()
        matches = []
        for _, i, box in dets:
            best, best_iou = None, -1
            for g, (gt_box, label) in enumerate(zip(*images[i][3:5])):
                iou = slow_iou(box, gt_box, plus_one)
                if label == c and iou > best_iou:
                    best, best_iou = g, iou
            if best is None or best_iou < iou_thresh:
                matches.append(0)
            elif images[i][5][best]:
                matches.append(-1)
            else:
                matches.append(0 if (i, best) in taken else 1)
                taken.add((i, best))
        n_pos = sum(label == c and not hard for image in images for label, hard in zip(image[4], image[5]))
        aps.append(slow_ap(matches, n_pos, use_07_metric))
    return aps


# Few coordinates and scores, so that equal boxes, overlaps and scores and IoUs at the threshold are common
N_CLASSES = 3
corner = st.integers(0, 4).map(float)
box = st.tuples(corner, corner, corner, corner).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
)
label = st.integers(0, N_CLASSES - 1)
score = st.sampled_from([0.0, 0.1, 0.5, 0.9])


@st.composite
def an_image(draw):
    dets = draw(st.lists(st.tuples(box, label, score), max_size=8))
    gts = draw(st.lists(st.tuples(box, label, st.booleans()), max_size=5))
    columns = [list(column) for column in zip(*dets)] or [[], [], []]
    return columns + ([list(column) for column in zip(*gts)] or [[], [], []])


def as_arrays(images, dtype=np.float32):
    """Six columns of per-image arrays, in the order that the evaluators take."""
    dtypes = (dtype, np.int32, dtype, dtype, np.int32, bool)
    columns = zip(*images) if images else ([] for _ in dtypes)
    return [[np.array(a, d) for a in column] for column, d in zip(columns, dtypes)]


@settings(max_examples=400, deadline=None)
@given(
    images=st.lists(an_image(), max_size=4),
    iou_thresh=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]),
    use_07_metric=st.booleans(),
    plus_one=st.booleans(),
)
def test_equals_the_slow_loop(images, iou_thresh, use_07_metric, plus_one):
    expected = slow_eval(images, N_CLASSES, iou_thresh, use_07_metric, plus_one)
    got = eval_detection_voc(
        *as_arrays(images), iou_thresh=iou_thresh, use_07_metric=use_07_metric, plus_one=plus_one, n_fg_class=N_CLASSES
    )
    np.testing.assert_allclose(got["ap"], expected, rtol=0, atol=1e-9)
    known = [ap for ap in expected if not np.isnan(ap)]
    np.testing.assert_allclose(got["map"], np.mean(known) if known else np.nan, rtol=0, atol=1e-9)


def random_images(rng, n_images, n_det, n_gt, n_classes):
    def boxes(n):
        corners = rng.integers(0, 200, (n, 2))
        return np.hstack([corners, corners + rng.integers(1, 200, (n, 2))]).astype(np.float32)

    for _ in range(n_images):
        scores = rng.random(n_det).round(2).astype(np.float32)
        labels = rng.integers(0, n_classes, n_det), rng.integers(0, n_classes, n_gt)
        yield boxes(n_det), labels[0], scores, boxes(n_gt), labels[1], rng.random(n_gt) < 0.2


@pytest.mark.parametrize("use_07_metric", [False, True])
def test_equals_the_slow_loop_on_a_larger_set(use_07_metric):
    images = list(random_images(np.random.default_rng(0), 60, 40, 6, 4))
    got = eval_detection_voc(*as_arrays(images), use_07_metric=use_07_metric)
    assert 0 < got["map"] < 1
    np.testing.assert_allclose(got["ap"], slow_eval(images, 4, 0.5, use_07_metric, True), rtol=0, atol=1e-9)


# By hand

FAR, NEAR = [50, 50, 59, 59], [0, 0, 9, 9]


def evaluate(dets, gts, **kwargs):
    """dets: (box, score), gts: (box, difficult) of one class in one image."""
    image = (
        [b for b, _ in dets],
        [0] * len(dets),
        [s for _, s in dets],
        [b for b, _ in gts],
        [0] * len(gts),
        [d for _, d in gts],
    )
    return eval_detection_voc(*as_arrays([image]), **kwargs)["ap"].tolist()


def test_average_precision_by_hand():
    # hit, miss, hit of 3 boxes: recall 1/3, 1/3, 2/3 at precision 1, 1/2, 2/3
    prec, rec = [np.array([1, 1 / 2, 2 / 3])], [np.array([1 / 3, 1 / 3, 2 / 3])]
    assert calc_detection_voc_ap(prec, rec)[0] == pytest.approx(1 / 3 + 2 / 9)
    assert calc_detection_voc_ap(prec, rec, use_07_metric=True)[0] == pytest.approx((4 + 3 * 2 / 3) / 11)
    assert np.isnan(calc_detection_voc_ap([None, np.array([0.0])], [None, None])).all()
    assert calc_detection_voc_ap([], []).shape == (0,)


def test_precision_and_recall_by_hand():
    hard = [20, 20, 29, 29]
    image = ([hard, NEAR, FAR, NEAR], [1] * 4, [0.9, 0.8, 0.7, 0.6], [NEAR, hard, [80, 80, 89, 89]], [1] * 3, [0, 1, 0])
    prec, rec = calc_detection_voc_prec_rec(*as_arrays([image]))
    np.testing.assert_allclose(prec[1], [np.nan, 1, 1 / 2, 1 / 3])
    np.testing.assert_allclose(rec[1], [0, 1 / 2, 1 / 2, 1 / 2])
    assert len(prec[0]) == 0
    assert rec[0] is None
    found = match_detections_voc(*as_arrays([image], np.float64))
    assert found.matches[1].tolist() == [-1, 1, 0, 0]
    assert found.scores[1].tolist() == [0.9, 0.8, 0.7, 0.6]
    assert found.n_pos.tolist() == [0, 2]


def test_a_second_detection_of_a_box_is_a_false_alarm():
    assert evaluate([(NEAR, 0.9), (NEAR, 0.8), (FAR, 0.7)], [(NEAR, 0), (FAR, 0)]) == pytest.approx([0.5 + 0.5 * 2 / 3])


def test_a_taken_box_is_not_exchanged_for_the_next_best():
    # both go to `a`, by 10/10 and 8/10; VOC counts the second as false although it overlaps `b` by 7/11
    a, b = [0, 0, 9, 0], [3, 0, 12, 0]
    assert evaluate([(a, 0.9), ([1, 0, 8, 0], 0.8)], [(a, 0), (b, 0)]) == [0.5]


def test_iou_at_the_threshold_counts_and_plus_one_decides():
    # 5 of 10 rows with inclusive pixels, 4 of 9 between edges
    assert evaluate([([0, 0, 4, 9], 1)], [(NEAR, 0)]) == [1]
    assert evaluate([([0, 0, 4, 9], 1)], [(NEAR, 0)], plus_one=False) == [0]
    assert evaluate([([0, 0, 4.5, 9], 1)], [(NEAR, 0)], plus_one=False) == [1]


def test_difficult_boxes_count_neither_way():
    assert evaluate([(NEAR, 0.9), (NEAR, 0.8), (FAR, 0.7)], [(NEAR, 1), (FAR, 0)]) == [1]
    assert np.isnan(evaluate([(NEAR, 0.9)], [(NEAR, 1)])).all()


def test_equal_scores_rank_by_image_then_place():
    def columns(first, second):
        return as_arrays([([first], [0], [0.5], [NEAR], [0], [0]), ([second], [0], [0.5], [NEAR], [0], [0])])

    assert eval_detection_voc(*columns(NEAR, FAR))["map"] == 0.5
    assert eval_detection_voc(*columns(FAR, NEAR))["map"] == 0.25
    assert evaluate([(FAR, 0.5), (NEAR, 0.5)], [(NEAR, 0)]) == [0.5]


@pytest.mark.filterwarnings("error")
def test_nothing_at_all():
    nothing = eval_detection_voc([], [], [], [], [], [])
    assert nothing["ap"].shape == (0,)
    assert np.isnan(nothing["map"])
    assert np.isnan(eval_detection_voc([], [], [], [], [], n_fg_class=2)["ap"]).tolist() == [True, True]
    blank = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)]
    assert np.isnan(eval_detection_voc(*blank, *blank[:2])["map"])
    assert eval_detection_voc(*blank, [np.array([NEAR])], [np.array([0])])["map"] == 0
    assert "-" in evaluate_detections(*blank, *blank[:2], label_names=()).table()


@pytest.mark.filterwarnings("error")
def test_corners_and_scores_of_a_diverged_model_are_false_alarms():
    inf, nan = np.inf, np.nan
    wild = [[nan] * 4, [-inf, -inf, inf, inf], [inf] * 4, [9, 9, 0, 0], [-1e300, -1e300, 1e300, 1e300]]
    image = ([*wild, NEAR], [0] * 6, [0.9] * 5 + [nan], [NEAR], [0], [0])
    assert eval_detection_voc(*as_arrays([image], np.float64))["map"] == pytest.approx(1 / 6)


def test_classes_without_ground_truth_are_left_out_of_the_mean():
    image = ([NEAR, NEAR], [0, 3], [0.9, 0.9], [NEAR, FAR], [0, 1], [0, 0])
    result = eval_detection_voc(*as_arrays([image]), n_fg_class=5)
    np.testing.assert_equal(result["ap"], [1, 0, np.nan, np.nan, np.nan])
    assert result["map"] == 0.5
    assert len(eval_detection_voc(*as_arrays([image]))["ap"]) == 4


def test_generators_and_no_difficults():
    image = ([NEAR], [0], [0.9], [NEAR], [0], [1])
    columns = as_arrays([image, image])
    assert eval_detection_voc(*((array for array in column) for column in columns[:5]))["map"] == 1
    assert np.isnan(eval_detection_voc(*map(iter, columns))["map"])


def test_unequal_lengths_and_unknown_labels_are_refused():
    image = ([NEAR], [0], [0.9], [NEAR], [0], [0])
    columns = as_arrays([image, image])
    for i in range(6):
        fewer = [column[: 1 if i == j else 2] for j, column in enumerate(columns)]
        with pytest.raises(ValueError, match="numbers of images"):
            eval_detection_voc(*fewer)
        short = [[column[0], column[1][: 0 if i == j else 1]] for j, column in enumerate(columns)]
        with pytest.raises(ValueError, match="image 1: unequal lengths"):
            eval_detection_voc(*short)
    for label in (-1, 2, 0.5):
        columns[4][1] = np.array([label])
        with pytest.raises(ValueError, match=f"label {label} is not one of the 2 classes"):
            eval_detection_voc(*columns, n_fg_class=2)


def test_result_as_table_and_json():
    image = ([NEAR, FAR], [0, 2], [0.9, 0.8], [NEAR, FAR, FAR], [0, 0, 1], [0, 0, 0])
    result = evaluate_detections(*as_arrays([image]), label_names=["cat", "pottedplant", "x"])
    assert result.map == 0.25
    assert result.map07 == pytest.approx(3 / 11)
    assert result.table().splitlines() == [
        "class            boxes  detections  AP 11-point  AP area",
        "cat                  2           1       0.5455   0.5000",
        "pottedplant          1           0       0.0000   0.0000",
        "x                    0           1            -        -",
        "mAP                  3           2       0.2727   0.2500",
    ]
    assert json.loads(json.dumps(result.to_json(), allow_nan=False)) == {
        "label_names": ["cat", "pottedplant", "x"],
        "ap07": [pytest.approx(6 / 11), 0.0, None],
        "ap": [0.5, 0.0, None],
        "n_gt": [2, 1, 0],
        "n_det": [1, 0, 1],
        "map07": pytest.approx(3 / 11),
        "map": 0.25,
    }
    assert evaluate_detections(*as_arrays([image])).label_names == ("0", "1", "2")


# Results that others published


def published(shared_data, name):
    folder = shared_data / "eval" / name
    if not folder.is_dir():
        pytest.skip(f"no published results at {folder}")
    return folder, json.loads((folder / "expected.json").read_text())


def read_rows(path):
    """(class, numbers) of each line of a text file; nothing for a file that is not there."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [(row[0], list(map(float, row[1:]))) for row in map(str.split, lines) if row]


def gather(truth, dets):
    """The five columns and the classes of {image: [(class, xyxy)]} and {image: [(class, [score, *xyxy])]}."""
    names = sorted({name for rows in [*truth.values(), *dets.values()] for name, _ in rows})
    images = []
    for key in sorted(truth):
        images.append(
            (
                [[b[2], b[1], b[4], b[3]] for _, b in dets[key]],
                [names.index(name) for name, _ in dets[key]],
                [b[0] for _, b in dets[key]],
                [[b[1], b[0], b[3], b[2]] for _, b in truth[key]],
                [names.index(name) for name, _ in truth[key]],
                [False] * len(truth[key]),
            )
        )
    return as_arrays(images, np.float64), names


def test_cartucho(shared_data):
    folder, expected = published(shared_data, "cartucho")
    truth = {path.stem: read_rows(path) for path in (folder / "ground-truth").glob("*.txt")}
    columns, names = gather(truth, {key: read_rows(folder / "detection-results" / f"{key}.txt") for key in truth})
    result = evaluate_detections(*columns, label_names=names)
    got = {name: round(100 * ap, 2) for name, ap in zip(names, result.ap) if not np.isnan(ap)}
    assert got == expected["published_percent"]["per_class"]
    assert round(100 * result.map, 2) == expected["published_percent"]["mAP"]


def test_padilla_case1(shared_data):
    folder, expected = published(shared_data, "padilla_case1")

    def to_corners(rows):
        return [(name, [*b[:-2], b[-4] + b[-2], b[-3] + b[-1]]) for name, b in rows]

    truth = {path.stem: to_corners(read_rows(path)) for path in (folder / "gts").glob("*.txt")}
    columns, _ = gather(truth, {key: to_corners(read_rows(folder / "dets" / f"{key}.txt")) for key in truth})
    for key, use_07_metric in (("ap_11pt", True), ("ap_all", False)):
        for threshold, ap in expected["published"][key].items():
            got = eval_detection_voc(*columns, iou_thresh=float(threshold), use_07_metric=use_07_metric)
            assert got["map"] == pytest.approx(ap, abs=1e-9)
    found = match_detections_voc(*columns, iou_thresh=0.3)
    assert (int(found.n_pos[0]), int((found.matches[0] == 1).sum()), int((found.matches[0] == 0).sum())) == (15, 7, 17)


def test_padilla_toy(shared_data):
    folder, expected = published(shared_data, "padilla_toy")
    truth, dets = defaultdict(list), {}
    for path in (folder / "Annotations").glob("*.xml"):
        truth[path.stem] = [
            (obj.findtext("name"), [float(obj.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax")])
            for obj in ET.parse(path).getroot().iter("object")
        ]
        dets[path.stem] = read_rows(folder / "dets_classname_abs_xyx2y2" / f"{path.stem}.txt")
    columns, names = gather(truth, dets)
    for threshold in ("0.5", "0.75"):
        result = evaluate_detections(*columns, label_names=names, iou_thresh=float(threshold))
        assert round(100 * result.map07, 2) == expected["published_percent"][threshold]["ap_11pt"]
        assert round(100 * result.map, 2) == expected["published_percent"][threshold]["ap_all"]
