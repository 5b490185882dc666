from collections.abc import Callable
from typing import Any

import pytest

from yolo.planner.profile import (
    Accelerator,
    ClusterProfile,
    Link,
    Measurement,
    Point,
    Workload,
)

Launch = Callable[..., Any]


def link(gbps: float, latency_us: float = 0.0) -> Link:
    return Link(name="synthetic", bandwidth_gbps=gbps, latency_us=latency_us, source="synthetic")


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(
        name="synthetic",
        sustained_tflops=10.0,
        memory_gb=16.0,
        memory_gbps=500.0,
        source="synthetic",
    )


@pytest.fixture
def plain(accelerator: Accelerator) -> ClusterProfile:
    """4 nodes of 2: 80 Gbit/s within a node, 8 Gbit/s between nodes."""
    return ClusterProfile(
        name="plain",
        nodes=4,
        gpus_per_node=2,
        accelerator=accelerator,
        within=link(80.0, 10.0),
        between=link(8.0, 100.0),
    )


def measurement(ranks: int, gbps: float, seconds_per_megabyte: float) -> Measurement:
    """Collectives that take 1 ms and `seconds_per_megabyte`, a tenth of it the processor's."""
    points = [
        Point(
            payload_bytes=size,
            seconds=0.001 + seconds_per_megabyte * size / 1e6,
            core_share=0.1,
        )
        for size in (64, 1_000_000, 10_000_000)
    ]
    kinds = ("all_reduce", "all_reduce.bf16", "all_gather", "reduce", "all_to_all")
    return Measurement(
        ranks=ranks,
        bandwidth_gbps=gbps,
        wire_bytes_per_payload_byte=1.05,
        wire_bytes_per_collective={"all_reduce": 100.0},
        workload=Workload(variant="n", classes=3, image_size=64, micro_batch=1, dtype="fp32"),
        forward_seconds=0.01,
        backward_seconds=0.02,
        update_seconds=0.005,
        jitter=0.05,
        ready=[(0.0, 0.0), (0.5, 0.8), (1.0, 1.0)],
        local_seconds={"stage0": 0.002, "overlapped": 0.003},
        collectives=dict.fromkeys(kinds, points),
    )
