"""The averaged weights are the same on every rank and under every stage."""

from collections.abc import Callable
from typing import Any

import pytest

STAGES = (0, 2, 3)


@pytest.fixture(scope="module")
def averaged(launch_worker_once: Callable[..., Any]) -> Any:
    return launch_worker_once("averaging", *(f"zero.stage={stage}" for stage in STAGES))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_all_ranks_hold_the_same_average_and_the_same_batchnorm_statistics(
    averaged: Any, stage: int
) -> None:
    found = averaged[f"zero.stage={stage}"]
    assert found["moved"] > 1e-3, "the average is not merely the newest weights"
    assert found["off_by_hand"] < 1e-4 * found["moved"]
    assert found["drift"] > 1e-3, "DeepSpeed has begun to synchronise statistics itself"
    assert found["weights_apart"] == found["statistics_apart"] == 0
    assert found["trained_statistics_moved"] == 0, "looking at a run must not change it"
