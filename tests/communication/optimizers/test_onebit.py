"""Step by step the 1-bit optimizers do what their papers say, on 1, 2 and 4 ranks."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.communication.optimizers import papers, synthetic

STEPS, FREEZE = 40, 12
OF_GROUP = {tensor: group for group, members in enumerate(synthetic.GROUPS) for tensor in members}
SETTINGS = papers.Settings(
    rates=[synthetic.RATES[OF_GROUP[k]] for k in range(len(synthetic.SHAPES))],
    decays=[synthetic.DECAYS[OF_GROUP[k]] for k in range(len(synthetic.SHAPES))],
)


def apart(found: Any, expected: list[papers.Weights]) -> float:
    """The largest difference of any weight after any step."""
    assert len(found) == len(expected)
    return max(
        float(np.abs(np.asarray(ours) - theirs).max())
        for of_step, paper in zip(found, expected, strict=True)
        for ours, theirs in zip(of_step, paper, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_step_equals_the_papers(launch_worker: Callable[..., Any], ranks: int) -> None:
    of_ranks = launch_worker("one_bit", ranks=ranks)
    common = (synthetic.start(), synthetic.gradient, ranks, STEPS)
    adam = papers.one_bit_adam(*common, FREEZE, SETTINGS)
    lamb = papers.one_bit_lamb(*common, FREEZE, SETTINGS, papers.LambBounds())
    local = papers.zero_one_adam(*common, (14, 4, 6, 4), SETTINGS)
    for rank, found in enumerate(of_ranks):
        assert apart(found["OneBitAdam"], adam) < 1e-9
        assert apart(found["OneBitLamb"], lamb) < 1e-9
        assert apart(found["ZeroOneAdam"], [of_step[rank] for of_step in local]) < 1e-9
    if ranks > 1:
        ours, theirs = (found["ZeroOneAdam"] for found in of_ranks[:2])
        between = [
            np.abs(np.asarray(a[0]) - np.asarray(b[0])).max() > 0
            for a, b in zip(ours, theirs, strict=True)
        ]
        assert any(between) and not all(between), "ranks part, and come together again"
        assert of_ranks[0]["OneBitAdam"] == of_ranks[1]["OneBitAdam"], "same bits"
