"""Two runs on one machine meet at different ports, however close they start."""

import socket

from tests.conftest import free_port
from yolo.launch.port import reserved_port
from yolo.recipe.schema.distributed import ClusterSection

AUTO = ClusterSection()


def test_a_port_that_nobody_listens_at_yet_is_kept_from_others() -> None:
    with reserved_port(AUTO) as first, reserved_port(AUTO) as second:
        assert second > first


def test_a_port_in_use_is_passed_over() -> None:
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("", first))
        taken.listen()
        with reserved_port(AUTO, first) as port:
            assert port > first
    with reserved_port(AUTO, first) as port:
        assert port == first


def test_the_main_rank_may_listen_at_the_reserved_port() -> None:
    """As torch's store does: on all addresses, with SO_REUSEADDR."""
    with reserved_port(AUTO) as port, socket.create_server(("", port)) as store:
        store.settimeout(5)
        with socket.create_connection(("127.0.0.1", port)), reserved_port(AUTO) as other:
            assert other != port


def test_a_stated_port_is_taken_as_it_is() -> None:
    with reserved_port(ClusterSection(master_port=29876)) as port:
        assert port == 29876
