from collections.abc import Callable
from typing import Any

import pytest

from yolo.communication.metering.wire_bytes import tcp_bytes_per_payload_byte

BIG = 4 * 2**20 * 4
SHARES_ON_TWO_RANKS = {
    "all_reduce": 1.0,
    "reduce": 0.75,
    "broadcast": 0.5,
    "all_gather": 0.5,
    "gather": 0.5,
    "scatter": 0.5,
    "reduce_scatter": 1.0,
    "all_to_all": 0.5,
    "point_to_point": 1.0,
}
CALLS = {
    "all_reduce": ("all_reduce", BIG),
    "all_reduce_direct": ("all_reduce", BIG),
    "all_reduce_async": ("all_reduce", BIG),
    "all_reduce_future": ("all_reduce", BIG),
    "reduce": ("reduce", BIG / 4),
    "broadcast": ("broadcast", BIG),
    "all_gather": ("all_gather", BIG),
    "all_gather_into_tensor": ("all_gather", BIG),
    "all_gather_single_direct": ("all_gather", BIG),
    "gather": ("gather", BIG),
    "scatter": ("scatter", BIG),
    "reduce_scatter": ("reduce_scatter", BIG),
    "reduce_scatter_tensor": ("reduce_scatter", BIG),
    "all_to_all_single": ("all_to_all", BIG),
    "batch_isend_irecv": ("point_to_point", BIG),
    "communication_hook": ("all_reduce", BIG / 2),
}
"""Each call's kind and payload."""


@pytest.mark.slow
def test_the_meter_agrees_with_the_interface_and_flat_collectives_with_plain_ones(
    launch_worker: Callable[..., Any],
) -> None:
    found = launch_worker("traffic")
    framing = 1 + 1.25 * 66 / (65536 - 52)
    for name, (kind, payload) in CALLS.items():
        row = found[name]
        assert row["calls"] == 1, name
        assert row["payload_bytes"] == payload, name
        sent = payload * SHARES_ON_TWO_RANKS[kind]
        # And gloo's own of each message, 144 bytes.
        assert sent < row["wire_bytes"] / framing < sent + 20 * 144, name
        assert row["interface"] == pytest.approx(row["wire_bytes"], rel=0.02), name
        assert row["seconds"] > 0, name
        assert list(row["by_kind"]) == [kind], name
        assert row["by_kind"][kind] == {
            key: value for key, value in row.items() if key not in ("by_kind", "interface")
        }
    assert found["object"]["by_kind"]["broadcast"]["calls"] == 2  # its size goes before it
    assert found["object"]["interface"] == pytest.approx(found["object"]["wire_bytes"], rel=0.02)
    assert found["all_reduce"]["exposed_seconds"] == found["all_reduce"]["seconds"]
    for awaited in ("all_reduce_async", "all_reduce_future", "chained_futures"):
        assert found[awaited]["exposed_seconds"] > found[awaited]["seconds"] / 2, awaited
    assert found["chained_futures"]["calls"] == 2
    assert found["hidden"]["exposed_seconds"] < found["hidden"]["seconds"] / 2
    assert found["after_detach"] == 0
    assert found["is_restored"]

    flat = found["flat"]
    assert flat["averaged"] == [[0.5] * 3, 7]  # whole numbers are not averaged
    assert flat["broadcast"] == [[0.0] * 3, 7, [True, True, False]]
    assert found["broadcast_on_second"] == flat["broadcast"]
    assert flat["gathered"] == [[[0.0] * 3, [1.0] * 3], [[1.0] * 4] * 2]


@pytest.mark.parametrize(
    ("environment", "mtu"),
    [
        ({"GLOO_SOCKET_IFNAME": "lo", "LOCAL_SIZE": "1", "WORLD_SIZE": "2"}, 65536),
        ({"GLOO_SOCKET_IFNAME": "nothing0"}, 1500),
        ({"LOCAL_SIZE": "2", "WORLD_SIZE": "2"}, 65536),
    ],
)
def test_framing_follows_the_mtu_of_the_interface_that_gloo_uses(
    environment: dict[str, str], mtu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("GLOO_SOCKET_IFNAME", "LOCAL_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert tcp_bytes_per_payload_byte() == pytest.approx(1 + 1.25 * 66 / (mtu - 52))
