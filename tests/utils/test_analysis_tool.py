"""utils/analysis_tool.py against slow loops, the VOC evaluation it must agree with, and cases made by hand."""

import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.slow_matching import columns_of, n_boxes, ranked, read_csv, slow_counts, slow_match, some_images
from tests.utils.test_eval_tool import FAR, N_CLASSES, NEAR, random_images, slow_iou
from utils.analysis_tool import confusion_matrix, precision_recall, thin
from utils.error_tool import error_analysis
from utils.eval_tool import calc_detection_voc_ap, evaluate_detections, match_detections_voc

ANALYSES = [precision_recall, confusion_matrix, error_analysis]
OTHER = [20, 20, 29, 29]
thresholds = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


# The slow loops


def slow_best(images, fate, wanted):
    """The best F1 over all thresholds: (lowest score kept, f1, precision, recall), None if F1 is 0 everywhere."""
    best = None
    dets = ranked(images)
    for lowest in sorted({det[0] for det in dets if det[3] in wanted}, reverse=True):
        hits, false, n = slow_counts(images, fate, wanted, [det for det in dets if det[0] >= lowest])
        if hits and (best is None or 2 * hits / (hits + false + n) > best[1]):
            best = lowest, 2 * hits / (hits + false + n), hits / (hits + false), hits / n
    return best


def slow_confusion(images, L, iou_thresh, score_thresh, plus_one):
    def keep(label, score):
        return score > score_thresh

    matrix = np.zeros((L + 1, L + 1), int)
    fate = slow_match(images, iou_thresh, plus_one, keep)
    taken = {(i, f) for (i, d), f in fate.items() if isinstance(f, int)}
    for _, i, d, label in ranked(images, keep):
        if fate[i, d] == "ignored":
            continue
        if fate[i, d] != "false":
            matrix[label, label] += 1
            continue
        boxes, labels, difficult = images[i][3:]
        close = [
            (-slow_iou(images[i][0][d], box, plus_one), labels[g], g)
            for g, box in enumerate(boxes)
            if labels[g] != label and slow_iou(images[i][0][d], box, plus_one) >= iou_thresh
        ]
        free = [g for _, _, g in sorted(close) if not difficult[g] and (i, g) not in taken]
        if free:
            matrix[labels[free[0]], label] += 1
            taken.add((i, free[0]))
        elif not any(difficult[g] for _, _, g in close):
            matrix[L, label] += 1
    for i, image in enumerate(images):
        for g, (label, hard) in enumerate(zip(image[4], image[5])):
            matrix[label, L] += not hard and (i, g) not in taken
    return matrix


def check_point(point, expected, scores, n):
    """A best threshold against the slow one's: it keeps just the scores that the slow one keeps."""
    if n == 0:
        assert np.isnan(point).all()
    elif expected is None:
        np.testing.assert_equal(tuple(point), (np.nan, 0.0, np.nan, np.nan))
    else:
        assert [s > point.score_thresh for s in scores] == [s >= expected[0] for s in scores]
        np.testing.assert_allclose(point[1:], expected[1:], rtol=1e-12)


def check_precision_recall(images, L, iou_thresh, plus_one):
    got = precision_recall(*columns_of(*images), label_names=range(L), iou_thresh=iou_thresh, plus_one=plus_one)
    fate, dets = slow_match(images, iou_thresh, plus_one), ranked(images)
    for c in range(L):
        own = [det for det in dets if det[3] == c]
        assert got.scores[c].tolist() == [det[0] for det in own]
        curve = [slow_counts(images, fate, {c}, own[: k + 1]) for k in range(len(own))]
        np.testing.assert_allclose(got.precision[c], [h / (h + f) if h + f else np.nan for h, f, _ in curve])
        assert got.n_gt[c] == n_boxes(images, {c})
        if got.n_gt[c]:
            np.testing.assert_allclose(got.recall[c], [h / n for h, _, n in curve])
        else:
            assert got.recall[c] is None
        check_point(got.best[c], slow_best(images, fate, {c}), got.scores[c], got.n_gt[c])
    everything = set(range(L))
    scores = [det[0] for det in dets]
    check_point(got.overall, slow_best(images, fate, everything), scores, n_boxes(images, everything))


