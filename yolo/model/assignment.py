"""Assign boxes to cells and anchors. Only the boxes' shapes and positions decide, not the predictions."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LevelMatches:
    """K matches of a box with an anchor of a cell, on one level; lengths are in cells (stride pixels)."""

    image: Tensor
    """(K,) index in the batch."""
    anchor: Tensor
    """(K,) index 0..2 on this level."""
    row: Tensor
    """(K,) of the cell."""
    column: Tensor
    """(K,) of the cell."""
    box: Tensor
    """(K, 4) centre x and y from the cell's upper left corner, width, height."""
    anchor_shape: Tensor
    """(K, 2) width and height of the anchor."""
    category: Tensor
    """(K,) class index."""

    def __len__(self) -> int:
        return len(self.image)

    def within(self, first: int, columns: int) -> "LevelMatches":
        """The matches in the cells of some columns, counted from `first`."""
        is_within = (self.column >= first) & (self.column < first + columns)
        kept = {field.name: getattr(self, field.name)[is_within] for field in fields(self)}
        return LevelMatches(**kept | {"column": kept["column"] - first})

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "LevelMatches":
        """The same matches on another device."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return LevelMatches(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))


def match_level(
    targets: Tensor, anchors: Tensor, grid: tuple[int, int], threshold: float
) -> LevelMatches:
    """Match the boxes on one level; the order of the matches depends only on the order of the targets.

    targets (M, 6): image index, class, centre x, centre y, width, height, the last four in 0..1 of the image.
    anchors (3, 2): width and height in cells. grid: rows and columns of cells.

    A box matches an anchor if each side differs by less than the factor `threshold`. It matches in the cell of its
    centre and in the nearest neighbour on each axis, whose predictions can reach the centre: 0 to 9 matches per level.
    (The public code counts a cell twice if the centre is exactly on a grid line; here each cell counts once.)
    """
    rows, columns = grid
    size = torch.tensor((columns, rows), dtype=targets.dtype, device=targets.device)
    anchors = anchors.to(targets)

    shapes = targets[:, 4:6] * size  # (M, 2)
    ratios = shapes / anchors[:, None]  # (3, M, 2)
    is_near = torch.maximum(ratios, 1 / ratios).amax(dim=-1) < threshold
    anchor, target = is_near.nonzero(as_tuple=True)

    centres = targets[target, 2:4] * size  # (L, 2)
    offset, match = _cell_offsets(centres, size)
    anchor, target, centres = anchor[match], target[match], centres[match]
    cells = (centres + offset).floor().clamp(min=torch.zeros_like(size), max=size - 1)
    return LevelMatches(
        image=targets[target, 0].long(),
        anchor=anchor,
        row=cells[:, 1].long(),
        column=cells[:, 0].long(),
        box=torch.cat((centres - cells, shapes[target]), dim=-1),
        anchor_shape=anchors[anchor],
        category=targets[target, 1].long(),
    )


def _cell_offsets(centres: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Offsets (K, 2) of half a cell from a centre into each cell that can reach it, and the centre's index (K,)."""
    fraction = centres - centres.floor()
    # The neighbour on the nearer side, if the grid has one.
    left, up = ((fraction < 0.5) & (centres > 1)).unbind(1)  # each (L,)
    right, down = ((fraction > 0.5) & (centres < size - 1)).unbind(1)
    is_reached = torch.stack((torch.ones_like(left), left, up, right, down))  # (5, L)
    offsets = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))
    direction, match = is_reached.nonzero(as_tuple=True)
    return torch.tensor(offsets, dtype=centres.dtype, device=centres.device)[direction], match
