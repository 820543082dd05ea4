"""Running a detector over a dataset.

Only what is found is kept: memory grows by the detections, not by the pictures.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np

from utils.detections import Detections
from utils.dist_tool import ALONE
from utils.errors import UserError
from utils.eval_tool import VOCResult, evaluate_detections


class Evaluation(NamedTuple):
    """What a detector finds in N images, what is there, and what that is worth."""

    voc: VOCResult
    found: Detections
    truth: tuple[list, list, list]  # of each image (R, 4) boxes, (R,) labels, (R,) whether they are difficult

    @property
    def columns(self) -> tuple:
        """The first arguments of `evaluate_detections` and its like."""
        return (*self.found.columns, *self.truth, self.voc.label_names)


def in_chunks(rows, n, on_progress=None):
    """Lists of `n` rows; `on_progress` is told of those that were used."""
    rows = iter(rows)
    while chunk := list(islice(rows, n)):
        yield chunk
        if on_progress:
            on_progress(len(chunk))


def detect_all(model, loader, on_progress=None, n_together=1, raw=False, rois=None, world=ALONE) -> Detections | None:
    """What is found in every image of `loader`; of several processes' loaders, for the main one.

    Args:
        model: a `FasterRCNN`.
        loader: yields (img, (H, W), ...), such as the samples of `data.dataset.TestDataset`.
        raw: img is a picture that `predict` shall prepare; else it is prepared.
        on_progress: called with the number of images that were done since the last call.
        n_together: images given to `predict` at a time: some batches, so that images of one size find each other.
        rois: for each image of the data set (P, 4) boxes in its pixels, in place of the RPN's proposals.
        world: whose processes have their shares of the images in their loaders. All get here; None but for the main
            one.

    Raises:
        UserError: `rois` for an RPN alone.
    """
    if rois is not None and model.rpn_only:
        raise UserError("--proposals: the checkpoint is an RPN, which makes its own; leave them out")
    own_rois = None if rois is None else [rois[i] for i in world.share(len(rois))]
    found = Detections([], [], [])
    for chunk in in_chunks(loader, n_together, on_progress):
        imgs, sizes, *_ = zip(*chunk, strict=True)
        rois = None if own_rois is None else own_rois[len(found) : len(found) + len(chunk)]
        for column, values in zip(found.columns, model.predict(imgs, None if raw else sizes, rois=rois), strict=True):
            column.extend(values)
    columns = _gathered(found.columns, world)
    return columns and Detections(*columns)


def _gathered(columns, world):
    """Columns of all processes' rows, in their order; None but for the main process."""
    rows = world.gather_shares(list(zip(*columns, strict=True)))
    if rows is None:
        return None
    return tuple(map(list, zip(*rows, strict=True))) if rows else columns


def evaluate_model(model, loader, on_progress=None, n_together=1, raw=False, rois=None, world=ALONE):
    """The `Evaluation` of what `detect_all` finds; of an RPN alone, for the one class of all objects.

    Of several processes the main one has it, the others None.
    """
    truth = [], [], []

    def noted():
        for img, size, *own in loader:
            for column, values in zip(truth, own, strict=True):
                column.append(values)
            yield img, size

    found = detect_all(model, noted(), on_progress, n_together, raw, rois, world)
    truth = _gathered(truth, world)
    if found is None:
        return None
    if model.rpn_only:
        truth[1][:] = [np.zeros_like(label) for label in truth[1]]
    return Evaluation(evaluate_detections(*found.columns, *truth, label_names=model.detected_names), found, truth)


def propose_all(model, loader, n_pre_nms, n_post_nms, on_progress=None, n_together=1, raw=False, world=ALONE):
    """The RPN's proposals for each image of `loader`; the other arguments are those of `detect_all`.

    Args:
        n_pre_nms, n_post_nms: at most so many before their suppression, of each level, and after it; whatever their
            score.

    Returns:
        (bbox, score) of each image, see `FasterRCNN.propose`; None but for the main process.
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
    return world.gather_shares(proposals)
