"""Each way to exchange, on two ranks through the real launcher, against what it should amount to."""

from collections.abc import Callable
from typing import Any

import pytest

from yolo.communication.optimizers.onebit_adam import OneBitAdam
from yolo.communication.optimizers.onebit_lamb import OneBitLamb
from yolo.communication.optimizers.zero_one_adam import ZeroOneAdam
from yolo.communication.reducers.bucketed import OverlappedReducer
from yolo.communication.reducers.local_sgd import LocalSGD
from yolo.communication.reducers.powersgd import PowerSGDReducer
from yolo.communication.strategy import SyncStrategy


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
    assert found["reducers"]["PowerSGD at rank 1"] > 1e-2
    assert found["reducers"]["PowerSGD began"]


def test_powersgd_forgets_a_gradient_that_is_no_number(found: Any) -> None:
    assert found["reducers"]["PowerSGD after a NaN"] == [True, True, True, False, True, True]


@pytest.mark.parametrize("case", ["fp32", "accumulated", "bf16"])
def test_1_bit_adam_sends_a_bit_an_element_in_two_collectives(found: Any, case: str) -> None:
    """In fp32 of yolov5s; two messages of a bit an element and a scale for 512, and what fills up small tensors."""
    one_bit = found["one bit"][case]
    assert one_bit["collectives"] == 2
    assert 2 < one_bit["bits"] < 2 * 32 / 28
    assert one_bit["same"]
    assert one_bit["finite"]


def test_parameters_and_buffers_are_broadcast_together(found: Any) -> None:
    assert {case["broadcasts at the start"] for case in found["one bit"].values()} == {1}


def test_after_the_freeze_each_rank_clips_what_it_contributes(found: Any) -> None:
    """What a sign compression sends is longer than what it was given, by the root of pi / 2 for a normal vector."""
    guards = found["guards"]
    assert guards["long on one rank"]["momentum"] < 1.0 * 1.3
    assert guards["long on one rank"]["norm"] == pytest.approx(1000 / 2**0.5, rel=0.01)
    assert guards["long on one rank"]["same"]


def test_a_rank_without_a_finite_gradient_contributes_none(found: Any) -> None:
    guards = found["guards"]
    one, all_of_them, after = (
        guards[case] for case in ("no number on one rank", "no number anywhere", "short again")
    )
    assert not one["left out"]
    assert one["same"]
    assert 0 < one["moved"] < 100
    assert all_of_them["left out"]
    assert all_of_them["moved"] == 0
    assert all_of_them["steps"] == one["steps"]
    assert not after["left out"]
    assert after["steps"] == one["steps"] + 1
    assert 0 < after["moved"] < 100


def test_local_steps_part_and_meet_at_the_mean(found: Any) -> None:
    reducers = found["reducers"]
    assert reducers["ranks part"]
    assert reducers["together again"]
    assert reducers["averaged weights"] < 1e-5
    assert reducers["the first outer step"] < 1e-5
    assert reducers["outer momentum moves further"] > 1.1


def test_one_bit_that_differs_is_found_and_named(found: Any) -> None:
    for said in found["agreement"]["said"]:
        assert "step 2: ranks do not hold the same weights" in said
        assert "model.3.conv.weight of" in said
        assert (
            "parameters differ. A faulty machine" in said
        )  # of two ranks nobody knows which is right


def test_checkpoints_keep_the_kinds_of_strategies() -> None:
    """Older checkpoints hold them: under another kind a resumed run would lose its error feedback."""
    optimizers = (OneBitAdam, OneBitLamb, ZeroOneAdam)
    reducers = (SyncStrategy, OverlappedReducer, PowerSGDReducer, LocalSGD)
    assert [each.kind for each in optimizers] == ["OneBitAdam", "OneBitLamb", "ZeroOneAdam"]
    kinds = ["deepspeed", "overlapped", "powersgd", "local_steps"]
    assert [each.kind for each in reducers] == kinds
