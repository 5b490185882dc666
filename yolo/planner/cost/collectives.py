"""How long a collective takes: by the formulae of the algorithms, or from what was measured on the cluster."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from yolo.communication.metering import wire_bytes as wire
from yolo.communication.metering.wire_bytes import sent_share
from yolo.planner.interpolation import crowding_of, nearest
from yolo.planner.profile import ClusterProfile, Measurement, Point

BF16 = ".bf16"
"""Ends the kind of what is reduced in 16 bits, which costs a processor another time a byte."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one collective."""

    seconds: float
    core_share: float = 0.0
    """Of a rank's core that it keeps busy meanwhile, from computing."""
    spared_behind: float = 0.0
    """Seconds less, where it begins while others are under way."""


def collective_cost(profile: ClusterProfile, kind: str, payload_bytes: float) -> Cost:
    """A collective over all ranks; `kind` may end in `.bf16`. Nothing where there is one rank."""
    if profile.ranks == 1 or payload_bytes == 0:
        return Cost(0.0)
    weighted = nearest(profile, kind)
    if not weighted:
        return Cost(_by_formula(profile, kind.removesuffix(BF16), payload_bytes))
    costs = [(w, _as_measured(profile, each, kind, payload_bytes)) for w, each in weighted]
    return Cost(
        sum(weight * cost.seconds for weight, cost in costs),
        sum(weight * cost.core_share for weight, cost in costs),
        sum(weight * cost.spared_behind for weight, cost in costs),
    )


def sent_bytes(profile: ClusterProfile, kind: str, payload_bytes: float) -> float:
    """That a rank hands to the network in a collective: exact, by the algorithm's formula."""
    plain = kind.removesuffix(BF16)
    return wire.sent_bytes(plain, payload_bytes, profile.ranks, profile.backend == "gloo")


def wire_bytes(profile: ClusterProfile, kind: str, payload_bytes: float) -> float:
    """That a rank sends in a collective, headers and acknowledgements included: as measured nearest by."""
    sent = sent_bytes(profile, kind, payload_bytes)
    measured = nearest(profile)
    if not measured:
        return sent * profile.wire_bytes_per_payload_byte
    return sum(
        weight
        * (sent * each.wire_bytes_per_payload_byte + each.wire_bytes_per_collective.get(kind, 0.0))
        for weight, each in measured
    )


# --- formulae ---------------------------------------------------------------------------------------------------


def _by_formula(profile: ClusterProfile, kind: str, size: float) -> float:
    """Within a node a ring over its links; between nodes over each node's link, which its ranks share."""
    nodes, each = profile.nodes, profile.gpus_per_node
    seconds = 0.0
    if each > 1:
        seconds += _one_level(
            kind, size, each, profile.within.bytes_per_second, profile.within.latency_us
        )
    if nodes > 1:
        rate = profile.between.bytes_per_second
        if kind == "all_to_all":
            rate /= each  # no rank can send its part for another node on behalf of its neighbours
        seconds += _one_level(kind, size, nodes, rate, profile.between.latency_us)
    return seconds


def _one_level(kind: str, size: float, ranks: int, rate: float, latency_us: float) -> float:
    """A ring, or for what is reduced or broadcast a double tree where its fewer steps win (Thakur et al., 2005)."""
    step = latency_us * 1e-6
    share = sent_share(kind, ranks, is_gloo=False)
    steps = 2 * (ranks - 1) if kind == "all_reduce" else ranks - 1
    ring = steps * step + share * size / rate
    if kind not in ("all_reduce", "reduce", "broadcast"):
        return ring
    passes = 2 if kind == "all_reduce" else 1
    tree = passes * (math.log2(ranks) * step + size / (TREE_EFFICIENCY * rate))
    return min(ring, tree)


TREE_EFFICIENCY = 0.92
"""Of a double tree against a ring (NCCL's src/graph/tuning.cc)."""


# --- measurements -----------------------------------------------------------------------------------------------


def _as_measured(profile: ClusterProfile, measured: Measurement, kind: str, size: float) -> Cost:
    """From one measurement to the profile's ranks and bandwidth.

    A collective's steps take their latency. Of the rest, the link's time and the processor's work go on side by side and
    hold each other up where they are alike: the root of their squares. Bytes grow with the ranks as the algorithm has it.
    """
    points = measured.collectives[kind]
    seconds, core_share = _interpolated(points, size)
    plain = kind.removesuffix(BF16)
    here, there = measured.ranks, profile.ranks
    latency = min(points[0].seconds, seconds)
    working = core_share * (seconds - latency)
    is_gloo = profile.backend == "gloo"
    sent_here, sent_there = (wire.sent_bytes(plain, size, n, is_gloo) for n in (here, there))
    byte_seconds = measured.wire_bytes_per_payload_byte * 8e-9
    on_link_here = sent_here * byte_seconds / measured.bandwidth_gbps
    on_link_there = sent_there * byte_seconds / profile.between.bandwidth_gbps
    crowding = crowding_of(profile, there) / crowding_of(profile, here)
    working_there = working * crowding * sent_there / sent_here
    scale = math.hypot(on_link_there, working_there) / math.hypot(on_link_here, working)
    steps = (there - 1) / (here - 1)
    total = latency * steps + (seconds - latency) * scale
    behind = measured.seconds_behind.get(plain, latency)
    return Cost(
        total,
        min(1.0, working_there / total) if total else 0.0,
        max(0.0, latency - behind) * steps,
    )


def _interpolated(points: Sequence[Point], size: float) -> tuple[float, float]:
    """Seconds and core share at a size: straight between neighbours, as at the ends beyond them."""
    sizes = [point.payload_bytes for point in points]
    above = bisect_left(sizes, size)
    if above == 0:
        return points[0].seconds, points[0].core_share
    if above == len(points):
        last = points[-1]
        return last.seconds * size / last.payload_bytes, last.core_share
    low, high = points[above - 1], points[above]
    weight = (size - low.payload_bytes) / (high.payload_bytes - low.payload_bytes)
    return (
        low.seconds + weight * (high.seconds - low.seconds),
        low.core_share + weight * (high.core_share - low.core_share),
    )
