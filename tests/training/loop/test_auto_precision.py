"""Which precision `auto` takes; and why it is `torch_autocast`, not DeepSpeed's bf16 section: what that does to BatchNorm."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from yolo.training.loop.auto_precision import choose_dtype, measure_in_turns

Launch = Callable[..., Any]


def beside_other_work(speedup: float, seed: int) -> Callable[[str], float]:
    """Seconds of a machine whose other work comes and goes, and now and then takes the core for long."""
    noise = random.Random(seed)
    slowdown = 1.0

    def seconds_in(dtype: str) -> float:
        nonlocal slowdown
        if noise.random() < 0.1:
            slowdown = noise.uniform(1.0, 4.0)
        spike = 0.5 if noise.random() < 0.05 else 0.0
        return slowdown * (0.09 if dtype == "fp32" else 0.09 / speedup) + spike

    return seconds_in


@pytest.mark.parametrize(("speedup", "dtype"), [(1.4, "bf16"), (0.02, "fp32")])
def test_other_work_does_not_change_the_precision(speedup: float, dtype: str) -> None:
    for seed in range(500):
        ranks = (beside_other_work(speedup, 2 * seed + rank) for rank in range(2))
        assert choose_dtype([measure_in_turns(rank) for rank in ranks])[0] == dtype, seed


def test_the_hardwares_own_format_is_taken_unless_it_clearly_loses() -> None:
    assert choose_dtype([[(1.0, 1.0)]]) == ("bf16", 1.0)
    assert choose_dtype([[(0.9, 1.0)]]) == ("bf16", 0.9)
    assert choose_dtype([[(0.7, 1.0), (0.6, 1.0), (2.0, 1.0)]]) == ("fp32", 0.7)
    assert choose_dtype([[(1.5, 1.0)], [(0.5, 1.0)]]) == ("fp32", 0.5), "the slowest rank decides"


@pytest.mark.slow
def test_the_bf16_section_breaks_batchnorm_on_a_processor(launch_worker: Launch) -> None:
    assert "BFloat16" in launch_worker("casting", "cast", ranks=1)["error"]


@pytest.mark.slow
def test_batchnorm_in_bf16_stops_short_of_its_mean_and_under_autocast_reaches_it(
    launch_worker: Launch,
) -> None:
    name = "relative_error_of_the_running_mean"
    cast = launch_worker("casting", "cast_with_buffers", ranks=1)
    autocast = launch_worker("casting", "autocast", ranks=1)
    assert cast["error"] == autocast["error"] == ""
    assert autocast[name] < 0.005
    assert cast[name] > 5 * autocast[name]
