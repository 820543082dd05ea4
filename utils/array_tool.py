"""Conversions between numpy arrays, tensors and Python numbers."""

import numpy as np
import torch


def tonumpy(data):
    """A numpy array of `data` (array, tensor on any device, or sequence); shares memory where it can."""
    if isinstance(data, torch.Tensor):
        return data.detach().cpu().numpy()
    return np.asarray(data)


def totensor(data, device=None, dtype=None):
    """A tensor of `data` (array, tensor or sequence), on `device` if one is named; shares memory where it can.

    `device` may be a bool too, as in simple-faster-rcnn's `totensor(data, cuda)`: a GPU, or the CPU.
    """
    if isinstance(device, bool):
        device = "cuda" if device else "cpu"
    if isinstance(data, np.ndarray):
        # torch takes no reversed views, such as OpenCV users' bgr[::-1]; one of a single row numpy calls contiguous
        data = data.copy() if min(data.strides, default=0) < 0 else np.ascontiguousarray(data)
    return torch.as_tensor(data, device=device, dtype=dtype)


def scalar(data):
    """The one number that `data` (array, tensor or number) holds, as a Python number."""
    return data.item() if hasattr(data, "item") else data
