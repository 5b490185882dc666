"""In every pair of stage and precision, a step's gradient is plain torch DDP's, to the precision's rounding."""

from collections.abc import Callable
from typing import Any

import pytest

Launch = Callable[..., Any]

# Rounding of one multiplication, times a few for the sums of a convolution, the exchange and the weights' own fp32.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_gradient_equals_plain_ddps_also_when_one_rank_has_no_boxes(
    launch_worker: Launch, stage: int
) -> None:
    cases = launch_worker("gradients", f"zero.stage={stage}")
    assert set(cases) == {*TOLERANCE, "fp32, accumulated"}
    for case, found in cases.items():
        assert found["missing"] == [], case
        assert found["norm"] > 0, case
        assert min(found["matches"]) >= 0 < max(found["matches"]), case
        assert found["relative_difference"] < TOLERANCE[case.split(",")[0]], case


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_fp16_clips_the_true_gradient_and_recovers_from_an_overflow(
    launch_worker: Launch, stage: int
) -> None:
    found = launch_worker("overflow", f"zero.stage={stage}", "precision.dtype=fp16")
    assert found["applied"] == [True, False, False, True]
    assert found["norms"][0] > 0.01, "nothing to clip"
    # Clipped to 0.01 at lr 1; when the scaled gradient is clipped instead, the step is 65536 times shorter.
    assert found["lengths"] == pytest.approx([0.01, 0, 0, 0.01], rel=1e-2, abs=1e-7)
    assert found["scale_at_start"] == 65536
    assert found["scale"] == found["scale_after_resume"] == 65536 / 4


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "dtype"), [(0, "fp32"), (0, "bf16"), (1, "bf16"), (3, "fp32")])
def test_a_gradient_that_is_not_finite_reaches_no_weight(
    launch_worker: Launch, stage: int, dtype: str
) -> None:
    found = launch_worker("overflow", f"zero.stage={stage}", f"precision.dtype={dtype}")
    assert found["applied"] == [True, False, False, True]
    assert found["lengths"] == pytest.approx([0.01, 0, 0, 0.01], rel=1e-2, abs=1e-7)


@pytest.mark.slow
def test_deepspeed_still_clips_the_scaled_gradient_and_keeps_its_scale(
    launch_worker: Launch,
) -> None:
    """Why `engine._scale_the_loss_within` exists; when this fails, it may go."""
    found = launch_worker("overflow", "--as-deepspeed-does", "zero.stage=2", "precision.dtype=fp16")
    assert found["lengths"][0] < 0.01 / 1000
    assert found["applied"][1:3] == [False, False]
    assert found["scale"] == found["scale_at_start"] == 65536
