"""utils/proposal_tool.py: files of proposals, and recall box by box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import UserError
from utils.proposal_tool import COUNTS, IOUS, read_proposals, recall_table, show_recall, write_proposals


def some(n, seed=0):
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (n, 2))
    bbox = np.concatenate([corner, corner + rng.uniform(5, 40, (n, 2))], axis=1).astype(np.float32)
    return bbox, np.sort(rng.random(n).astype(np.float32))[::-1]


def test_what_is_written_is_read(tmp_path):
    proposals = [some(3), some(0), some(5, 2)]
    write_proposals(tmp_path / "a/first.npz", ["x", "ü/ñ", "z"], proposals)
    write_proposals(tmp_path / "second.npz", ["w"], [some(2, 7)])
    found = read_proposals([tmp_path / "a/first.npz", tmp_path / "second.npz"], ["z", "ü/ñ", "w"])
    for bbox, expected in zip(found, (proposals[2][0], proposals[1][0], some(2, 7)[0]), strict=True):
        np.testing.assert_array_equal(bbox, expected)
        assert bbox.dtype == np.float32
    assert not list(tmp_path.rglob("*.tmp"))


def test_files_that_can_not_be_used(tmp_path):
    write_proposals(tmp_path / "p.npz", ["x"], [some(3)])
    with pytest.raises(UserError, match="has none for y and 1 more"):
        read_proposals([tmp_path / "p.npz"], ["x", "y", "z"])
    with pytest.raises(UserError, match="no such file"):
        read_proposals([tmp_path / "q.npz"], ["x"])
    (tmp_path / "text.npz").write_text("no")
    np.savez(tmp_path / "objects.npz", **{"bbox/x": np.array([print], dtype=object)})
    for name in ("text", "objects"):
        with pytest.raises(UserError, match="not a file of proposals"):
            read_proposals([tmp_path / f"{name}.npz"], ["x"])
    for boxes in (np.zeros(4), np.zeros((2, 5)), np.zeros((2, 4), int), np.array([[0, 0, np.nan, 5.0]])):
        np.savez(tmp_path / "other.npz", **{"bbox/x": boxes})
        with pytest.raises(UserError, match="are not"):
            read_proposals([tmp_path / "other.npz"], ["x"])
    with pytest.raises(UserError, match="can't be written"):
        write_proposals(tmp_path / "text.npz/below.npz", ["x"], [some(1)])


def iou(a, b):
    height, width = (max(min(a[k + 2], b[k + 2]) - max(a[k], b[k]), 0) for k in (0, 1))
    return height * width / (sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - height * width)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 80), st.integers(0, 4)), min_size=1, max_size=4), st.integers(0, 1000))
def test_recall_box_by_box(counts, seed):
    proposals = [some(n, seed + k)[0] for k, (n, _) in enumerate(counts)]
    truths = [some(r, seed + 100 + k)[0] for k, (_, r) in enumerate(counts)]
    found = recall_table(proposals, truths)
    assert found.shape == (len(COUNTS), len(IOUS))
    n_box = sum(map(len, truths))
    for i, n in enumerate(COUNTS):
        for j, t in enumerate(IOUS):
            hits = sum(
                any(iou(p, b) >= t for p in own[:n].astype(float))
                for own, boxes in zip(proposals, truths)
                for b in boxes.astype(float)
            )
            if n_box == 0:
                assert np.isnan(found[i, j])
            else:
                assert found[i, j] == hits / n_box


def test_a_proposal_at_the_very_threshold_counts():
    table = recall_table([np.array([[0, 0, 10, 7]], np.float32)], [np.array([[0, 0, 10, 10]], np.float32)])
    assert table[0].tolist() == [1, 1, 1, 0, 0]


def test_the_table_as_text():
    lines = show_recall(np.arange(25).reshape(5, 5) / 25).splitlines()
    assert lines[0].split() == ["proposals", *(word for t in IOUS for word in ("IoU", f"{t}"))]
    assert lines[5].split() == ["2000", "0.800", "0.840", "0.880", "0.920", "0.960"]
