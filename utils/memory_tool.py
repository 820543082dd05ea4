"""How much memory a training step takes, told before it is taken."""

import copy
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks


class Memory(NamedTuple):
    """Bytes of a training step, beside the program and its libraries (about 0.5 GB, and as much on a GPU)."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int  # what the backward pass needs of the forward pass, and the largest gradients among these

    @property
    def total(self) -> int:
        """The sum: the peak is a little less, for activations go as gradients come."""
        return sum(self)

    def text(self) -> str:
        """In GB, as 'about 1.9 GB (parameters 0.5, gradients 0.5, optimizer 0.5, activations 0.4)'."""
        parts = ", ".join(f"{name} {_gb(value)}" for name, value in zip(self._fields, self, strict=True))
        return f"about {_gb(self.total)} GB ({parts})"


def smaller(opt, step: int, n_processes: int = 1) -> str:
    """What to do when step `step` ran out of memory; `opt` is the run's `Config`."""
    n_at_once = -(-opt.batch_size // (n_processes * opt.accumulate))
    others = "smaller pictures (--min-size, --max-size), --amp=bf16 or a smaller --model need less"
    fewer = (
        f"try --accumulate={opt.accumulate * 2} (the same steps, in more parts) or --batch-size={opt.batch_size // 2}; "
    )
    at_once = "one image" if n_at_once == 1 else f"{n_at_once} images at once"
    return f"step {step:,}: no memory is left for {at_once}: {fewer if n_at_once > 1 else ''}{others}"


def ran_out(error: BaseException) -> bool:
    """Whether `error` says that there is no memory left, of the machine or of a GPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = "allocate memory", "bad alloc", "bad_alloc", "could not create a primitive"  # the last is oneDNN's
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)  # on a CPU


def _gb(n):
    return f"{n / 1e9:.1f}" if n >= 1e9 else f"{n / 1e9:.2f}"


def training_memory(model: nn.Module, size, n_images=1, amp=None, adam=False) -> Memory:
    """An estimate of what a training step of a `FasterRCNN` takes at its largest.

    The forward pass runs on torch's device 'meta', which computes shapes alone, and what autograd keeps is counted:
    nothing is allocated and it takes up to a second. What the RPN and the losses do besides is not counted, nor the
    libraries' own workspaces. Against the peak of the resident memory on a CPU in float32 it is 16 % too low for `tiny`
    (four of 128×170 with AdamW: 0.13 GB), 9 % for `mobilenet_v2` (two of 320×427: 0.52 GB) and 5 % for `vgg16` (one of
    600×800: 2.04 GB); on a GPU and in other formats it was not measured.

    Args:
        size: (H, W) of the largest prepared picture.
        n_images: of a batch.
        amp: the format in which the network multiplies, or None for float32.
        adam: AdamW keeps two numbers for each that is trained, SGD with momentum one.
    """
    n_parameter = sum(p.numel() for p in model.parameters())
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    kept, largest = _kept_by_autograd(_on_meta(model), size, n_images)
    activations = kept + 2 * largest  # the gradients before and behind a layer
    copies = 0
    if amp is not None:
        activations, copies = activations // 2, 2 * n_parameter  # and of the parameters in that format
    return Memory(4 * n_parameter + copies, 4 * n_trained, (8 if adam else 4) * n_trained, activations)


def _on_meta(model):
    """A copy of `model` whose parameters and buffers have shapes, but no values."""
    memo = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in model.parameters()}
    memo |= {id(buffer): torch.empty_like(buffer, device="meta") for buffer in model.buffers()}
    memo[id(model.optimizer)] = None
    return copy.deepcopy(model, memo).train()


def _kept_by_autograd(model, size, n_images):
    """(bytes of all that the backward pass needs, bytes of the largest of it), the parameters apart."""
    own = {id(p.untyped_storage()) for p in model.parameters()}
    kept = {}  # a storage is kept once, whoever needs it; held here, so that no other takes its id

    def pack(tensor):
        storage = tensor.untyped_storage()
        if id(storage) not in own:
            kept[id(storage)] = storage
        return tensor

    with torch.device("meta"), saved_tensors_hooks(pack, lambda tensor: tensor):
        features = model.extract(torch.empty(n_images, 3, *size), [size] * n_images)
        for level in features:
            hidden = model.rpn.conv1(level)
            outputs = model.rpn.score(hidden), model.rpn.loc(hidden)
        if not model.rpn_only:
            side, channels = model.head.roi_size, features[0].shape[1]
            pooled = torch.empty(n_images * model.n_sample, channels, side, side, requires_grad=True)
            pack(torch.empty_like(pooled))  # where the largest values were
            hidden = model.head.classifier(pooled)
            outputs = model.head.score(hidden), model.head.cls_loc(hidden)
    del outputs
    sizes = [storage.nbytes() for storage in kept.values()] or [0]
    return sum(sizes), max(sizes)
