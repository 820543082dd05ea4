"""utils/coco_eval_tool.py: the published numbers, pycocotools used as its users do, and cases reckoned by hand."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from data.coco_dataset import COCOBboxDataset
from tests.coco_folder import make_coco
from utils.coco_eval_tool import STATS, evaluate_coco
from utils.detections import Detections, read_detections


def theirs(truth, results):
    """The twelve numbers by pycocotools from two files."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(truth))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def ours(folder, split, results):
    db = COCOBboxDataset(folder, split, use_difficult=True, pictures=False)
    detections, n_left_out = read_detections(results, db.names)
    assert n_left_out == 0
    return evaluate_coco(detections, db.instances(), db.label_names)


def test_the_published_numbers(shared_data):
    folder = shared_data / "eval/coco100"
    results = folder / "instances_val2014_fakebbox100_results.json"
    expected = json.loads((folder / "expected.json").read_text())
    stats = ours(folder, "val2014_100", results).stats
    assert tuple(stats) == STATS
    assert stats == pytest.approx(expected["published_full"], abs=1e-10)
    assert {name: round(value, 3) for name, value in stats.items()} == expected["published_official_3_digits"]
    np.testing.assert_allclose(
        list(stats.values()), theirs(folder / "instances_val2014_100.json", results), rtol=0, atol=1e-10
    )


def test_photographs_of_coco(shared_data, tmp_path):
    """Detections made of the truth, moved about; crowds among it."""
    db = COCOBboxDataset(shared_data / "coco_subset", "val2017", use_difficult=True)
    rng = np.random.default_rng(0)
    rows = []
    for image_id in db.names.image_ids:
        for row in db.instances()["annotations"]:
            if row["image_id"] == image_id and rng.random() < 0.9:
                for _ in range(rng.integers(1, 4)):
                    box = np.array(row["bbox"]) + rng.normal(0, 0.06, 4) * row["bbox"][2]
                    category = list(db.names.category_ids.values())[row["category_id"]]
                    rows.append({"image_id": image_id, "category_id": category, "score": round(rng.random(), 2),
                                 "bbox": [*box[:2].tolist(), *np.abs(box[2:]).tolist()]})  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(rows))
    result = ours(shared_data / "coco_subset", "val2017", tmp_path / "results.json")
    expected = theirs(db.json_path, tmp_path / "results.json")
    np.testing.assert_allclose(list(result.stats.values()), expected, rtol=0, atol=1e-10)
    assert 0.1 < result.stats["AP"] < 0.9
    assert np.nanmean(result.ap) == pytest.approx(result.stats["AP"])
    assert np.nanmean(result.ap50) == pytest.approx(result.stats["AP50"])
    assert np.nanmean(result.ap75) == pytest.approx(result.stats["AP75"])


# tenths: their sums are no floats, and IoUs fall on the thresholds themselves
boxes = st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 120)] * 2).map(lambda box: [side / 10 for side in box])
where = {"image_id": st.sampled_from([7, 3, 11]), "category_id": st.sampled_from([2, 90]), "bbox": boxes}
truths = st.lists(st.fixed_dictionaries(where | {"iscrowd": st.sampled_from([0, 0, 1])}), max_size=8)
founds = st.lists(st.fixed_dictionaries(where | {"score": st.sampled_from([0.1, 0.5, 0.9])}), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(truths, founds)
def test_any_set_with_ties_and_crowds(tmp_path_factory, truth, found):
    """Ids that are not in order, equal scores, crowds, classes without truth."""
    folder = tmp_path_factory.mktemp("coco")
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 200, "height": 200} for k in (7, 3, 11)]
    rows = [row | {"id": k, "area": row["bbox"][2] * row["bbox"][3]} for k, row in enumerate(truth, 1)]
    categories = [{"id": 90, "name": "dog"}, {"id": 2, "name": "cat"}]
    make_coco(folder, {"images": images, "annotations": rows, "categories": categories}, names=())
    (folder / "results.json").write_text(json.dumps(found))
    stats = ours(folder, "val", folder / "results.json").stats
    expected = theirs(folder / "annotations/instances_val.json", folder / "results.json")
    np.testing.assert_allclose(np.nan_to_num(list(stats.values()), nan=-1), expected, rtol=0, atol=1e-10)


