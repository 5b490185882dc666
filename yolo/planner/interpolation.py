"""Select the measurements of a cluster that are nearest to a number of ranks and a bandwidth, and interpolate."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import attrgetter, mul
from typing import Any, Self

from yolo.planner.profile import ClusterProfile, Measurement

Weighted = list[tuple[float, Measurement]]
"""Measurements with their weights, which add up to 1."""


def nearest(profile: ClusterProfile, kind: str | None = None) -> Weighted:
    """Weigh the measurements around the profile's ranks and bandwidth; with `kind`, only those that timed it.

    Times are linear between neighbours: over ranks, and over seconds per byte.
    """
    usable = [m for m in profile.measured if kind is None or kind in m.collectives]
    slowness = 1 / profile.between.bandwidth_gbps
    return [
        (rank_weight * weight, group[0])
        for rank_weight, some in _around(usable, profile.ranks, attrgetter("ranks"))
        for weight, group in _around(some, slowness, lambda m: 1 / m.bandwidth_gbps)
    ]


def nearest_in_ranks(profile: ClusterProfile) -> Weighted:
    """Weigh the measurements around the profile's ranks at any bandwidth: local work does not depend on it."""
    around = _around(profile.measured, profile.ranks, attrgetter("ranks"))
    return [(weight / len(group), each) for weight, group in around for each in group]


def _around(
    measured: Sequence[Measurement], wanted: float, key: Callable[[Measurement], float]
) -> list[tuple[float, list[Measurement]]]:
    """The measurements whose `key` is just below and just above `wanted`, weighted by nearness."""
    values = sorted(set(map(key, measured)))
    if not values:
        return []
    above = min(bisect_left(values, wanted * (1 - 1e-9)), len(values) - 1)
    below = above if values[above] <= wanted * (1 + 1e-9) else max(above - 1, 0)
    span = values[above] - values[below]
    weight = (wanted - values[below]) / span if span else 1.0
    weights = {values[below]: 1 - weight} | {values[above]: weight}
    return [(w, [each for each in measured if key(each) == value]) for value, w in weights.items()]


def crowding_of(profile: ClusterProfile, ranks: int) -> float:
    """By which factor ranks that share one machine's cores slow each other down; 1 on separate machines."""
    return 1.0 if profile.shared_cores is None else max(1.0, ranks / profile.shared_cores)


def interpolate(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Linear between the points (xs, ys), and beyond the last; constant before the first. `xs` never falls."""
    above = min(bisect_left(xs, x), len(xs) - 1)
    below = max(above - 1, 0)
    span = xs[above] - xs[below]
    weight = (x - xs[below]) / span if span > 0 else 1.0
    return ys[below] + weight * (ys[above] - ys[below])


@dataclass(frozen=True, slots=True)
class Averaged:
    """Base of dataclasses that are averaged over measurements or phases."""

    @classmethod
    def mean(cls, parts: Sequence[tuple[float, Self]]) -> Self:
        """Average field by field; weights add up to 1. None in one part is None; flags are equal in all parts."""
        weights = [weight for weight, _ in parts]
        columns = ([getattr(part, each.name) for _, part in parts] for each in fields(cls))
        return cls(*(_mean(weights, values) for values in columns))


def _mean(weights: Sequence[float], values: Sequence[Any]) -> Any:
    if None in values:
        return None
    if isinstance(values[0], bool):
        return values[0]
    if isinstance(values[0], tuple):
        return tuple(_mean(weights, each) for each in zip(*values, strict=True))
    return sum(map(mul, weights, values))
