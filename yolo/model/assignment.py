"""Which cells and anchors have to find which box: decided by the boxes' shapes and places alone, not by predictions."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LevelMatches:
    """K matches of boxes with an anchor of a cell, on one level; the unit is the cell (stride pixels)."""

    image: Tensor
    """(K,) index in the batch."""
    anchor: Tensor
    """(K,) index 0..2 on this level."""
    row: Tensor
    """(K,) of the cell."""
    column: Tensor
    """(K,) of the cell."""
    box: Tensor
    """(K, 4) x and y of the centre from the cell's upper left corner, width, height; in cells."""
    anchor_shape: Tensor
    """(K, 2) width and height of the anchor, in cells."""
    category: Tensor
    """(K,) class index."""

    def __len__(self) -> int:
        return len(self.image)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "LevelMatches":
        """The same matches on another device."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return LevelMatches(*(tensor.to(device, non_blocking=non_blocking) for tensor in tensors))


def match_level(
    targets: Tensor, anchors: Tensor, grid: tuple[int, int], threshold: float
) -> LevelMatches:
    """The matches on one level, in an order that depends only on the order of the targets.

    targets (M, 6): image index, class, centre x, centre y, width, height, the last four in 0..1 of the image.
    anchors (3, 2): width and height in cells. grid: rows and columns of cells.

    A box matches every anchor from which neither side differs by the factor `threshold` or more, and it does so in the
    cell of its centre and in the nearest neighbour across and the nearest up or down: those whose predictions can reach
    the centre. So it has up to 9 matches on a level, or none. (The public code counts the cell of a centre that lies
    exactly on a grid line twice; here each cell counts once.)
    """
    rows, columns = grid
    size = torch.tensor((columns, rows), dtype=targets.dtype, device=targets.device)
    anchors = anchors.to(targets)

    shapes = targets[:, 4:6] * size  # (M, 2)
    ratios = shapes / anchors[:, None]  # (3, M, 2)
    is_near = torch.maximum(ratios, 1 / ratios).amax(dim=-1) < threshold
    anchor, target = is_near.nonzero(as_tuple=True)

    centres = targets[target, 2:4] * size  # (L, 2)
    step, match = _reaching_cells(centres, size)
    anchor, target, centres = anchor[match], target[match], centres[match]
    cells = (centres + step).floor().clamp(min=torch.zeros_like(size), max=size - 1)
    return LevelMatches(
        image=targets[target, 0].long(),
        anchor=anchor,
        row=cells[:, 1].long(),
        column=cells[:, 0].long(),
        box=torch.cat((centres - cells, shapes[target]), dim=-1),
        anchor_shape=anchors[anchor],
        category=targets[target, 1].long(),
    )


def _reaching_cells(centres: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """Half a cell's step (K, 2) from a centre into each cell that can reach it, and the index (K,) of the centre."""
    fraction = centres - centres.floor()
    # The neighbour on the nearer side, where the grid has one.
    takes_before = (fraction < 0.5) & (centres > 1)  # (L, 2): left, up
    takes_after = (fraction > 0.5) & (centres < size - 1)  # right, down
    takes = torch.stack(
        (
            torch.ones_like(takes_before[:, 0]),
            takes_before[:, 0],
            takes_before[:, 1],
            takes_after[:, 0],
            takes_after[:, 1],
        )
    )  # (5, L)
    steps = ((0.0, 0.0), (-0.5, 0.0), (0.0, -0.5), (0.5, 0.0), (0.0, 0.5))
    direction, match = takes.nonzero(as_tuple=True)
    return torch.tensor(steps, dtype=centres.dtype, device=centres.device)[direction], match