def evaluate(truth, found, n_image=1):
    """`truth` rows are (image, label, xywh, crowd), `found` (image, label, xywh, score)."""
    annotations = [
        {"image_id": i, "category_id": k, "bbox": list(box), "area": box[2] * box[3], "iscrowd": crowd}
        for i, k, box, crowd in truth
    ]
    columns = [[], [], []]
    for image in range(n_image):
        own = [row for row in found if row[0] == image]
        columns[0].append(np.array([[y, x, y + h, x + w] for _, _, (x, y, w, h), _ in own], float).reshape(-1, 4))
        columns[1].append(np.array([row[1] for row in own], int))
        columns[2].append(np.array([row[3] for row in own], float))
    instances = {"images": [{"id": i} for i in range(n_image)], "annotations": annotations}
    return evaluate_coco(Detections(*columns), instances, ("cat", "dog", "owl"))


def test_an_iou_on_a_threshold(tmp_path):
    """As pycocotools reckons it: with the file's own sides, not with what is left of them after an addition."""
    rng = np.random.default_rng(0)
    truth = np.round(np.concatenate([rng.uniform(0, 300, (200, 2)), rng.uniform(10, 300, (200, 2))], axis=1), 2)
    share = rng.choice(np.arange(0.5, 1, 0.05), 200).round(2)
    images = [{"id": k, "file_name": f"{k}.jpg", "width": 640, "height": 640} for k in range(200)]
    rows = [{"id": k + 1, "image_id": k, "category_id": 1, "bbox": box.tolist(), "area": box[2] * box[3]}
            for k, box in enumerate(truth)]  # fmt: skip
    found = [{"image_id": k, "category_id": 1, "bbox": [*box[:2].tolist(), box[2] * part, box[3]], "score": 0.5}
             for k, (box, part) in enumerate(zip(truth, share))]  # fmt: skip
    make_coco(tmp_path, {"images": images, "annotations": [row | {"iscrowd": 0} for row in rows],
                         "categories": [{"id": 1, "name": "cat"}]}, names=())  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(found))
    expected = theirs(tmp_path / "annotations/instances_val.json", tmp_path / "results.json")
    stats = ours(tmp_path, "val", tmp_path / "results.json").stats
    np.testing.assert_allclose(np.nan_to_num(list(stats.values()), nan=-1), expected, rtol=0, atol=1e-10)


def test_half_found_by_hand():
    """Of two cats one, with IoU 0.8: found at the 7 thresholds to 0.8, and precision 1 up to a recall of a half is 51
    of 101 points. The dog is missed, and there is no owl to be found."""
    result = evaluate([(0, 0, (0, 0, 40, 50), 0), (1, 0, (0, 0, 40, 50), 0), (1, 1, (9, 9, 9, 9), 0)],
                      [(0, 0, (0, 0, 40, 40), 0.7)], n_image=2)  # fmt: skip
    assert result.ap[0] == pytest.approx(51 / 101 * 7 / 10)
    assert result.ap50[:2].tolist() == pytest.approx([51 / 101, 0])
    assert result.ap75[0] == pytest.approx(51 / 101)
    assert np.isnan(result.ap[2])
    assert result.stats["AP50"] == pytest.approx(51 / 202)
    assert result.stats["AR100"] == pytest.approx(0.35 / 2)
    assert np.isnan(result.stats["APl"])


def test_nothing_found_and_nothing_to_find():
    nothing_found = evaluate([(0, 0, (0, 0, 40, 50), 0)], [])
    assert nothing_found.stats["AP"] == 0
    nothing_there = evaluate([], [(0, 0, (0, 0, 40, 50), 0.5)])
    assert all(np.isnan(value) for value in nothing_there.stats.values())
    assert json.loads(json.dumps(nothing_there.to_json()))["stats"]["AP"] is None
    assert nothing_there.table().count("-") == 12
    assert evaluate([], []).to_json()["ap"] == [None] * 3


def test_a_crowd_takes_any_number():
    truth = [(0, 0, (0, 0, 100, 100), 1), (0, 0, (120, 0, 20, 20), 0)]
    inside = [(0, 0, (10 * k, 0, 10, 10), 0.9) for k in range(5)]
    result = evaluate(truth, [*inside, (0, 0, (120, 0, 20, 20), 0.5)])
    assert result.stats["AP"] == pytest.approx(1)
