from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.slow
def test_the_meter_agrees_with_the_interface_and_flat_collectives_with_plain_ones(
    launch_worker: Callable[..., Any],
) -> None:
    found = launch_worker("traffic")
    payload = 4 * 2**20 * 4
    expected = {
        "all_reduce": 1.0,
        "all_reduce_async": 1.0,
        "broadcast": 0.5,
        "all_gather_into_tensor": 0.5,
        "reduce_scatter_tensor": 1.0,
        "all_to_all_single": 0.5,
    }
    for name, share in expected.items():
        row = found[name]
        assert row["calls"] == 1, name
        assert row["payload"] == payload, name
        assert row["metered"] == payload * share, name
        assert row["interface"] == pytest.approx(row["metered"], rel=0.02), name
        assert row["seconds"] > 0, name
    assert found["after_detach"] == 0

    flat = found["flat"]
    assert flat["averaged"] == [[0.5] * 3, 7]  # whole numbers are not averaged
    assert flat["broadcast"] == [[0.0] * 3, 7, [True, True, False]]
    assert found["broadcast_on_second"] == flat["broadcast"]
    assert flat["gathered"] == [[[0.0] * 3, [1.0] * 3], [[1.0] * 4] * 2]
