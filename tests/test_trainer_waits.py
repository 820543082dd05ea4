"""trainer.py: nothing between the batch and the loss makes a GPU's host wait."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_trainer import BOXES, LABELS, images, make_trainer

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "_unique2", "equal", "is_nonzero")


class HostCalls(TorchDispatchMode):
    """Notes the operations for which a GPU's host would have to wait: values and value-dependent sizes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or by_mask or str(function) == "aten.repeat_interleave.Tensor":
            self.seen.append(str(function))
        return function(*args, **(kwargs or {}))


def test_host_calls_are_noticed():
    x = torch.arange(4.0)
    for call in (
        lambda: x.sum().item(),
        lambda: x[x > 1],
        lambda: x.nonzero(),
        lambda: float(x[0]),
        lambda: bool(x[1]),
    ):
        with HostCalls() as calls:
            call()
        assert calls.seen


@pytest.mark.parametrize("sizes", [None, [(64, 80), (37, 50)]])
@pytest.mark.parametrize("n_boxes", [2, 0])
def test_nothing_between_the_batch_and_the_loss_waits_for_a_gpu(sizes, n_boxes):
    trainer = make_trainer()
    batch = images(2), [BOXES[:n_boxes]] * 2, [LABELS[:n_boxes]] * 2, [1.0, 1.0], sizes
    trainer(*batch)
    with HostCalls() as calls:
        losses = trainer(*batch)
        losses.total_loss.backward()
        trainer.update_meters(losses)
    assert calls.seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_on_a_gpu_never_synchronises():
    trainer = make_trainer().cuda()
    batch = images(2).cuda(), [BOXES.cuda()] * 2, [LABELS.cuda()] * 2, [1.0, 1.0], [(64, 80), (37, 50)]
    trainer.train_step(*batch)  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
