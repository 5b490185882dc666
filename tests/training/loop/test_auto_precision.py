"""Why mixed precision is `torch_autocast` and not DeepSpeed's bf16 section: what the latter does to BatchNorm."""

from collections.abc import Callable
from typing import Any

import pytest

Launch = Callable[..., Any]
pytestmark = pytest.mark.slow


def test_the_bf16_section_breaks_batchnorm_on_a_processor(launch_worker: Launch) -> None:
    assert "BFloat16" in launch_worker("casting", "cast", ranks=1)["error"]


def test_batchnorm_in_bf16_stops_short_of_its_mean_and_under_autocast_reaches_it(
    launch_worker: Launch,
) -> None:
    name = "relative_error_of_the_running_mean"
    cast = launch_worker("casting", "cast_with_buffers", ranks=1)
    autocast = launch_worker("casting", "autocast", ranks=1)
    assert cast["error"] == autocast["error"] == ""
    assert autocast[name] < 0.005
    assert cast[name] > 5 * autocast[name]
