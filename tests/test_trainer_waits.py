"""trainer.py: nothing between the batch and the loss makes a GPU's host wait."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model import FasterRCNNTiny
from model.faster_rcnn_resnet import FasterRCNNResNet18FPN
from model.ops import kernel
from tests.test_trainer import BOXES, LABELS, images, make_trainer

WAITING = (
    "_local_scalar_dense", "nonzero", "masked_select", "unique_consecutive", "unique_dim", "_unique2", "bincount",
    "equal", "is_nonzero",
)  # fmt: skip


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


class Copies(TorchDispatchMode):
    """Notes the operations in which tensors of a CPU and of a GPU meet; 0-dim ones are numbers that a launch brings."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        is_copy = "copy" in function.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor) and (is_copy or x.ndim)]
        if len({x.device.type for x in tensors}) > 1:
            self.seen.append(str(function))
        return out


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors without data that are on 'cuda' for all that torch knows: what needs a value of theirs is an error."""
    monkeypatch.setattr(kernel, "takes", lambda x: x.is_cuda and x.dtype in kernel.SCALARS)
    with FakeTensorMode():
        yield


def test_copies_are_noticed(fake_gpu):
    x = torch.arange(4.0, device="cuda")
    for call in (lambda: x.cpu(), lambda: x[[1, 0]], lambda: x.copy_(torch.zeros(4)), lambda: torch.zeros(4).cuda()):
        with Copies() as copies:
            call()
        assert copies.seen
    for call in (lambda: x.sum().item(), lambda: x.tolist(), lambda: x.numpy(), lambda: x[x > 1]):
        with pytest.raises(Exception, match=r"_local_scalar_dense|numpy|nonzero|data"):
            call()
    with Copies() as copies:
        _ = x * 2 + torch.tensor(3.0), x.long(), torch.where(x > 1, x, 0.0)
    assert copies.seen == []


@pytest.mark.parametrize("family", [FasterRCNNTiny, FasterRCNNResNet18FPN])
@pytest.mark.parametrize("sizes", [None, [(64, 80), (37, 50)]])
@pytest.mark.parametrize("n_boxes", [2, 0])
def test_nothing_between_the_batch_and_the_loss_leaves_or_enters_the_gpu(monkeypatch, fake_gpu, family, sizes, n_boxes):
    trainer = make_trainer(family=family)
    for module in trainer.modules():  # `.cuda()` would swap the data of tensors that have none
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = torch.nn.Parameter(parameter.detach().cuda(), parameter.requires_grad)
        module._buffers.update({name: b.cuda() for name, b in module._buffers.items() if b is not None})
    monkeypatch.setattr(
        trainer, "_generators", lambda n, device, indices: [None] * n
    )  # there is no CUDA to make one for
    boxes, labels = torch.rand(n_boxes, 4).cuda(), torch.zeros(n_boxes, dtype=torch.int64).cuda()
    batch = images(2).cuda(), [boxes] * 2, [labels] * 2, [1.0, 1.0], sizes
    with Copies() as copies:
        losses = trainer(*batch)
        trainer.update_meters(losses)
    assert losses.total_loss.device.type == "cuda"
    assert copies.seen == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("family", [FasterRCNNTiny, FasterRCNNResNet18FPN])
@pytest.mark.parametrize("roi", ["pool", "align", "crop"])
@pytest.mark.parametrize("amp", [None, torch.bfloat16])  # float16's scaler asks once a step, after the backward pass
def test_a_step_on_a_gpu_never_synchronises(family, roi, amp):
    trainer = make_trainer(amp=amp, family=family).cuda()
    trainer.faster_rcnn.head.roi = roi
    batch = images(2).cuda(), [BOXES.cuda()] * 2, [LABELS.cuda()] * 2, [1.0, 1.0], [(64, 80), (37, 50)]
    trainer.train_step(*batch)  # compiles the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(*batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
