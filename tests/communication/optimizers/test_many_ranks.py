"""What must not change with the number of ranks: the length of a 1-bit step, and what it launches."""

from collections.abc import Callable
from statistics import fmean
from typing import Any

import pytest

pytestmark = pytest.mark.slow
OPTIMIZERS = ("OneBitAdam", "OneBitLamb", "ZeroOneAdam")
FREEZE = 30


@pytest.fixture(scope="module")
def found(launch_worker_once: Callable[..., Any]) -> dict[int, Any]:
    return {ranks: launch_worker_once("step_lengths", ranks=ranks) for ranks in (2, 8, 16)}


def change(lengths: list[float]) -> float:
    """Length of a step long after the freeze, by that before it."""
    return fmean(lengths[-14:]) / fmean(lengths[FREEZE - 14 : FREEZE])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_clipping_does_not_shorten_the_steps_after_the_freeze(
    found: dict[int, Any], optimizer: str
) -> None:
    """Clipped to the mean's bound, the ranks' own gradients made them 0.7, 0.4 and 0.3 times as long.

    What is left is what compression itself changes: without clipping it is the same.
    """
    for ranks, of_ranks in found.items():
        clipped, free = (change(of_ranks[optimizer][kind]) for kind in ("clipped", "free"))
        print(f"{optimizer}, {ranks} ranks: {clipped:.3f} times the length, unclipped {free:.3f}")
        assert 0.9 < clipped / free < 1.1, ranks
        assert 0.75 < clipped < 1.1, ranks


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_launches_as_many_operations_on_16_ranks_as_on_2(
    found: dict[int, Any], optimizer: str
) -> None:
    of_two, *others = (of_ranks[optimizer]["operations"] for of_ranks in found.values())
    print(optimizer, sum(of_two.values()))
    assert all(other == of_two for other in others)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_host_waits_once_in_a_step(found: dict[int, Any], optimizer: str) -> None:
    """A number that Python reads is one that a GPU must have computed: whether the step is skipped."""
    operations = found[2][optimizer]["operations"]
    assert operations["read"] == 1
    assert not {"aten::nonzero", "aten::masked_select"} & operations.keys()
