import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from yolo.preflight import bandwidth
from yolo.preflight.bandwidth import Clock, compare_clocks, measure_link, serve


@contextmanager
def first_host(clock: Clock = time.time) -> Iterator[int]:
    """The port of one that answers in this process, with a clock of its own."""
    until, end = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener, until, clock))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            os.close(end)
            thread.join(10)
            os.close(until)
            assert not thread.is_alive()


@pytest.mark.parametrize("shift", [3.2, -7200.0, 0.0])
def test_a_clock_that_is_off_is_found_to_a_round_trip(shift: float) -> None:
    with first_host(lambda: time.time() + shift) as port:
        link = measure_link("127.0.0.1", port)
    assert link.clock_offset_seconds == pytest.approx(-shift, abs=link.round_trip_seconds)
    assert 0 < link.round_trip_seconds < 0.1
    assert link.local_address == "127.0.0.1"
    assert link.to_first_mbps > 100 < link.from_first_mbps


def test_time_that_the_other_side_thinks_is_no_part_of_the_round_trip() -> None:
    """The offset is that of RFC 5905 also where the answer is slow to come."""

    def slow_clock() -> float:
        now = time.time()
        time.sleep(0.005)
        return now + 10

    with (
        first_host(slow_clock) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(b"c")
        round_trip, ahead = compare_clocks(connection)
    # The second reading is taken at once but told 5 ms later: half of that is the error.
    assert ahead == pytest.approx(-10, abs=0.006)
    assert round_trip < 0.02


def test_who_hangs_up_half_way_leaves_the_first_host_answering() -> None:
    with first_host() as port:
        for wish in (b"", b"c", b"u", b"d", b"?"):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(wish)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"c")
            assert abs(compare_clocks(connection)[1]) < 0.1


def test_a_first_host_that_falls_silent_is_waited_for_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bandwidth, "SILENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        measure_link("127.0.0.1", listener.getsockname()[1])
