"""BatchNorm over the images of all processes that train together (Peng et al. 2018, MegDet, §3.2)."""

import torch
import torch.distributed as dist
from torch import nn


def synchronized(model: nn.Module, device: torch.device) -> nn.Module:
    """`model`, whose BatchNorm layers take means and variances over all processes where they learn.

    On a GPU these are torch's own layers, which have no form for a CPU. Names in the state dict stay.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronizedBatchNorm2d
    return model


class SumOfAll(torch.autograd.Function):
    """The sum of all processes' tensors. As each has it, the gradient of each tensor is the sum of all of theirs."""

    @staticmethod
    def forward(ctx, x):
        x = x.clone()
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx, gradient):
        return SumOfAll.apply(gradient)


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """What torch's SyncBatchNorm computes, on any device: (N, C, H, W) → (N, C, H, W)."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        n = SumOfAll.apply(x.new_tensor(x.numel() / x.shape[1]))  # N, H and W may differ between processes
        mean = SumOfAll.apply(x.sum(dim=(0, 2, 3))) / n
        centred = x - mean[:, None, None]
        var = SumOfAll.apply(centred.square().sum(dim=(0, 2, 3))) / n
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
        factor = self.weight * (var + self.eps).rsqrt()
        return centred * factor[:, None, None] + self.bias[:, None, None]
