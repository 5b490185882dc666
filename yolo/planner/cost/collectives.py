"""How long a collective takes: by the algorithms' formulae, or from measurements of the cluster."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yolo.communication.metering import wire_bytes as wire
from yolo.planner.interpolation import Averaged, crowding_of, interpolate, nearest
from yolo.planner.profile import ClusterProfile, Measurement, Point

BF16 = ".bf16"
"""Suffix of the kind if a collective reduces in 16 bits: a processor takes another time per byte for it."""


@dataclass(frozen=True, slots=True)
class Cost(Averaged):
    """What one collective costs."""

    seconds: float
    core_share: float = 0.0
    """Share of the rank's core that it takes from computing."""
    spared_behind: float = 0.0
    """Seconds less if it begins while others are under way."""


def collective_cost(
    profile: ClusterProfile, kind: str, payload_bytes: float, messages: float = 1.0
) -> Cost:
    """A collective over all ranks; `kind` may end in `.bf16`. One rank costs nothing.

    For point_to_point, `payload_bytes` and `messages` are what a rank sends, as the mean over a line of ranks.
    """
    if profile.ranks == 1 or payload_bytes == 0:
        return Cost(0.0)
    if kind == wire.POINT_TO_POINT:
        return _exchange_cost(profile, _busiest_bytes(profile, payload_bytes, messages))
    weighted = nearest(profile, kind)
    if not weighted:
        return Cost(_by_formula(profile, kind.removesuffix(BF16), payload_bytes))
    return Cost.mean(
        [(w, _as_measured(profile, each, kind, payload_bytes)) for w, each in weighted]
    )


def _busiest_bytes(profile: ClusterProfile, payload_bytes: float, messages: float) -> float:
    """What passes over the busiest link of a line: to both sides, or of two nodes (or ranks) to one."""
    ranks = profile.ranks
    if (profile.nodes if profile.nodes > 1 else ranks) == 2:
        return payload_bytes / messages
    return payload_bytes * ranks / (ranks - 1)


def _exchange_cost(profile: ClusterProfile, size: float) -> Cost:
    """Neighbours send each other `size` bytes. If that was not measured, it takes an all-gather's latency."""
    if weighted := nearest(profile, wire.POINT_TO_POINT):
        return Cost.mean(
            [(w, _as_measured(profile, each, wire.POINT_TO_POINT, size)) for w, each in weighted]
        )
    link = profile.network
    seconds = [
        (weight, each.collectives["all_gather"][0].seconds / (each.ranks - 1))
        for weight, each in nearest(profile, "all_gather")
    ] or [(1.0, link.latency_us * 1e-6)]
    return Cost(sum(w * each for w, each in seconds) + size / link.bytes_per_second)


def sent_bytes(
    profile: ClusterProfile, kind: str, payload_bytes: float, messages: float = 1.0
) -> float:
    """Bytes that a rank hands to the network in a collective: exact, by the algorithm's formula."""
    plain = kind.removesuffix(BF16)
    is_gloo = profile.backend == "gloo"
    return wire.sent_bytes(plain, payload_bytes, profile.ranks, is_gloo, messages)


def wire_bytes(
    profile: ClusterProfile, kind: str, payload_bytes: float, messages: float = 1.0
) -> float:
    """Bytes that a rank sends in a collective with headers and acknowledgements, by the nearest measurements."""
    sent = sent_bytes(profile, kind, payload_bytes, messages)
    measured = nearest(profile)
    if not measured:
        return sent * profile.wire_bytes_per_payload_byte
    return sum(
        weight
        * (
            sent * each.wire_bytes_per_payload_byte
            + each.wire_bytes_per_collective.get(kind, 0.0)
            * (messages if kind == wire.POINT_TO_POINT else _steps(profile, each))
        )
        for weight, each in measured
    )


def _steps(profile: ClusterProfile, measured: Measurement) -> float:
    """A collective's steps and messages per those of the measured one, if it had other ranks: they grow with those."""
    return (profile.ranks - 1) / max(1, measured.ranks - 1)


def _by_formula(profile: ClusterProfile, kind: str, size: float) -> float:
    """A ring over the links within a node, then one between nodes over each node's link, which its ranks share."""
    nodes, each, between = profile.nodes, profile.gpus_per_node, profile.between
    seconds = 0.0
    if each > 1:
        within = profile.within
        seconds += _one_level(kind, size, each, within.bytes_per_second, within.latency_us)
    if nodes > 1:
        rate = between.bytes_per_second
        if kind == "all_to_all":
            rate /= each  # no rank can send its part for another node on behalf of its neighbours
        seconds += _one_level(kind, size, nodes, rate, between.latency_us)
    return seconds


def _one_level(kind: str, size: float, ranks: int, rate: float, latency_us: float) -> float:
    """A ring; to reduce or broadcast, a double tree if its fewer steps win (Thakur et al., 2005)."""
    step = latency_us * 1e-6
    share = wire.sent_share(kind, ranks, is_gloo=False)
    steps = 2 * (ranks - 1) if kind == "all_reduce" else ranks - 1
    ring = steps * step + share * size / rate
    if kind not in ("all_reduce", "reduce", "broadcast"):
        return ring
    passes = 2 if kind == "all_reduce" else 1
    tree = passes * (math.log2(ranks) * step + size / (TREE_EFFICIENCY * rate))
    return min(ring, tree)


TREE_EFFICIENCY = 0.92
"""Bandwidth of a double tree as a share of a ring's (NCCL's src/graph/tuning.cc)."""


def _as_measured(profile: ClusterProfile, measured: Measurement, kind: str, size: float) -> Cost:
    """Scale one measurement to the profile's ranks and bandwidth.

    A collective's steps take their latency. For the rest, the link's time and the processor's work overlap, and slow each
    other down if they take equally long: the root of the sum of their squares. Bytes grow with the ranks by the
    algorithm's formula.
    """
    points = measured.collectives[kind]
    seconds, core_share = _at_size(points, size)
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
    steps = 1.0 if kind == wire.POINT_TO_POINT else _steps(profile, measured)
    total = latency * steps + (seconds - latency) * scale
    behind = measured.seconds_behind.get(plain, latency)
    core_share = min(1.0, working_there / total) if total else 0.0
    return Cost(total, core_share, max(0.0, latency - behind) * steps)


def _at_size(points: Sequence[Point], size: float) -> tuple[float, float]:
    """Seconds and core share for a payload; beyond the largest measured one, seconds grow in proportion."""
    last = points[-1]
    if size > last.payload_bytes:
        return last.seconds * size / last.payload_bytes, last.core_share
    sizes = [point.payload_bytes for point in points]
    return (
        interpolate(sizes, [point.seconds for point in points], size),
        interpolate(sizes, [point.core_share for point in points], size),
    )
