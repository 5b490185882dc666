"""In every pair of stage and precision, a step's gradient is plain torch DDP's, to the precision's rounding."""

from collections.abc import Callable
from typing import Any

import pytest

Found = dict[str, Any]
"""Of one worker, by case."""

# Rounding of one multiplication, times a few for the sums of a convolution, the exchange and the weights' own fp32.
TOLERANCE = {"fp32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
STAGES = (0, 1, 2, 3)
SCALED = tuple(f"zero.stage={stage} precision.dtype=fp16" for stage in (0, 2, 3))
UNSCALED = (
    *("zero.stage=0 precision.dtype=fp32", "zero.stage=0 precision.dtype=bf16"),
    *("zero.stage=1 precision.dtype=bf16", "zero.stage=3 precision.dtype=fp32"),
)
AS_DEEPSPEED_DOES = "as_deepspeed_does zero.stage=2 precision.dtype=fp16"


@pytest.fixture(scope="module")
def gradients(launch_worker_once: Callable[..., Found]) -> Found:
    return launch_worker_once("gradients", *(f"zero.stage={stage}" for stage in STAGES))


@pytest.fixture(scope="module")
def overflows(launch_worker_once: Callable[..., Found]) -> Found:
    return launch_worker_once("overflow", *SCALED, *UNSCALED, AS_DEEPSPEED_DOES)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_gradient_equals_plain_ddps_also_when_one_rank_has_no_boxes(
    gradients: Found, stage: int
) -> None:
    cases = gradients[f"zero.stage={stage}"]
    assert set(cases) == {*TOLERANCE, "fp32, accumulated"}
    for case, found in cases.items():
        assert found["missing"] == [], case
        assert found["norm"] > 0, case
        assert min(found["matches"]) >= 0 < max(found["matches"]), case
        assert found["relative_difference"] < TOLERANCE[case.split(",")[0]], case


@pytest.mark.slow
@pytest.mark.parametrize("case", SCALED)
def test_fp16_clips_the_true_gradient_and_recovers_from_an_overflow(
    overflows: Found, case: str
) -> None:
    found = overflows[case]
    assert found["applied"] == [True, False, False, True]
    assert found["norms"][0] > 0.01, "nothing to clip"
    # Clipped to 0.01 at lr 1; when the scaled gradient is clipped instead, the step is 65536 times shorter.
    assert found["lengths"] == pytest.approx([0.01, 0, 0, 0.01], rel=1e-2, abs=1e-7)
    assert found["scale_at_start"] == 65536
    assert found["scale"] == found["scale_after_resume"] == 65536 / 4


@pytest.mark.slow
@pytest.mark.parametrize("case", UNSCALED)
def test_a_gradient_that_is_not_finite_reaches_no_weight(overflows: Found, case: str) -> None:
    found = overflows[case]
    assert found["applied"] == [True, False, False, True]
    assert found["lengths"] == pytest.approx([0.01, 0, 0, 0.01], rel=1e-2, abs=1e-7)


@pytest.mark.slow
def test_deepspeed_still_clips_the_scaled_gradient_and_keeps_its_scale(overflows: Found) -> None:
    """Why `engine._scale_the_loss_within` exists; when this fails, it may go."""
    found = overflows[AS_DEEPSPEED_DOES]
    assert found["lengths"][0] < 0.01 / 1000
    assert found["applied"][1:3] == [False, False]
    assert found["scale"] == found["scale_at_start"] == 65536