@settings(max_examples=300, deadline=None)
@given(images=some_images, iou_thresh=thresholds, plus_one=st.booleans())
def test_precision_recall_equals_the_slow_loop(images, iou_thresh, plus_one):
    check_precision_recall(images, N_CLASSES, iou_thresh, plus_one)


@settings(max_examples=400, deadline=None)
@given(
    images=some_images,
    iou_thresh=thresholds,
    score_thresh=st.sampled_from([-1.0, 0.0, 0.1, 0.3, 0.9]),
    plus_one=st.booleans(),
)
def test_confusion_matrix_equals_the_slow_loop(images, iou_thresh, score_thresh, plus_one):
    options = {"iou_thresh": iou_thresh, "score_thresh": score_thresh, "plus_one": plus_one}
    got = confusion_matrix(*columns_of(*images), label_names=range(N_CLASSES), **options)
    np.testing.assert_array_equal(got.matrix, slow_confusion(images, N_CLASSES, **options))


def test_both_equal_the_slow_loops_on_a_larger_set():
    images = list(random_images(np.random.default_rng(0), 40, 30, 6, 4))
    images = [[column.tolist() for column in image] for image in images]
    check_precision_recall(images, 4, 0.5, True)
    got = confusion_matrix(*columns_of(*images), score_thresh=0.3).matrix
    assert (got[:4, :4] > 0).sum() > 12
    np.testing.assert_array_equal(got, slow_confusion(images, 4, 0.5, 0.3, True))


# What must agree with the VOC evaluation


@settings(max_examples=200, deadline=None)
@given(images=some_images, score_thresh=st.sampled_from([-1.0, 0.05, 0.3]))
def test_rows_and_diagonal_of_the_matrix_are_the_evaluations(images, score_thresh):
    columns = columns_of(*images)
    kept = [
        [[value for value, score in zip(column, image[2]) if score > score_thresh] for column in image[:3]]
        for image in images
    ]
    found = match_detections_voc(*columns_of(*(k + image[3:] for k, image in zip(kept, images))), n_fg_class=N_CLASSES)
    matrix = confusion_matrix(*columns, label_names=range(N_CLASSES), score_thresh=score_thresh).matrix
    assert matrix[:-1].sum(1).tolist() == found.n_pos.tolist()
    assert matrix.diagonal()[:-1].tolist() == [(match == 1).sum() for match in found.matches]
    counted, at_most = matrix[:, :-1].sum(0), [(match >= 0).sum() for match in found.matches]
    assert (counted <= at_most).all()  # fewer by those on difficult boxes of other classes
    if not any(any(image[5]) for image in images):
        assert counted.tolist() == at_most
    assert matrix[-1, -1] == 0


def test_the_curve_has_the_evaluations_average_precision():
    columns = list(zip(*random_images(np.random.default_rng(1), 60, 40, 6, 4)))
    got = precision_recall(*columns)
    np.testing.assert_array_equal(calc_detection_voc_ap(got.precision, got.recall), evaluate_detections(*columns).ap)


# Thinning


@pytest.mark.parametrize("max_points", [4, 30, 200])
def test_a_thinned_curve_has_the_envelope_of_the_whole_one(max_points):
    rng = np.random.default_rng(0)
    hit = rng.random(1500) < np.linspace(1, 0.1, 1500)
    precision, recall = hit.cumsum() / np.arange(1, 1501), hit.cumsum() / hit.sum()
    precision[:2] = np.nan
    i = thin(precision, recall, max_points, also=777)
    assert len(i) <= max_points
    assert (np.diff(i) > 0).all()
    assert {0, 777, 1499} <= set(i.tolist())

    def envelope(at, rows):
        return np.nan_to_num(precision[rows])[recall[rows] >= at].max()

    for at in np.linspace(0, 1, max_points - 3):
        assert envelope(at, i) == envelope(at, np.arange(1500))
    for at in rng.random(50):
        assert envelope(at, i) <= envelope(at, np.arange(1500))


