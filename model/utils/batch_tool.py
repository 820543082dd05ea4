"""Small matters of a batch: sizes and scales in whatever form they come, cells that are padding, modes of modules.

Letters: N images, C channels, (H, W) a map.
"""

from contextlib import contextmanager

import numpy as np
import torch

from utils.array_tool import tonumpy


def as_levels(x):
    """The levels' feature maps, or their `Cells`, as a list: what is no tuple or list is the only level."""
    return list(x) if isinstance(x, tuple | list) else [x]


def cell_mask(map_size, own_sizes, device):
    """(N, H, W) bool: the cells of a padded batch's map within the (height, width) of each image's own map."""
    mask = torch.zeros(len(own_sizes), *map_size, dtype=torch.bool, device=device)
    for own_mask, (height, width) in zip(mask, own_sizes, strict=True):
        own_mask[:height, :width] = True
    return mask


def own_cells(features, own_sizes):
    """(N, C, H, W) `features`, 0 beyond the (height, width) of each image's own map."""
    map_size = tuple(features.shape[2:])
    if all(own == map_size for own in own_sizes):
        return features
    return features * cell_mask(map_size, own_sizes, features.device)[:, None]


def batch_geometry(imgs, scale, sizes):
    """`sizes` and `scale` of a batch as N host pairs of ints and N floats, whatever form they came in."""
    n, _, height, width = imgs.shape
    sizes = [(height, width)] * n if sizes is None else [tuple(int(side) for side in size) for size in sizes]
    scale = np.ravel(tonumpy(scale) if isinstance(scale, torch.Tensor) else scale).astype(float).tolist()
    if len(scale) == 1:
        scale *= n
    if len(sizes) != n or len(scale) != n:
        raise ValueError(f"{n} images, but {len(sizes)} sizes and {len(scale)} scales")
    if any(own[0] > height or own[1] > width for own in sizes):
        raise ValueError(f"sizes {sizes} do not lie within the padded images' {height}×{width}")
    return sizes, scale


@contextmanager
def evaluating(model):
    """Put `model` in evaluation mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training


def scales(prepared_size, originals):
    """Prepared size / original size of N pictures of one prepared size."""
    return [prepared_size[0] / size[0] for size in originals]
