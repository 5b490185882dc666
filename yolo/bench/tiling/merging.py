"""Make one list of an image's detections out of those of its tiles.

An object that tiles cut is detected in pieces. Non-maximum suppression keeps the pieces; SAHI's merging (arXiv 2202.06934,
`postprocess/combine.py`: GREEDYNMM, its default) joins them, if they cover each other enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components

from yolo.evaluation.detections import Detections
from yolo.model.boxes import area, pairwise_intersection, pairwise_iou


@dataclass(frozen=True, slots=True)
class Merging:
    """One way to merge."""

    name: str
    threshold: float
    """Of two boxes of one class, the one with the lower score is absorbed if they overlap more than this."""
    is_over_smaller: bool = False
    """Overlap is the intersection over the smaller area, not over the union."""
    is_joined: bool = False
    """The absorbing box grows around the other."""
    is_chained: bool = False
    """What overlaps an absorbed box is absorbed too."""
    confidence: float = 0.001
    """Lowest score of what is merged at all."""


NMS = Merging("NMS", 0.5)
CONFIDENCES = (0.001, 0.05, 0.25)
MERGINGS = (
    NMS,
    *(
        Merging(
            f"{name}, scores from {confidence:g}", threshold, True, True, is_chained, confidence
        )
        for confidence in CONFIDENCES
        for name, threshold, is_chained in (
            ("GREEDYNMM, overlap 0.5", 0.5, False),
            ("NMM, overlap 0.5", 0.5, True),
            ("NMM, overlap 0.1", 0.1, True),
        )
    ),
)
"""SAHI's choices. With low scores, its NMM joins much that does not belong together, hence the higher ones."""


def merge_views(found: Sequence[Detections], merging: Merging, most: int) -> Detections:
    """An image's detections from those of its views, all in the image's pixels; at most `most`."""
    together = Detections(
        found[0].image_id,
        np.concatenate([each.boxes for each in found]),
        np.concatenate([each.scores for each in found]),
        np.concatenate([each.classes for each in found]),
    )
    ordered = together.above(merging.confidence).ordered()
    boxes, kept = ordered.boxes.copy(), []
    for category in np.unique(ordered.classes):
        rows = (ordered.classes == category).nonzero()[0]
        for group in _groups(ordered.boxes[rows], merging):
            members = rows[group]
            best = members[0]
            if merging.is_joined:
                boxes[best, :2] = ordered.boxes[members, :2].min(axis=0)
                boxes[best, 2:] = ordered.boxes[members, 2:].max(axis=0)
            kept.append(best)
    chosen = np.array(sorted(kept)[:most], dtype=np.int64)
    return Detections(
        ordered.image_id, boxes[chosen], ordered.scores[chosen], ordered.classes[chosen]
    )


def _groups(boxes: np.ndarray, merging: Merging) -> list[np.ndarray]:
    """Groups of boxes (N, 4), which descend by score: indices of one that stays, and of those that it absorbs."""
    is_near = _overlaps(boxes, merging.is_over_smaller) > merging.threshold
    if merging.is_chained:
        count, labels = connected_components(is_near, directed=False)
        return [(labels == label).nonzero()[0] for label in range(count)]
    is_free = np.ones(len(boxes), dtype=bool)
    groups = []
    for best in range(len(boxes)):
        if is_free[best]:
            is_member = is_free & is_near[best]
            is_member[best] = True  # also without area
            is_free &= ~is_member
            groups.append(is_member.nonzero()[0])
    return groups


def _overlaps(boxes: np.ndarray, is_over_smaller: bool) -> np.ndarray:
    """Overlap (N, N) in 0..1 of each of (N, 4) xyxy with each other."""
    corners = torch.from_numpy(boxes)
    if not is_over_smaller:
        return pairwise_iou(corners, corners).numpy()
    areas = area(corners)
    smaller = torch.minimum(areas[:, None], areas).clamp(min=torch.finfo(areas.dtype).tiny)
    return (pairwise_intersection(corners, corners) / smaller).numpy()
