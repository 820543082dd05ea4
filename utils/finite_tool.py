"""Losses and gradients that are not finite, caught before they change a parameter."""

import json
import math
from collections import deque
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.dist_tool import ALONE
from utils.errors import UserError
from utils.file_tool import whole_file
from utils.terminal_tool import warn


class NonFiniteError(UserError):
    """A loss or a gradient was NaN or infinite, and the update was left out.

    Attributes:
        losses: name → value.
        gradients: names of the parameters whose gradients are not finite; None where it is not known any more.
        batches: of this process: for each the arguments of `FasterRCNNTrainer.forward`.
        is_own: the losses of these batches are not finite.
        late: it is told with the step behind it, which was made.
    """

    def __init__(self, losses, gradients, batches, is_own=True, late=False):
        wrong = [f"{name} {value}" for name, value in losses.items() if not math.isfinite(value)]
        what = f"the loss is not finite ({', '.join(wrong)})" if wrong else "the gradient is not finite"
        super().__init__(f"{what}: lower --lr, raise --warmup, or set --grad-clip")
        self.what, self.losses, self.gradients = what, losses, gradients
        self.batches, self.is_own, self.late = batches, is_own, late


class FiniteCheck:
    """Between the backward pass and the update. On a GPU nothing waits: the update itself looks at a flag there.

    Args:
        optimizer: one of torch's fused ones, which leave an update out where their `found_inf` is 1.
        parameters: name → parameter.
    """

    def __init__(self, optimizer, parameters):
        self._optimizer, self._parameters = optimizer, parameters
        self._pending = deque()  # (flag, event, losses, batch) of steps that the host has not heard of

    @torch.no_grad()
    def look(self, losses, norm, statistics, scaled=False, batches=(), own=()):
        """Call before the update.

        Args:
            losses: a NamedTuple of 0-dim tensors, of all processes together; the last is their total.
            norm: the L2 norm of all gradients, or None if it is not known.
            statistics: the `RunningStatistics` before the step.
            scaled: a GradScaler looks after the gradients, which are infinite now and then: that is its way.
            batches: kept for the error.
            own: the losses of each of them, (5,) tensors.

        Raises:
            NonFiniteError: on a CPU.
        """
        total = losses[-1].detach().float()
        if not scaled:
            total = total + (self._size() if norm is None else norm)
        if total.device.type == "cpu":
            if not math.isfinite(total.item()):
                raise self._error(losses, batches, own)
            return
        flag = (~total.isfinite()).float()
        statistics.restore_where(flag)
        if not scaled:  # else the scaler sets it
            self._optimizer.found_inf = flag
        own = torch.stack(own).sum().isfinite().float()
        kept = torch.empty(2 + len(losses), pin_memory=True)
        kept.copy_(torch.stack([flag, own, *(loss.detach().float() for loss in losses)]), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending.append((kept, event, type(losses), batches))

    def _size(self):
        """A number that is finite where all gradients are.

        On a CPU their sums, of which one takes a third of the time that a norm takes: 18 ms for VGG16, 2 % of a step.
        """
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if not gradients:
            return 0.0
        if gradients[0].device.type == "cpu":
            return sum(gradient.sum() for gradient in gradients)
        return nn.utils.get_total_norm(gradients)

    def tell_of_earlier(self, all_of_them=False):
        """On a GPU: raise NonFiniteError for a step that the host hears of now; the last one only if it must."""
        while self._pending:
            kept, event, kind, batches = self._pending[0]
            if len(self._pending) == 1 and not all_of_them:
                return
            event.synchronize()
            self._pending.popleft()
            if kept[0]:
                losses = dict(zip(kind._fields, kept[2:].tolist(), strict=True))
                raise NonFiniteError(losses, None, batches, is_own=not kept[1], late=True)

    def _error(self, losses, batches, own):
        names = [name for name, p in self._parameters.items() if p.grad is not None and not p.grad.isfinite().all()]
        values = {name: float(loss) for name, loss in zip(losses._fields, losses, strict=True)}
        return NonFiniteError(values, names, batches, is_own=not torch.stack(own).isfinite().all())


@torch.no_grad()
def is_finite(model) -> bool:
    """Whether all parameters that learn are."""
    return math.isfinite(sum(float(parameter.sum()) for parameter in model.parameters() if parameter.requires_grad))


def check_finite(model, step: int):
    """Before a checkpoint is written: one with NaN would take the place of a good one. Raises UserError."""
    if not is_finite(model):
        raise UserError(f"the parameters are not finite after step {step:,}: lower --lr, or raise --warmup")


class RunningStatistics:
    """What the forward pass changes: the means and variances of BatchNorm layers that are not frozen.

    Args:
        model: as it is before a step.
    """

    @torch.no_grad()
    def __init__(self, model):
        layers = (module for module in model.modules() if isinstance(module, _BatchNorm))
        self._buffers = [buffer for layer in layers if layer.training for buffer in layer.buffers(recurse=False)]
        self._before = [buffer.clone() for buffer in self._buffers]

    @torch.no_grad()
    def restore(self):
        """Go back to them."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(before)

    @torch.no_grad()
    def restore_where(self, flag):
        """Go back to them if the tensor `flag` is 1, which the host does not know."""
        for buffer, before in zip(self._buffers, self._before, strict=True):
            buffer.copy_(torch.where(flag.bool(), before, buffer))


class Policy:
    """What a run does about them: each is kept in its folder, and told; too many end the run.

    Args:
        folder: the run's.
        skips: whether a batch may be left out.
        limit: how many.
        n: how many were left out before the run went on.
        world: the processes that train together: all of them come to the same error, in the same step.
    """

    def __init__(self, folder, skips: bool, limit: int, n: int = 0, world=ALONE):
        self.folder, self.skips, self.limit, self.n, self._world = folder, skips, limit, n, world

    @contextmanager
    def heeded(self, at, ids, n: int = 1):
        """For `n` steps of a run, 1 or 0 (the wait for the last): counts them in `at`, a `Position`.

        Args:
            ids: names of the dataset's images.

        Raises:
            UserError: the run ends with it. A step that was not made is not counted.
        """
        at.advance(n)
        try:
            yield
        except NonFiniteError as error:
            made = n if error.late else 0
            try:
                self.take(error, at.total_step - made, [ids[i] for batch in error.batches for i in batch[5]])
            except UserError:
                at.advance(made - n)  # it comes again when the run goes on
                raise
        except BaseException:
            at.advance(-n)
            raise

    def take(self, error: NonFiniteError, step: int, image_names, **facts):
        """Keep `error`, of the step `step` (from 1). Raises UserError where the run ends with it."""
        is_own = self._world.gather(error.is_own)
        own = error.is_own or not any(is_own)  # a gradient may be nobody's own
        told = self._world.gather((image_names, self._keep(error, step, image_names, facts)) if own else None)
        names, kept = zip(*(each for each in told if each is not None), strict=True)
        names = [name for own in names for name in own]
        images = ", ".join(map(str, names[:4])) + (", ..." if len(names) > 4 else "")
        line = f"step {step:,}: {error.what}, images {images}; {', '.join(kept)}"
        if not self.skips:
            raise UserError(f"{line}; lower --lr, raise --warmup, set --grad-clip, or --on-nonfinite=skip")
        self.n += 1
        if self.n > self.limit:
            raise UserError(f"{line}; it is one more than --nonfinite-limit={self.limit}; lower --lr or raise --warmup")
        if self._world.is_main:
            warn(f"{line}; it is left out ({self.n} of at most {self.limit})")

    def _keep(self, error, step, image_names, facts):
        """Write a record; what is to be said of it."""
        name = f"step-{step:08}" + ("" if self._world.is_main else f"-process{self._world.rank}")
        try:
            return f"the batch is kept in {write_record(self.folder, name, error, image_names, step=step, **facts)}"
        except (OSError, RuntimeError) as reason:
            return f"its record can't be written ({getattr(reason, 'strerror', None) or reason})"


def write_record(folder, name: str, error: NonFiniteError, image_names, **facts) -> Path:
    """Keep what led to `error`: the losses and names as JSON, the batches as a file of torch's, a list of dicts
    (`weights_only` reads it).

    Args:
        folder: the run's; the files come to its folder nonfinite/.
        name: theirs, without the ending.
        image_names: of the batches.
        facts: name → plain value, which come along.

    Returns:
        the JSON file.

    Raises:
        OSError: it can't be written.
    """
    path = Path(folder, "nonfinite", f"{name}.json")
    losses = {name: value if math.isfinite(value) else str(value) for name, value in error.losses.items()}
    record = {**facts, "what": error.what, "losses": losses, "images": list(image_names),
              "gradients": error.gradients, "batch": path.with_suffix(".pth").name}  # fmt: skip
    names = ("imgs", "bboxes", "labels", "scale", "sizes", "indices", "rois")
    with whole_file(path.with_suffix(".pth")) as partial, partial.open("wb") as file:
        torch.save([dict(zip(names, batch, strict=True)) for batch in error.batches], file)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path
