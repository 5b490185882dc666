"""Box formats and overlaps.

A box is the last dimension of a tensor, 4 numbers in one unit: `xywh` is centre, width and height; `xyxy` is the upper
left and the lower right corner.
"""

import math

import torch
from torch import Tensor

EPSILON = 1e-7
"""Keeps CIoU and its gradient finite for a box without area; small relative to a cell, the unit of the loss."""


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Convert (..., 4) from xywh to xyxy."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of each of (..., N, 4) with each of (..., M, 4), both xyxy: (..., N, M) in 0..1; 0, not NaN, without area."""
    intersection = pairwise_intersection(first, second)
    union = (area(first)[..., None] + area(second)[..., None, :]).sub_(intersection)
    return intersection / union.clamp_(min=torch.finfo(union.dtype).tiny)


def pairwise_intersection(first: Tensor, second: Tensor) -> Tensor:
    """Common area of each of (..., N, 4) with each of (..., M, 4), both xyxy: (..., N, M)."""
    first, second = first.unsqueeze(-2), second.unsqueeze(-3)
    # One coordinate at a time: operations on a last dimension of two or four are slow.
    left, top = (torch.maximum(first[..., i], second[..., i]) for i in (0, 1))
    right, bottom = (torch.minimum(first[..., i], second[..., i]) for i in (2, 3))
    width, height = (right - left).clamp_(min=0), (bottom - top).clamp_(min=0)
    return width.mul_(height)


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """CIoU of boxes (..., 4) in pairs, both xywh: (...) from about -1.5 to 1.

    IoU, minus the squared distance of the centres relative to the enclosing box's diagonal, minus a penalty for
    different proportions (Zheng et al., arXiv 1911.08287, equations 8 to 11).
    """
    first_corners, second_corners = xywh_to_xyxy(first), xywh_to_xyxy(second)
    upper_left = torch.maximum(first_corners[..., :2], second_corners[..., :2])
    lower_right = torch.minimum(first_corners[..., 2:], second_corners[..., 2:])
    intersection = (lower_right - upper_left).clamp(min=0).prod(dim=-1)
    union = first[..., 2:].prod(dim=-1) + second[..., 2:].prod(dim=-1) - intersection
    iou = intersection / (union + EPSILON)

    outer_upper_left = torch.minimum(first_corners[..., :2], second_corners[..., :2])
    outer_lower_right = torch.maximum(first_corners[..., 2:], second_corners[..., 2:])
    diagonal = (outer_lower_right - outer_upper_left).square().sum(dim=-1)
    distance = (first[..., :2] - second[..., :2]).square().sum(dim=-1) / (diagonal + EPSILON)

    proportions = (_angle(first) - _angle(second)).square() * 4 / math.pi**2
    with torch.no_grad():  # equation 12: the weight is a constant
        weight = proportions / (1 - iou + proportions + EPSILON)
    return iou - distance - weight * proportions


def area(corners: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4) xyxy; 0 for one with a negative side."""
    return (corners[..., 2:] - corners[..., :2]).clamp(min=0).prod(dim=-1)


def _angle(boxes: Tensor) -> Tensor:
    """Angle between the diagonal and the vertical, in radians."""
    return torch.atan(boxes[..., 2] / boxes[..., 3].clamp(min=EPSILON))
