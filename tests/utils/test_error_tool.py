"""utils/error_tool.py against a slow loop from the definitions of TIDE, its invariants, and a case of each error."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.slow_matching import columns_of, n_boxes, ranked, read_csv, slow_match, some_images
from tests.utils.test_eval_tool import FAR, N_CLASSES, NEAR, random_images, slow_ap, slow_iou
from utils.error_tool import ERRORS, MISS, SPECIAL, error_analysis, find_errors, mended_ap
from utils.eval_tool import evaluate_detections, flatten_columns, match_detections_voc

KINDS = ERRORS + SPECIAL


def slow_kinds(images, fate, iou_thresh, bg_thresh, plus_one):
    """{(image, place): (kind, box aimed at or None)} of the false positives."""
    kinds = {}
    for (i, d), f in fate.items():
        if f != "false":
            continue
        dets, labels, _, boxes, gt_labels, difficult = images[i]
        own, other = (-1, None), (-1, None)
        for g in sorted(range(len(boxes)), key=lambda g: gt_labels[g]):
            iou = slow_iou(dets[d], boxes[g], plus_one)
            if difficult[g]:
                continue
            if gt_labels[g] == labels[d] and iou > own[0]:
                own = iou, g
            elif gt_labels[g] != labels[d] and iou > other[0]:
                other = iou, g
        if bg_thresh <= own[0] < iou_thresh:
            kinds[i, d] = "Loc", own[1]
        elif other[0] >= iou_thresh:
            kinds[i, d] = "Cls", other[1]
        elif own[0] >= iou_thresh:
            kinds[i, d] = "Dupe", None
        elif other[0] >= bg_thresh:
            kinds[i, d] = "Both", None
        else:
            kinds[i, d] = "Bkg", None
    return kinds


def slow_mended(images, L, fate, kinds, mend, dropped, correct=True):
    """AP by class with the errors of the kinds `mend` mended and the boxes `dropped`, {(image, box)}, not asked for."""
    found = {(i, f) for (i, _), f in fate.items() if isinstance(f, int)}
    matches = [[] for _ in range(L)]
    corrected = {}  # of each box the detection that is made its own
    for _, i, d, _ in ranked(images):
        kind, aim = kinds.get((i, d), (None, None))
        if correct and kind in mend and aim is not None and (i, aim) not in found:
            corrected.setdefault((i, aim), (i, d))
    for _, i, d, label in ranked(images):
        kind, aim = kinds.get((i, d), (None, None))
        if corrected.get((i, aim)) == (i, d):
            matches[images[i][4][aim]].append(1)
        elif isinstance(fate[i, d], int):
            matches[label].append(1)
        elif fate[i, d] == "false" and kind not in mend:
            matches[label].append(0)
    aps = []
    for c in range(L):
        before = n_boxes(images, {c})
        n = before - sum(images[i][4][g] == c for i, g in dropped)
        aps.append(float(not matches[c]) if before and not n else slow_ap(matches[c], n, False))
    return aps


def slow_analysis(images, L, iou_thresh, bg_thresh, plus_one):
    """AP, counts and ΔAP by class as `ErrorAnalysis` has them."""
    fate = slow_match(images, iou_thresh, plus_one)
    kinds = slow_kinds(images, fate, iou_thresh, bg_thresh, plus_one)
    boxes = {(i, g) for i, image in enumerate(images) for g, hard in enumerate(image[5]) if not hard}
    not_found = boxes - {(i, f) for (i, _), f in fate.items() if isinstance(f, int)}
    missed = not_found - {(i, aim) for (i, _), (_, aim) in kinds.items()}
    counts = np.zeros((L, 8), int)
    for (i, d), (kind, _) in kinds.items():
        counts[images[i][1][d], [KINDS.index(kind), KINDS.index("FalsePos")]] += 1
    for kind, those in (("Miss", missed), ("FalseNeg", not_found)):
        for i, g in those:
            counts[images[i][4][g], KINDS.index(kind)] += 1
    ap = slow_mended(images, L, fate, kinds, (), ())
    mended = [slow_mended(images, L, fate, kinds, (kind,), ()) for kind in ERRORS[:MISS]]
    mended += [slow_mended(images, L, fate, kinds, (), missed)]
    mended += [slow_mended(images, L, fate, kinds, ERRORS, (), correct=False)]
    mended += [slow_mended(images, L, fate, kinds, (), not_found)]
    return np.array(ap), counts, np.array(mended).T - np.array(ap)[:, None]


def check_equal(got, expected):
    ap, counts, delta_ap = expected
    np.testing.assert_array_equal(got.counts, counts)
    np.testing.assert_allclose(got.ap, ap, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got.delta_ap, delta_ap, rtol=0, atol=1e-9)


@settings(max_examples=400, deadline=None)
@given(
    images=some_images,
    thresholds=st.sampled_from([(0.5, 0.1), (0.5, 0.0), (0.75, 0.25), (0.25, 0.25), (1.0, 0.5), (0.0, 0.0)]),
    plus_one=st.booleans(),
)
def test_equals_the_slow_loop(images, thresholds, plus_one):
    names = range(N_CLASSES)
    got = error_analysis(*columns_of(*images), names, *thresholds, plus_one)
    check_equal(got, slow_analysis(images, N_CLASSES, *thresholds, plus_one))


def test_equals_the_slow_loop_on_a_larger_set():
    images = list(random_images(np.random.default_rng(0), 40, 40, 6, 4))
    images = [[column.tolist() for column in image] for image in images]
    got = error_analysis(*columns_of(*images), iou_thresh=0.5)
    assert (got.counts.sum(0) > 0).all()
    check_equal(got, slow_analysis(images, 4, 0.5, 0.1, True))


# Invariants


@settings(max_examples=200, deadline=None)
@given(images=some_images)
def test_one_kind_each_and_no_kind_costs_less_than_nothing(images):
    columns = columns_of(*images)
    got = error_analysis(*columns, label_names=range(N_CLASSES))
    found = match_detections_voc(*columns, n_fg_class=N_CLASSES)
    false_positives = [(match == 0).sum() for match in found.matches]
    assert got.counts[:, :MISS].sum(1).tolist() == false_positives
    assert got.counts[:, KINDS.index("FalsePos")].tolist() == false_positives
    not_found = [n - (match == 1).sum() for n, match in zip(found.n_pos, found.matches)]
    assert got.counts[:, KINDS.index("FalseNeg")].tolist() == not_found
    assert (got.counts[:, MISS] <= not_found).all()
    np.testing.assert_array_equal(got.ap, evaluate_detections(*columns, label_names=range(N_CLASSES)).ap)
    known = ~np.isnan(got.ap)
    assert np.isnan(got.delta_ap[~known]).all()
    assert (got.delta_ap[known] > -1e-12).all()
    assert (got.ap[known, None] + got.delta_ap[known] < 1 + 1e-12).all()


@settings(max_examples=200, deadline=None)
@given(images=some_images)
def test_all_kinds_mended_are_an_average_precision_of_one(images):
    flat = flatten_columns(*columns_of(*images), n_fg_class=N_CLASSES)
    errors = find_errors(flat, 0.5, 0.1, True)
    missed = np.bincount(flat.gt_label[errors.missed], minlength=N_CLASSES)
    ap = mended_ap(flat, errors, range(MISS), missed)
    np.testing.assert_allclose(ap, np.where(flat.n_pos > 0, 1, np.nan))


# By hand

PART, LESS = [0, 0, 4, 4], [0, 0, 9, 7]  # IoU 0.25 and 0.8 with NEAR


def analyse(dets, gts, **options):
    """dets: (box, label, score), gts: (box, label, difficult), in one image of two classes."""
    image = [list(column) for part in (dets, gts) for column in zip(*part)]
    image = [[], [], [], *image] if not dets else image
    return error_analysis(*columns_of(image), label_names=["cat", "dog"], **options)


def numbers(result):
    """{error: number} of the six kinds, without zeros."""
    return {kind: n for kind, n in zip(ERRORS, result.counts.sum(0).tolist()) if n}


def deltas(result):
    return dict(zip(KINDS, result.delta_map.round(9).tolist()))


@pytest.mark.parametrize(
    ("det", "label", "kind", "with_miss"),
    [(NEAR, 1, "Cls", False), (PART, 0, "Loc", False), (PART, 1, "Both", True), (FAR, 0, "Bkg", True)],
)
def test_one_error_alone(det, label, kind, with_miss):
    got = analyse([(det, label, 0.9)], [(NEAR, 0, 0)])
    assert numbers(got) == ({kind: 1, "Miss": 1} if with_miss else {kind: 1})
    assert got.map == 0
    # a cat among nothing is asked for no longer, but a false cat stays and keeps the AP at 0
    assert deltas(got)["Miss"] == (kind == "Both")
    assert deltas(got)[kind] == (not with_miss)


def test_a_second_detection_is_a_duplicate_and_costs_what_ranks_below_it():
    got = analyse([(NEAR, 0, 0.9), (LESS, 0, 0.8), (FAR, 0, 0.7)], [(NEAR, 0, 0), (FAR, 0, 0)])
    assert numbers(got) == {"Dupe": 1}
    assert got.map == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
    assert deltas(got)["Dupe"] == deltas(got)["FalsePos"] == pytest.approx(1 / 6)
    assert deltas(got)["FalseNeg"] == 0


def test_a_box_that_no_detection_is_near_is_missed():
    got = analyse([(NEAR, 0, 0.9)], [(NEAR, 0, 0), (FAR, 0, 0)])
    assert numbers(got) == {"Miss": 1}
    assert deltas(got) == dict.fromkeys(KINDS, 0) | {"Miss": 0.5, "FalseNeg": 0.5}
    got = analyse([], [(NEAR, 0, 0)])
    assert deltas(got) == dict.fromkeys(KINDS, 0) | {"Miss": 1, "FalseNeg": 1}


def test_an_error_about_a_box_that_is_found_is_only_taken_away():
    got = analyse([(NEAR, 0, 0.5), (NEAR, 1, 0.9), (PART, 0, 0.8)], [(NEAR, 0, 0), (FAR, 1, 0)])
    assert numbers(got) == {"Cls": 1, "Loc": 1, "Miss": 1}
    assert got.ap.tolist() == [0.5, 0]
    assert deltas(got)["Loc"] == 0.25  # cat from 1/2 to 1
    assert deltas(got)["Cls"] == 0  # dog's box is not near it
    assert deltas(got)["FalseNeg"] == 0  # a false dog is left


def test_each_oracle_mends_the_best_of_its_own_kind():
    # both aim at the box; the better-scored one makes it found only where its kind is the one mended
    got = analyse([(PART, 0, 0.9), (NEAR, 1, 0.8), (LESS, 1, 0.7)], [(NEAR, 0, 0)])
    assert numbers(got) == {"Cls": 2, "Loc": 1}
    assert deltas(got)["Loc"] == 1
    assert deltas(got)["Cls"] == 0.5  # at score 0.8, below the false positive


def test_a_class_error_keeps_its_score_in_its_new_class():
    got = analyse([(FAR, 0, 0.8), (NEAR, 1, 0.7), (NEAR, 1, 0.9)], [(NEAR, 0, 0)])
    assert numbers(got) == {"Cls": 2, "Bkg": 1}
    assert deltas(got)["Cls"] == 1  # 0.9 ranks above 0.8
    assert deltas(got)["FalsePos"] == 0


def test_of_equal_scores_the_first_in_place_is_mended():
    got = analyse([(NEAR, 1, 0.9), (FAR, 0, 0.9), (NEAR, 1, 0.9)], [(NEAR, 0, 0)])
    assert deltas(got)["Cls"] == 1  # the first ranks before the false cat, the last would rank behind it


def test_the_order_of_the_kinds_where_two_fit():
    # a duplicate of the cat that also covers a dog's box is an error of class, as in the authors' program
    got = analyse([(NEAR, 0, 0.9), (NEAR, 0, 0.8)], [(NEAR, 0, 0), (LESS, 1, 0)])
    assert numbers(got) == {"Cls": 1}
    got = analyse([(PART, 0, 0.8)], [(NEAR, 0, 0), (PART, 1, 0)])
    assert numbers(got) == {"Loc": 1, "Miss": 1}


def test_bounds_belong_to_the_upper_kind():
    quarter, half = PART, [0, 0, 4, 9]
    assert numbers(analyse([(quarter, 0, 0.9)], [(NEAR, 0, 0)], bg_thresh=0.25)) == {"Loc": 1}
    assert numbers(analyse([(quarter, 0, 0.9)], [(NEAR, 0, 0)], bg_thresh=0.26)) == {"Bkg": 1, "Miss": 1}
    assert numbers(analyse([(half, 0, 0.9)], [(NEAR, 0, 0)])) == {}
    assert numbers(analyse([(half, 1, 0.9)], [(NEAR, 0, 0)])) == {"Cls": 1}
    assert numbers(analyse([(half, 0, 0.9)], [(NEAR, 0, 0)], plus_one=False)) == {"Loc": 1}


def test_difficult_boxes_are_no_part_of_it():
    assert numbers(analyse([(NEAR, 0, 0.9)] * 2, [(NEAR, 0, 1)])) == {}
    got = analyse([(NEAR, 1, 0.9), (PART, 0, 0.8)], [(NEAR, 0, 1), (FAR, 0, 0)])
    assert numbers(got) == {"Bkg": 2, "Miss": 1}


def test_table_json_and_csv():
    got = analyse([(NEAR, 0, 0.9), (LESS, 0, 0.8), (FAR, 0, 0.7)], [(NEAR, 0, 0), (FAR, 0, 0)])
    assert got.table().splitlines() == [
        "error     what                           number    ΔmAP",
        "Cls       class wrong, place right            0  0.0000",
        "Loc       class right, place wrong            0  0.0000",
        "Both      class and place wrong               0  0.0000",
        "Dupe      box found already                   1  0.1667",
        "Bkg       nothing there                       0  0.0000",
        "Miss      box with no detection near          0  0.0000",
        "FalsePos  any of the first five               1  0.1667",
        "FalseNeg  boxes not found                     0  0.0000",
    ]
    rows = read_csv(got.rows())
    assert len(rows) == 1 + 3 * len(KINDS)
    assert rows[:2] == ["class,error,number,delta_ap", "cat,Cls,0,0.0"]
    assert rows[9] == "dog,Cls,0,"
    written = json.loads(json.dumps(got.to_json(), allow_nan=False))
    assert written["label_names"] == ["cat", "dog"]
    assert (written["iou_thresh"], written["bg_thresh"]) == (0.5, 0.1)
    assert written["ap"] == [pytest.approx(5 / 6), None]
    assert written["map"] == pytest.approx(5 / 6)
    assert written["counts"] == dict.fromkeys(KINDS, 0) | {"Dupe": 1, "FalsePos": 1}
    assert written["counts_by_class"]["Dupe"] == [1, 0]
    assert written["delta_map"]["Dupe"] == pytest.approx(1 / 6)
    assert written["delta_ap_by_class"]["Dupe"] == [pytest.approx(1 / 6), None]


@pytest.mark.parametrize("options", [{"bg_thresh": 0.6}, {"bg_thresh": -0.1}, {"iou_thresh": 1.1}])
def test_thresholds_out_of_order_are_refused(options):
    with pytest.raises(ValueError, match="must be 0 ≤ bg_thresh ≤ iou_thresh ≤ 1"):
        analyse([(NEAR, 0, 0.9)], [(NEAR, 0, 0)], **options)