def test_short_curves_and_curves_without_a_hit_are_thinned_too():
    assert thin(np.ones(4), np.ones(4), 4).tolist() == [0, 1, 2, 3]
    assert thin(np.zeros(0), np.zeros(0), 4).tolist() == []
    assert set(thin(np.zeros(900), np.zeros(900), 10).tolist()) == {0, 899}


def test_json_of_a_long_curve_is_short_and_keeps_the_best_threshold():
    columns = list(zip(*random_images(np.random.default_rng(0), 300, 40, 6, 2)))
    got = precision_recall(*columns)
    assert min(map(len, got.scores)) > 5000
    for curve, point in zip(got.to_json()["curves"], got.best):
        assert len(curve["scores"]) == len(curve["precision"]) == len(curve["recall"]) <= 200
        assert (point.precision, point.recall) in zip(curve["precision"], curve["recall"])
    assert len(got.rows(max_points=50)) <= 1 + 2 * 50


# By hand


def test_the_best_threshold_by_hand():
    # hit, miss, hit, miss of 2 boxes: F1 2/3, 1/2, 4/5, 2/3
    image = ([NEAR, OTHER, FAR, OTHER], [0] * 4, [0.9, 0.8, 0.6, 0.5], [NEAR, FAR], [0, 0], [0, 0])
    point = precision_recall(*columns_of(image)).best[0]
    assert point == pytest.approx((0.55, 0.8, 2 / 3, 1.0))
    # predict keeps what is above its threshold: the last of all needs one below itself
    image = ([NEAR], [0], [0.5], [NEAR], [0], [0])
    assert precision_recall(*columns_of(image)).best[0] == (0.25, 1.0, 1.0, 1.0)


def test_equal_scores_are_kept_together():
    # after the first of the two F1 would be 1, but no threshold parts them
    image = ([NEAR, FAR], [0, 0], [0.5, 0.5], [NEAR], [0], [0])
    point = precision_recall(*columns_of(image)).best[0]
    assert point == pytest.approx((0.25, 2 / 3, 1 / 2, 1.0))


def test_neighbouring_scores_are_parted():
    high, low = 0.5, np.nextafter(0.5, 0)
    image = ([NEAR, FAR], [0, 0], [high, low], [NEAR], [0], [0])
    point = precision_recall(*columns_of(image)).best[0]
    assert low <= point.score_thresh < high
    assert point.f1 == 1


def confusion(dets, gts, **options):
    """dets: (box, label, score), gts: (box, label, difficult), in one image of two classes; as a list of rows."""
    image = [list(column) for part in (dets, gts) for column in zip(*part)]
    options = {"score_thresh": 0.5, **options}
    return confusion_matrix(*columns_of(image), label_names=["cat", "dog"], **options).matrix.tolist()


def test_a_wrong_class_is_one_confusion_and_not_a_missed_and_a_false_box():
    assert confusion([(NEAR, 1, 0.9)], [(NEAR, 0, 0)]) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_missed_false_and_second_boxes():
    assert confusion([(FAR, 1, 0.9)], [(NEAR, 0, 0)]) == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert confusion([(NEAR, 0, 0.9), (NEAR, 0, 0.8)], [(NEAR, 0, 0)]) == [[1, 0, 0], [0, 0, 0], [1, 0, 0]]


