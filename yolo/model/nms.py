"""Non-maximum suppression: of overlapping detections, keep the one with the highest score."""

import torch
from torch import Tensor

from yolo.model.boxes import pairwise_iou, xywh_to_xyxy
from yolo.model.head import at_least_fp32

BLOCK = {"cpu": 32, "cuda": 256}
"""Candidates per image in one round: few large rounds suit a GPU, what fits in the cache suits a CPU."""


@torch.no_grad()
def non_maximum_suppression(
    predictions: Tensor,
    confidence: float,
    iou: float,
    max_detections: int,
    multi_label: bool = True,
) -> list[Tensor]:
    """Each image's detections (K, 6): x1, y1, x2, y2 in pixels, score, class; highest score first, K <= max_detections.

    predictions (B, N, 5 + classes): centre x, y, width, height in pixels, objectness and class scores in 0..1. A
    candidate is a box and a class whose objectness and score (objectness times class score) exceed `confidence`: every
    such class of a box with `multi_label`, else its best. In descending score, a candidate is kept unless its IoU with
    a kept one of its class exceeds `iou`.

    The result equals the plain greedy algorithm's; no time limit cuts it short. Equal scores keep the order of boxes,
    then of classes. Candidates with non-finite box or score are dropped: a diverged network detects nothing, and the
    evaluation does not stop. ValueError for arguments out of range.
    """
    _check(predictions, confidence, iou, max_detections)
    image, candidates = _candidates(at_least_fp32(predictions), confidence, multi_label)
    sizes = torch.bincount(image, minlength=len(predictions))
    kept, counts = _keep(candidates, sizes, iou, max_detections)
    return [candidates[row[:count]] for row, count in zip(kept, counts.tolist(), strict=True)]


def _candidates(predictions: Tensor, confidence: float, multi_label: bool) -> tuple[Tensor, Tensor]:
    """Image (K,) and box xyxy, score and class (K, 6) of all candidates, by image, then by descending score."""
    image, index = (predictions[..., 4] > confidence).nonzero(as_tuple=True)
    rows = predictions[image, index]  # (L, 5 + classes)
    scores = rows[:, 5:] * rows[:, 4:5]
    if multi_label:
        row, category = (scores > confidence).nonzero(as_tuple=True)
    else:
        best, categories = scores.max(dim=1)
        row = (best > confidence).nonzero().squeeze(1)
        category = categories[row]
    image, box, score = image[row], xywh_to_xyxy(rows[row, :4]), scores[row, category]
    is_finite = box.isfinite().all(dim=1) & score.isfinite()
    # Two stable sorts, by score, then by image: ties keep the order of boxes and classes.
    order = is_finite.nonzero().squeeze(1)
    order = order[score[order].argsort(descending=True, stable=True)]
    order = order[image[order].argsort(stable=True)]
    candidates = torch.cat((box, score[:, None], category[:, None]), dim=1)
    return image[order], candidates[order]


def _keep(
    candidates: Tensor, sizes: Tensor, iou: float, max_detections: int
) -> tuple[Tensor, Tensor]:
    """Indices of the kept candidates, (images, max_detections), and how many are valid, (images,).

    sizes (images,): number of each image's candidates.
    """
    device = candidates.device
    length = BLOCK[device.type]
    starts = sizes.cumsum(0) - sizes
    kept = torch.zeros(len(sizes), max_detections, dtype=torch.long, device=device)
    counts = torch.zeros_like(sizes)
    for first in range(0, max(sizes.tolist(), default=0), length):
        # Scores descend: an image with max_detections kept needs no more of its candidates.
        active = ((first < sizes) & (counts < max_detections)).nonzero().squeeze(1)  # (A,)
        if len(active) == 0:
            break
        positions = first + torch.arange(length, device=device)
        is_alive = positions < sizes[active, None]  # (A, L)
        block = (starts[active, None] + positions).clamp(max=len(candidates) - 1)
        most = int(counts.max())
        is_kept = torch.arange(most, device=device) < counts[active, None]  # (A, most)
        before = kept[active, :most]
        is_alive &= ~_is_suppressed(is_kept, _overlaps(candidates, before, block, iou))
        stays = _stays(is_alive, _overlaps(candidates, block, block, iou).triu(diagonal=1))
        slot = counts[active, None] + stays.cumsum(1) - 1
        row, column = (stays & (slot < max_detections)).nonzero(as_tuple=True)
        kept[active[row], slot[row, column]] = block[row, column]
        counts[active] = (counts[active] + stays.sum(1)).clamp(max=max_detections)
    return kept, counts


def _stays(is_alive: Tensor, overlaps: Tensor) -> Tensor:
    """Which of each image's alive candidates (A, L), best first, the greedy algorithm keeps.

    overlaps (A, L, L): whether the row's candidate, if it stays, suppresses the column's, which comes later. A
    candidate depends only on earlier ones, so each round settles at least the first unsettled one, and the rounds end
    at the only solution, the greedy one. They are few: the longest chain of "a suppresses b, so b does not suppress c".
    """
    stays = is_alive
    while True:
        after = is_alive & ~_is_suppressed(stays, overlaps)
        if torch.equal(after, stays):
            return stays
        stays = after


def _is_suppressed(stays: Tensor, overlaps: Tensor) -> Tensor:
    """Which columns of `overlaps` (A, rows, columns) overlap a row that stays (A, rows)."""
    return (stays[..., None] & overlaps).any(dim=1)


def _overlaps(candidates: Tensor, first: Tensor, second: Tensor, iou: float) -> Tensor:
    """Whether candidates (A, F) and (A, S), given as indices, share a class and exceed `iou`: (A, F, S)."""
    box, category = candidates[:, :4], candidates[:, 5]
    is_same = category[first][:, :, None] == category[second][:, None]
    return is_same & (pairwise_iou(box[first], box[second]) > iou)


def _check(predictions: Tensor, confidence: float, iou: float, max_detections: int) -> None:
    if predictions.ndim != 3 or predictions.shape[2] < 6:
        raise ValueError(
            f"predictions of shape {tuple(predictions.shape)}: expected (B, N, 5 + classes)"
        )
    if not (0 <= confidence <= 1 and 0 <= iou <= 1):
        raise ValueError(f"confidence {confidence} and iou {iou}: expected both in 0..1")
    if max_detections < 1:
        raise ValueError(f"max_detections {max_detections}: expected at least 1")
