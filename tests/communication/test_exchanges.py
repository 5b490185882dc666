"""Each way to exchange, on two ranks through the real launcher, against what it should amount to."""

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="module")
def found(launch_worker_once: Callable[..., Any]) -> Any:
    return launch_worker_once("exchanges")


pytestmark = pytest.mark.slow


def test_error_feedback_loses_nothing(found: Any) -> None:
    compressed = found["compressed"]
    assert compressed["balance"] < 1e-12
    assert 0 < compressed["left"] < 0.5
    assert compressed["notes"] == [0, 1]
    assert compressed["same"]


def test_the_overlapped_reducer_averages_as_deepspeed_does(found: Any) -> None:
    reducers = found["reducers"]
    assert reducers["moved"] > 0
    assert reducers["buckets"] >= 4
    assert reducers["overlapped"] < 1e-5
    assert reducers["overlapped, accumulated"] < 1e-5
    assert 1e-5 < reducers["overlapped, bf16"] < 1e-2


def test_powersgd_at_full_rank_is_the_mean(found: Any) -> None:
    assert found["reducers"]["PowerSGD at full rank"] < 1e-3


def test_1_bit_adam_sends_few_collectives_in_fp32(found: Any) -> None:
    assert found["reducers"]["collectives of a step of yolov5s"] == 2


def test_local_steps_part_and_meet_at_the_mean(found: Any) -> None:
    reducers = found["reducers"]
    assert reducers["ranks part"]
    assert reducers["together again"]
    assert reducers["averaged weights"] < 1e-5
    assert reducers["outer momentum moves further"] > 1


def test_one_bit_that_differs_is_found_and_named(found: Any) -> None:
    for said in found["agreement"]["said"]:
        assert "step 2: ranks do not hold the same weights" in said
        assert "model.3.conv.weight of" in said
        assert "differ on rank" in said
