"""The averaged weights are the same on every rank and under every stage."""

from collections.abc import Callable
from typing import Any

import pytest

Launch = Callable[..., Any]


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_all_ranks_hold_the_same_average_and_the_same_batchnorm_statistics(
    launch_worker: Launch, stage: int
) -> None:
    found = launch_worker("averaging", f"zero.stage={stage}")
    assert found["moved"] > 1e-3, "the average is not merely the newest weights"
    assert found["off_by_hand"] < 1e-4 * found["moved"]
    assert found["drift"] > 1e-3, "DeepSpeed has begun to synchronise statistics itself"
    assert found["weights_apart"] == found["statistics_apart"] == 0
    assert found["trained_statistics_apart"] == 0
