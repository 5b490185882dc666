"""AutoAnchor: check whether the anchors fit a data set's boxes, and fit better ones if not."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from yolo.architecture import ANCHORS_PER_LEVEL, family

Array = npt.NDArray[np.float64]

ENOUGH_RECALL = 0.98
"""COCO's anchors are kept if more than this share of the boxes matches one: the public YOLOv5's threshold."""

SMALLEST_SIDE = 2.0
"""Pixels; smaller boxes are noise and are not fitted."""

FITTED_BOXES = 10_000
"""Sample size of the fit: a share of 98% is then known to 0.3% (two standard errors), in seconds for any data set."""

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
    """COCO's anchors if they fit the boxes (M, 2), in pixels at `image_size`; else fitted ones, if better."""
    default = np.array(family(variant).anchors)
    sizes = _sizes(wh)
    if len(sizes) == 0:
        return AnchorChoice(default, 1.0, False, "no boxes to fit anchors to: COCO's")
    recall = best_possible_recall(sizes, default, threshold)
    reason = f"COCO's anchors fit {recall:.2%} of the boxes"
    if recall > ENOUGH_RECALL:
        return AnchorChoice(default, recall, False, reason)
    fitted = fit_anchors(sizes, variant, image_size, threshold, seed)
    fitted_recall = best_possible_recall(sizes, fitted, threshold)
    if fitted_recall <= recall:
        return AnchorChoice(default, recall, False, f"{reason}, and fitted ones no more")
    return AnchorChoice(fitted, fitted_recall, True, f"{reason}, fitted ones {fitted_recall:.2%}")


def best_possible_recall(wh: npt.ArrayLike, anchors: npt.ArrayLike, threshold: float) -> float:
    """Share of the boxes (M, 2) that training can match to an anchor (..., 2): both sides differ by less than `threshold`.

    Boxes and anchors are in the same unit. 1 if there are no boxes.
    """
    sizes = _sizes(wh)
    if len(sizes) == 0:
        return 1.0
    return float((_similarity(sizes, _sizes(anchors)) > 1 / threshold).mean())


def fit_anchors(
    wh: npt.ArrayLike, variant: str, image_size: int, threshold: float, seed: int
) -> Array:
    """Fit three anchors per level to boxes (M, 2) in pixels at `image_size`: (levels, 3, 2), ascending by area.

    K-means, then random mutations; a mutation is kept if it raises the fitness: the mean similarity of each box and its
    best anchor, 0 if they do not match. The same arguments give the same anchors. If there are fewer distinct boxes
    than clusters, the mutations start from COCO's anchors, scaled to `image_size`.
    """
    generator = np.random.default_rng(seed)
    sizes = _sizes(wh)
    sizes = sizes[(sizes >= SMALLEST_SIDE).any(axis=1)]
    if len(sizes) > FITTED_BOXES:
        sizes = sizes[generator.choice(len(sizes), FITTED_BOXES, replace=False)]
    default = family(variant)
    count = len(default.anchors) * ANCHORS_PER_LEVEL
    anchors = _kmeans(sizes, count, generator)
    if anchors is None:
        anchors = _sizes(default.anchors) * image_size / default.image_size
    anchors = _mutated(anchors, sizes, float(image_size), threshold, generator)
    by_area = anchors.prod(axis=1).argsort(kind="stable")
    return anchors[by_area].reshape(-1, ANCHORS_PER_LEVEL, 2)


def _kmeans(sizes: Array, count: int, generator: np.random.Generator) -> Array | None:
    """The centres (count, 2), or None if there are too few distinct boxes."""
    if len(np.unique(sizes, axis=0)) < count:
        return None
    from scipy.cluster.vq import kmeans  # takes half a second, and is seldom needed

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
    similarity = _similarity(sizes, anchors)
    return float((similarity * (similarity > 1 / threshold)).mean())


def _similarity(sizes: Array, anchors: Array) -> Array:
    """(M,) 0..1: ratio of the worse side of each box and its best anchor; 0 for a box without area."""
    best = np.zeros(len(sizes))
    for width, height in anchors:
        ratio_w, ratio_h = sizes[:, 0] / width, sizes[:, 1] / height
        with np.errstate(divide="ignore"):
            worse = np.minimum(np.minimum(ratio_w, 1 / ratio_w), np.minimum(ratio_h, 1 / ratio_h))
        best = np.maximum(best, worse)
    return best


def _sizes(wh: npt.ArrayLike) -> Array:
    return np.asarray(wh, dtype=np.float64).reshape(-1, 2)
