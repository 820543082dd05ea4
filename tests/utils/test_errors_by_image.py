"""utils/analysis_tool.py: the errors of each image, against slow loops."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.utils.slow_matching import columns_of, slow_match, some_images
from tests.utils.test_eval_tool import N_CLASSES
from utils.analysis_tool import errors_by_image

thresholds = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


@settings(max_examples=60)
@given(some_images, thresholds, st.sampled_from([0.0, 0.3, 0.7]), st.booleans())
def test_the_errors_of_each_image(images, iou_thresh, score_thresh, plus_one):
    fate = slow_match(images, iou_thresh, plus_one, lambda label, score: score > score_thresh)
    missed, false = [], []
    for i, image in enumerate(images):
        found = {g for (at, _), g in fate.items() if at == i and g not in ("false", "ignored")}
        missed.append(sum(not difficult for g, difficult in enumerate(image[5]) if g not in found))
        false.append(sum(g == "false" for (at, _), g in fate.items() if at == i))
    names = [str(k) for k in range(N_CLASSES)]
    counted = errors_by_image(*columns_of(*images), names, iou_thresh, score_thresh, plus_one)
    assert [column.tolist() for column in counted] == [missed, false]