def test_a_wrong_class_does_not_displace_the_right_one():
    close = [0, 0, 9, 8]  # the wrong one overlaps more and scores more
    assert confusion([(NEAR, 1, 0.9), (close, 0, 0.6)], [(NEAR, 0, 0)]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_of_two_wrong_ones_the_better_scored_takes_the_box_and_the_other_the_next():
    near, less = [0, 0, 9, 9], [0, 0, 9, 7]
    got = confusion([(near, 1, 0.8), (near, 1, 0.9)], [(near, 0, 0), (less, 0, 0)])
    assert got == [[0, 2, 0], [0, 0, 0], [0, 0, 0]]
    got = confusion([(near, 1, 0.8), (near, 1, 0.9)], [(near, 0, 0)])
    assert got == [[0, 1, 0], [0, 0, 0], [0, 1, 0]]


def test_on_a_difficult_box_nothing_counts():
    for label in (0, 1):
        assert np.sum(confusion([(NEAR, label, 0.9)] * 2, [(NEAR, 0, 1)])) == 0
    assert confusion([(NEAR, 1, 0.9)], [(NEAR, 0, 1), ([0, 0, 9, 7], 0, 0)])[0] == [0, 1, 0]
    assert confusion([(FAR, 1, 0.9)], [(NEAR, 0, 1)]) == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_thresholds_of_the_matrix():
    # 5 of 10 rows; predict drops a score that is the threshold
    half = [0, 0, 4, 9]
    assert confusion([(half, 1, 0.9)], [(NEAR, 0, 0)])[0] == [0, 1, 0]
    assert confusion([(half, 1, 0.9)], [(NEAR, 0, 0)], plus_one=False)[0] == [0, 0, 1]
    assert confusion([(half, 1, 0.9)], [(NEAR, 0, 0)], iou_thresh=0.51)[0] == [0, 0, 1]
    assert confusion([(NEAR, 0, 0.5)], [(NEAR, 0, 0)])[0] == [0, 0, 1]
    assert confusion([(NEAR, 0, 0.5)], [(NEAR, 0, 0)], score_thresh=0.4)[0] == [1, 0, 0]


def test_a_box_is_not_matched_across_images():
    images = ([NEAR], [1], [0.9], [], [], []), ([], [], [], [NEAR], [0], [0])
    assert confusion_matrix(*columns_of(*images)).matrix.tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0]]


# Tables, JSON, CSV


IMAGE = ([NEAR, FAR, NEAR], [0, 2, 1], [0.9, 0.8, 0.75], [NEAR, FAR, FAR], [0, 0, 1], [0, 0, 0])
NAMES = ["cat", "dog", "x"]


def test_precision_recall_as_table_json_and_csv():
    got = precision_recall(*columns_of(IMAGE), label_names=NAMES)
    assert got.table().splitlines() == [
        "class                   boxes  threshold      F1  precision  recall",
        "cat                         2     0.4500  0.6667     1.0000  0.5000",
        "dog                         1          -  0.0000          -       -",
        "x                           0          -       -          -       -",
        "all, one threshold          3     0.8500  0.5000     1.0000  0.3333",
    ]
    assert read_csv(got.rows()) == ["class,score,precision,recall", "cat,0.9,1.0,0.5", "dog,0.75,0.0,0.0"]
    written = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert written["label_names"] == NAMES
    assert written["n_gt"] == [2, 1, 0]
    assert written["best"][0] == {"score_thresh": 0.45, "f1": pytest.approx(2 / 3), "precision": 1.0, "recall": 0.5}
    assert written["best"][2] == {"score_thresh": None, "f1": None, "precision": None, "recall": None}
    assert written["curves"][1] == {"scores": [0.75], "precision": [0.0], "recall": [0.0]}
    assert written["curves"][2] == {"scores": [], "precision": [], "recall": None}


