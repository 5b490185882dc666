"""Ranks of two starts at one port: none joins the other's."""

import socket
import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from tests.conftest import free_port
from yolo.training.engine.rendezvous import KEY, PortTaken, connect, rendezvous

SECONDS = timedelta(seconds=10)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The environment of rank 1 of 2."""
    port = free_port()
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "RANK": "1",
    }.items():
        monkeypatch.setenv(name, value)
    return port


@pytest.fixture
def stores(port: int) -> Iterator[list[TCPStore]]:
    """The store of a main rank."""
    stores = [TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)]
    yield stores
    stores.clear()


def test_ranks_of_one_start_meet(stores: list[TCPStore]) -> None:
    stores[0].set(KEY, "17-1")
    store, rank, world_size = rendezvous("17-1", SECONDS)
    store.set("said", "by rank 1")
    assert stores[0].get("said") == b"by rank 1"
    assert (rank, world_size) == (1, 2)
    assert connect("17-1", SECONDS).get("said") == b"by rank 1"


@pytest.mark.parametrize(("theirs", "mine"), [("17-1", "17-2"), ("17-1", ""), ("", "17-1")])
def test_a_rank_of_another_start_is_refused(
    stores: list[TCPStore], port: int, theirs: str, mine: str
) -> None:
    stores[0].set(KEY, theirs)
    with pytest.raises(PortTaken, match=f"master_port {port}: the ranks of another run meet"):
        rendezvous(mine, SECONDS)
    with pytest.raises(ConnectionRefusedError):
        connect(mine, SECONDS)


def test_a_store_that_ends_before_it_says_whose_it_is_was_not_ours(stores: list[TCPStore]) -> None:
    threading.Timer(0.5, stores.clear).start()
    with pytest.raises(PortTaken):
        rendezvous("17-1", SECONDS)


def test_the_main_rank_finds_the_port_taken(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PortTaken, match="another program on the first host uses the port") as caught,
    ):
        rendezvous("17-1", SECONDS)
    assert caught.value.exit_code == 77
