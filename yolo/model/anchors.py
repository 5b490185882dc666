"""AutoAnchor: do the anchors fit the boxes of a data set, and which would?"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo.architecture import ANCHORS_PER_LEVEL, family

Array = npt.NDArray[np.float64]

ENOUGH_RECALL = 0.98
"""Share of boxes that must find an anchor before COCO's are kept: the public YOLOv5's."""

SMALLEST_SIDE = 2.0
"""Pixels; smaller boxes are noise, and are not fitted to."""

FITTED_BOXES = 10_000
"""Boxes drawn to fit to: a share of 98% is then known to 0.3% (two standard errors), in seconds whatever the data."""

KMEANS_RUNS = 30
GENERATIONS = 1000
MUTATION_PROBABILITY = 0.9
MUTATION_SIGMA = 0.1
MUTATION_RANGE = (0.3, 3.0)


@dataclass(frozen=True, slots=True)
class AnchorChoice:
    """The anchors to train with, and why."""

    anchors: Array
    """(levels, 3, 2) widths and heights in pixels, smallest first."""
    recall: float
    """Share of the boxes that match at least one of them."""
    refitted: bool
    reason: str
    """One line for the log."""


def choose_anchors(
    wh: npt.ArrayLike, variant: str, image_size: int, threshold: float, seed: int
) -> AnchorChoice:
    """The variant's anchors for COCO, unless too few boxes (M, 2), in pixels at `image_size`, find one and fitted ones do better."""
    default = np.array(family(variant).anchors)
    sizes = _sizes(wh)
    if len(sizes) == 0:
        return AnchorChoice(default, 1.0, False, "no boxes to fit anchors to: COCO's")
    recall = best_possible_recall(sizes, default, threshold)
    if recall > ENOUGH_RECALL:
        return AnchorChoice(default, recall, False, f"COCO's anchors fit {recall:.2%} of the boxes")
    fitted = fit_anchors(sizes, variant, image_size, threshold, seed)
    fitted_recall = best_possible_recall(sizes, fitted, threshold)
    if fitted_recall <= recall:
        reason = f"COCO's anchors fit {recall:.2%} of the boxes, and fitted ones no more"
        return AnchorChoice(default, recall, False, reason)
    reason = f"COCO's anchors fit {recall:.2%} of the boxes, fitted ones {fitted_recall:.2%}"
    return AnchorChoice(fitted, fitted_recall, True, reason)


def best_possible_recall(wh: npt.ArrayLike, anchors: npt.ArrayLike, threshold: float) -> float:
    """Share of boxes (M, 2) of which some anchor (..., 2) differs by less than the factor `threshold` on both sides.

    The same unit for both. 1 where there are no boxes. It is the share that can be matched at all in training.
    """
    sizes = _sizes(wh)
    if len(sizes) == 0:
        return 1.0
    return float((_likeness(sizes, _sizes(anchors)) > 1 / threshold).mean())


def fit_anchors(
    wh: npt.ArrayLike, variant: str, image_size: int, threshold: float, seed: int
) -> Array:
    """Three anchors a level of the variant for boxes (M, 2) in pixels at `image_size`: (levels, 3, 2), ascending by area.

    K-means of the sides, then random mutations, each kept where the fitness grows: the mean over the boxes of the
    likeness of their best anchor, 0 where that does not match. The same arguments give the same anchors. With too few
    different boxes for as many clusters the mutations start from COCO's anchors, scaled to `image_size`.
    """
    generator = np.random.default_rng(seed)
    sizes = _sizes(wh)
    sizes = sizes[(sizes >= SMALLEST_SIDE).any(axis=1)]
    if len(sizes) > FITTED_BOXES:
        sizes = sizes[generator.choice(len(sizes), FITTED_BOXES, replace=False)]
    default = family(variant)
    count = len(default.anchors) * ANCHORS_PER_LEVEL
    anchors = _clusters(sizes, count, generator)
    if anchors is None:
        anchors = _sizes(default.anchors) * image_size / default.image_size
    anchors = _mutated(anchors, sizes, float(image_size), threshold, generator)
    by_area = anchors.prod(axis=1).argsort(kind="stable")
    fitted: Array = anchors[by_area].reshape(-1, ANCHORS_PER_LEVEL, 2)
    return fitted


def _clusters(sizes: Array, count: int, generator: np.random.Generator) -> Array | None:
    """The centres (count, 2) of k-means, or None where the boxes do not have so many."""
    if len(np.unique(sizes, axis=0)) < count:
        return None
    from scipy.cluster.vq import kmeans  # half a second of every start, and seldom wanted

    spread = sizes.std(axis=0)
    spread[spread == 0] = 1.0
    centres, _ = kmeans(sizes / spread, count, iter=KMEANS_RUNS, rng=generator)
    return centres * spread if len(centres) == count else None


def _mutated(
    anchors: Array,
    sizes: Array,
    largest_side: float,
    threshold: float,
    generator: np.random.Generator,
) -> Array:
    best = anchors.clip(SMALLEST_SIDE, largest_side)
    if len(sizes) == 0:
        return best
    best_fitness = _fitness(sizes, best, threshold)
    for _ in range(GENERATIONS):
        is_mutated = generator.random(best.shape) < MUTATION_PROBABILITY
        factor = 1 + is_mutated * generator.normal(0, MUTATION_SIGMA, best.shape)
        candidate = (best * factor.clip(*MUTATION_RANGE)).clip(SMALLEST_SIDE, largest_side)
        fitness = _fitness(sizes, candidate, threshold)
        if fitness > best_fitness:
            best, best_fitness = candidate, fitness
    return best


def _fitness(sizes: Array, anchors: Array, threshold: float) -> float:
    likeness = _likeness(sizes, anchors)
    return float((likeness * (likeness > 1 / threshold)).mean())


def _likeness(sizes: Array, anchors: Array) -> Array:
    """(M,) 0..1: by which factor the worse side of a box and its best anchor differ; 0 for a box without area."""
    best = np.zeros(len(sizes))
    for width, height in anchors:
        ratio_w, ratio_h = sizes[:, 0] / width, sizes[:, 1] / height
        with np.errstate(divide="ignore"):
            worse = np.minimum(np.minimum(ratio_w, 1 / ratio_w), np.minimum(ratio_h, 1 / ratio_h))
        best = np.maximum(best, worse)
    return best


def _sizes(wh: npt.ArrayLike) -> Array:
    return np.asarray(wh, dtype=np.float64).reshape(-1, 2)
