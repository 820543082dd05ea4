"""Whether two states are the same to the last bit."""

import torch


def same(a, b):
    """Of dicts, lists, tensors and plain values; NaN is the same as NaN."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b)
