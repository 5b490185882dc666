"""Which measurements of a cluster speak for a number of ranks and a bandwidth, and how much each counts."""

from bisect import bisect_left
from collections.abc import Callable, Sequence

from yolo.planner.profile import ClusterProfile, Measurement

Weighted = list[tuple[float, Measurement]]
"""Weights add up to 1."""


def nearest(profile: ClusterProfile, kind: str | None = None) -> Weighted:
    """Those around the profile's ranks and bandwidth; of a kind of collective, those that timed it.

    Between two numbers of ranks and between two bandwidths both are used: times are straight lines over the ranks and
    over seconds a byte, between neighbours.
    """
    usable = [m for m in profile.measured if kind is None or kind in m.collectives]
    slowness = 1 / profile.between.bandwidth_gbps
    return [
        (of_ranks * weight, group[0])
        for of_ranks, some in _around(usable, profile.ranks, lambda m: float(m.ranks))
        for weight, group in _around(some, slowness, lambda m: 1 / m.bandwidth_gbps)
    ]


def nearest_in_ranks(profile: ClusterProfile) -> Weighted:
    """Those around the profile's ranks, at whatever bandwidth: what ranks do by themselves does not depend on it."""
    around = _around(profile.measured, profile.ranks, lambda m: float(m.ranks))
    return [(weight / len(group), each) for weight, group in around for each in group]


def crowding_of(profile: ClusterProfile, ranks: int) -> float:
    """By how much ranks that share a machine's cores hold each other up; 1 on machines of their own."""
    return 1.0 if profile.shared_cores is None else max(1.0, ranks / profile.shared_cores)


def _around(
    measured: Sequence[Measurement], wanted: float, of: Callable[[Measurement], float]
) -> list[tuple[float, list[Measurement]]]:
    """The measurements at the values just below and just above what is wanted, weighted by nearness."""
    values = sorted({of(each) for each in measured})
    if not values:
        return []
    above = min(bisect_left(values, wanted * (1 - 1e-9)), len(values) - 1)
    below = above if values[above] <= wanted * (1 + 1e-9) else max(above - 1, 0)

    def having(value: float) -> list[Measurement]:
        return [each for each in measured if of(each) == value]

    if values[below] == values[above]:
        return [(1.0, having(values[above]))]
    weight = (wanted - values[below]) / (values[above] - values[below])
    return [(1 - weight, having(values[below])), (weight, having(values[above]))]
