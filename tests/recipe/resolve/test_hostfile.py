from pathlib import Path

import pytest

from yolo.errors import ClusterError
from yolo.recipe.resolve.hostfile import ListedHost, read_hostfile

GOOD = "# ours\n\nnode0 slots=8\n  user@node1\tslots=4 # the old one\nnode2 slots=8\n"


def listed(tmp_path: Path, text: str, nodes: int | None = 2) -> list[ListedHost]:
    path = tmp_path / "hosts"
    path.write_text(text)
    return read_hostfile(path, nodes)


def test_the_first_of_the_list_are_taken_with_their_slots(tmp_path: Path) -> None:
    assert listed(tmp_path, GOOD) == [ListedHost("node0", 8), ListedHost("user@node1", 4)]


@pytest.mark.slow
def test_a_list_is_read_as_deepspeeds_launcher_reads_it(tmp_path: Path) -> None:
    from deepspeed.launcher.runner import _parse_hostfile

    theirs = _parse_hostfile(GOOD.splitlines())
    assert {host.name: host.slots for host in listed(tmp_path, GOOD, nodes=None)} == theirs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node0 slots=8\nnode1\n", "hosts:2: 'node1': expected a line `hostname slots=GPUs`"),
        ("node0 slots=8\nnode0 slots=4\n", "hosts:2: node0 is listed twice"),
        (
            "node0 slots=8\n",
            "hosts: lists 1 hosts, and cluster.nodes is 2; add hosts or lower cluster.nodes",
        ),
        ("# nobody", "lists no hosts"),
        ("node0 slots=0\nnode1 slots=8", "hosts:1: 'node0 slots=0'"),
        ("-oProxyCommand=touch slots=1\nb slots=1\n", "hosts:1: '-oProxyCommand=touch slots=1'"),
    ],
)
def test_a_list_that_cannot_be_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        listed(tmp_path, text)
    assert message in str(caught.value)
