"""Running a detector over a dataset.

Only the boxes are kept: memory grows by the detections, not by the pictures.
"""

from itertools import islice

import numpy as np

from utils.errors import UserError
from utils.eval_tool import evaluate_detections


def in_chunks(rows, n, on_progress=None):
    """Lists of `n` rows; `on_progress` is told of those that were used."""
    rows = iter(rows)
    while chunk := list(islice(rows, n)):
        yield chunk
        if on_progress:
            on_progress(len(chunk))


def evaluate_model(model, loader, on_progress=None, n_together=1, raw=False, rois=None):
    """Detect in every image of `loader` and score what was found.

    Only the boxes are kept: memory grows by the detections and the true boxes, not by the pictures.

    Args:
        model: a `FasterRCNN`.
        loader: yields (img, (H, W), bbox, label, difficult), see `data.dataset.TestDataset`.
        raw: img is a picture that `predict` shall prepare; else it is prepared.
        on_progress: called with the number of images that were done since the last call.
        n_together: images given to `predict` at a time: some batches, so that images of one size find each other.
        rois: for each image (P, 4) boxes in its pixels, in place of the RPN's proposals.

    Returns:
        `VOCResult`; of an RPN alone, for the one class of all objects.

    Raises:
        UserError: `rois` for an RPN alone.
    """
    if rois is not None and model.rpn_only:
        raise UserError("--proposals: the checkpoint is an RPN, which makes its own; leave them out")
    columns = [[] for _ in range(6)]  # predicted bboxes, labels, scores; true bboxes, labels, difficults
    for chunk in in_chunks(loader, n_together, on_progress):
        imgs, sizes, *truth = zip(*chunk, strict=True)
        begin = len(columns[0])
        own = None if rois is None else rois[begin : begin + len(chunk)]
        detections = model.predict(imgs, None if raw else sizes, rois=own)
        for column, values in zip(columns, (*detections, *truth), strict=True):
            column.extend(values)
    if model.rpn_only:
        columns[4] = [np.zeros_like(label) for label in columns[4]]
    return evaluate_detections(*columns, label_names=model.detected_names)


def propose_all(model, loader, n_pre_nms, n_post_nms, on_progress=None, n_together=1, raw=False):
    """The RPN's proposals for each image of `loader`; the other arguments are those of `evaluate_model`.

    Args:
        n_pre_nms, n_post_nms: at most so many before their suppression, of each level, and after it; whatever their
            score.

    Returns:
        (bbox, score) of each image, see `FasterRCNN.propose`.
    """
    layer = model.rpn.proposal_layer
    usual = layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh
    layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh = n_pre_nms, n_post_nms, 0.0
    proposals = []
    try:
        for chunk in in_chunks(loader, n_together, on_progress):
            imgs, sizes, *_ = zip(*chunk, strict=True)
            proposals += model.propose(imgs, None if raw else sizes)
    finally:
        layer.n_test_pre_nms, layer.n_test_post_nms, layer.score_thresh = usual
    return proposals
