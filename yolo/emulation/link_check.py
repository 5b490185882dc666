"""Is a link as slow as it was asked to be? Messages between hosts, timed against what their frames take.

A shaper lets a burst pass at once after every idle time. A training is idle between its steps, so a burst that is too
big shortens every message, and most of all the small ones of a compressed run: a gain that no real network would give.
"""

import json
import math
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace

from yolo.emulation.cluster import REPOSITORY, EmulatedCluster
from yolo.emulation.host import Host
from yolo.errors import BenchError

TOLERANCE = 0.05
SIZES = (64 * 2**10, 256 * 2**10, 2**20)
"""Payload bytes at up to 100 Mbit/s: messages of 6, 22 and 88 ms there. At higher rates they grow with the rate: what
takes but a few times the shaper's burst cannot be true to 5%."""
SIZES_MBPS = 100
MOST_SECONDS = 0.2
"""For one message; what would take longer at the link's rate is made smaller."""
PATIENCE_SECONDS = 60.0
"""With a link that seems too slow: other work may be in the way, of this machine or of others on the same hardware."""
TIMEOUT_SECONDS = 60.0

FRAME_BYTES = 1514
"""An Ethernet frame of 1500 bytes and its header: what the shaper and the interface's counters count."""
PAYLOAD_BYTES = 1448
"""Of a full frame, after the headers of Ethernet, IP and TCP with time stamps."""


@dataclass(frozen=True, slots=True)
class LinkCheckRow:
    """Messages of one size in one direction between two hosts."""

    sender: str
    receiver: str
    size: int
    """Payload bytes."""
    ideal_seconds: float
    """What its frames take at the link's rate, and a message of 1 byte beside that."""
    seconds: float
    """The fastest of the tries: other work on the machine can only add to a message's time."""
    median_seconds: float

    @property
    def deviation(self) -> float:
        """Of the fastest try from the ideal; 0.05 is 5% slower."""
        return self.seconds / self.ideal_seconds - 1

    def or_faster(self, again: "LinkCheckRow") -> "LinkCheckRow":
        """The less of both in each figure: other work can only add to a message, and to the one of 1 byte."""
        return replace(
            self,
            ideal_seconds=min(self.ideal_seconds, again.ideal_seconds),
            seconds=min(self.seconds, again.seconds),
            median_seconds=min(self.median_seconds, again.median_seconds),
        )


def wire_bytes(payload: int) -> int:
    """Bytes of the Ethernet frames that carry `payload` bytes over TCP one way."""
    return payload + math.ceil(payload / PAYLOAD_BYTES) * (FRAME_BYTES - PAYLOAD_BYTES)


def sizes_at(bandwidth_mbps: float) -> list[int]:
    """Message sizes to try, in bytes."""
    most = int(MOST_SECONDS * bandwidth_mbps * 1e6 / 8 * PAYLOAD_BYTES / FRAME_BYTES)
    growth = max(1.0, bandwidth_mbps / SIZES_MBPS)
    return sorted({min(int(size * growth), most) for size in SIZES})


def measure(cluster: EmulatedCluster) -> list[LinkCheckRow]:
    """Time messages between the first host and each other, in both directions; no rows where links are not shaped."""
    if cluster.bandwidth_mbps is None:
        return []
    first, *others = cluster.hosts
    return [row for other in others for row in _between(first, other, cluster.bandwidth_mbps)]


def check(cluster: EmulatedCluster) -> list[LinkCheckRow]:
    """As `measure`, and again for a while where links seem too slow, the fastest of all tries kept.

    Raises BenchError with the figures where a message is off by more than 5%.
    """
    rows = measure(cluster)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(row.deviation > TOLERANCE for row in rows) and time.monotonic() < deadline:
        rows = [row.or_faster(again) for row, again in zip(rows, measure(cluster), strict=True)]
    wrong = [row for row in rows if abs(row.deviation) > TOLERANCE]
    if wrong:
        figures = "; ".join(
            f"{row.size} bytes from {row.sender} to {row.receiver} took {row.seconds * 1e3:.2f} ms, expected "
            f"{row.ideal_seconds * 1e3:.2f} ms within {TOLERANCE:.0%}"
            for row in wrong
        )
        raise BenchError(
            f"the links are not those of {cluster.bandwidth_mbps:g} Mbit/s, so nothing measured on them would count: "
            f"{figures}. Where they are too slow, leave the machine to the benchmark or take a lower bandwidth"
        )
    return rows


def _between(first: Host, other: Host, bandwidth_mbps: float) -> list[LinkCheckRow]:
    sizes = sizes_at(bandwidth_mbps)
    program = [sys.executable, "-m", "yolo.emulation.pingpong"]
    server = first.run([*program, "answer", first.address], folder=REPOSITORY)
    client = other.run(
        [*program, "ask", first.address, *map(str, sizes)],
        folder=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, error = client.communicate(timeout=TIMEOUT_SECONDS)
        what = error.decode().strip().rpartition("\n")[2]
    except subprocess.TimeoutExpired:
        what = f"not done after {TIMEOUT_SECONDS:g} s"
    finally:
        for host in (first, other):
            host.kill_all()
        client.wait()
        server.wait()
    if client.returncode:
        raise BenchError(f"messages between {other.name} and {first.name}: {what}")
    found = json.loads(out)
    rows = []
    for size, to_first, broadcast_object in found["messages"]:
        ideal = found["ping"] + wire_bytes(size) * 8 / (bandwidth_mbps * 1e6)
        for sender, receiver, tries in ((other, first, to_first), (first, other, broadcast_object)):
            rows.append(
                LinkCheckRow(
                    sender.name, receiver.name, size, ideal, min(tries), statistics.median(tries)
                )
            )
    return rows