def test_confusion_matrix_as_table_json_and_csv():
    got = confusion_matrix(*columns_of(IMAGE), label_names=NAMES)
    assert got.table().splitlines() == [
        "truth          0  1  2  bg",
        " 0 cat         1  .  1   .",
        " 1 dog         .  .  .   1",
        " 2 x           .  .  .   .",
        "bg background  .  1  .   .",
    ]
    assert read_csv(got.rows()) == [
        "truth,cat,dog,x,background",
        "cat,1,0,1,0",
        "dog,0,0,0,1",
        "x,0,0,0,0",
        "background,0,1,0,0",
    ]
    assert json.loads(json.dumps(got.to_json())) == {
        "label_names": [*NAMES, "background"],
        "iou_thresh": 0.5,
        "score_thresh": 0.7,
        "matrix": [[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]],
    }


def test_of_many_classes_the_table_is_the_largest_confusions():
    dets = [NEAR] * 3, [20, 20, 3], [0.9, 0.9, 0.9]
    columns = columns_of(*[(*dets, [NEAR, FAR], [0, 7], [0, 0])] * 1200)
    got = confusion_matrix(*columns, label_names=[f"c{c}" for c in range(21)])
    assert got.table().splitlines() == [
        "truth       prediction      boxes",
        "c0          c20             1,200",
        "c7          background      1,200",
        "background  c3              1,200",
        "background  c20             1,200",
    ]


# For all three


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("analyse", ANALYSES)
def test_nothing_at_all(analyse):
    blank = [np.zeros((0, 4))], [np.zeros(0)], [np.zeros(0)]
    boxes = [np.array([NEAR])], [np.array([0])]
    for columns in (([],) * 5, (*blank, *blank[:2]), (*blank, *boxes), (*boxes, [np.array([0.9])], *blank[:2])):
        for names in (None, ("cat", "dog")):
            result = analyse(*columns, label_names=names)
            assert result.table()
            assert len(result.rows()) >= 1
            json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("analyse", ANALYSES)
def test_corners_and_scores_of_a_diverged_model(analyse):
    inf, nan = np.inf, np.nan
    wild = [[nan] * 4, [-inf, -inf, inf, inf], [inf] * 4, [9, 9, 0, 0], [-1e300, -1e300, 1e300, 1e300]]
    image = ([*wild, NEAR], [0, 1] * 3, [0.9] * 5 + [nan], [NEAR, NEAR], [0, 1], [0, 0])
    written = json.loads(json.dumps(analyse(*columns_of(image)).to_json(), allow_nan=False))
    if analyse is precision_recall:
        assert [point["f1"] for point in written["best"]] == [0, 0]  # a score that is not a number passes no threshold
    elif analyse is confusion_matrix:
        assert written["matrix"] == [[0, 0, 1], [0, 0, 1], [3, 2, 0]]
    else:
        assert written["counts"]["Bkg"] == 5


@pytest.mark.parametrize("analyse", ANALYSES)
def test_generators_and_no_difficults(analyse):
    columns = columns_of(IMAGE, IMAGE)
    expected = analyse(*columns).to_json()
    assert analyse(*((array for array in column) for column in columns[:5])).to_json() == expected


@pytest.mark.parametrize("analyse", ANALYSES)
def test_unequal_lengths_and_unknown_labels_are_refused(analyse):
    columns = columns_of(IMAGE, IMAGE)
    with pytest.raises(ValueError, match="unequal numbers of images"):
        analyse(columns[0][:1], *columns[1:])
    with pytest.raises(ValueError, match="image 1: unequal lengths"):
        analyse(columns[0], columns[1], [columns[2][0], columns[2][1][:1]], *columns[3:])
    with pytest.raises(ValueError, match="label 2 is not one of the 2 classes"):
        analyse(*columns, label_names=["cat", "dog"])


@pytest.mark.parametrize("analyse", ANALYSES)
def test_memory_does_not_grow_with_all_pairs(analyse):
    columns = list(zip(*random_images(np.random.default_rng(0), 1000, 100, 5, 20)))
    tracemalloc.start()
    analyse(*columns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120e6  # 19 to 35 MB; all pairs are 100,000 × 5,000 × 8 bytes = 4 GB
