from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from yolo.bench.accuracy import stated
from yolo.planner.accuracy import REFERENCE, AccuracyRun, AccuracySetup, MeasuredAccuracy
from yolo.planner.cost.strategies import strategy_of
from yolo.planner.profile import (
    Accelerator,
    ClusterProfile,
    Link,
    Measurement,
    Point,
    Workload,
)
from yolo.recipe import prepare

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


def measured_accuracy(**changes: float) -> MeasuredAccuracy:
    """A synthetic measurement of the shipped recipes: these change AP by so much, the others by nothing."""
    base = REPOSITORY / "recipes/demo.yaml"
    recipes = {path.stem: path for path in (base.parent / "communication").glob("*.yaml")}
    assert not changes.keys() - recipes.keys()
    runs = []
    for name in (REFERENCE, *sorted(recipes)):
        own = stated(recipes[name]) if name in recipes else ()
        recipe = prepare(base, ("precision.dtype=bf16", *own)).resolved.recipe
        cost = strategy_of(recipe)
        runs += [
            AccuracyRun(
                **{"strategy": name, "overrides": own, "key": cost.key, "digest": "", "seed": seed},
                **{"settings": cost.learning_settings_of(recipe), "precision": "bf16"},
                **{"steps": 100, "ap": 0.6 + 0.02 * seed + changes.get(name, 0.0), "ap50": 0.9},
                **{"wire_bytes_per_step_per_rank": 1e6, "wire_bytes_per_rank": 1e8},
                wall_seconds=60.0,
            )
            for seed in (0, 1)
        ]
    setup = AccuracySetup(
        **{"base": "synthetic.yaml", "overrides": (), "images": 100, "classes": 3, "variant": "n"},
        **{"image_size": 64, "epochs": 9, "ranks": 2, "global_batch": 16, "optimizer": "AdamW"},
        **{"processor": "synthetic", "torch_version": "2", "deepspeed_version": "0"},
    )
    return MeasuredAccuracy(setup, tuple(runs), "none", "2026-01-01")
