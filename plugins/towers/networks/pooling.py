"""Means of the positions of a grid, as features of networks for images.

Legend: B batch, C channels, H and W sides of the grid.
"""

import torch
from torch import Tensor


def pool_grid(x_BCHW: Tensor, cells: int) -> Tensor:
    """Return the means (B, C x cells x cells) over the cells of a grid, which overlap by a position where a side is odd.

    Equal to `F.adaptive_avg_pool2d`, by operations that every exporter knows.
    """
    if cells == 1:
        return x_BCHW.mean(dim=(2, 3))
    rows, columns = (
        [slice(n * side // cells, -(-(n + 1) * side // cells)) for n in range(cells)] for side in x_BCHW.shape[2:]
    )
    means = [x_BCHW[:, :, row, column].mean(dim=(2, 3)) for row in rows for column in columns]
    return torch.stack(means, dim=2).flatten(1)
