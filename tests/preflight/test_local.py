from pathlib import Path

import pytest

from yolo.errors import ClusterError
from yolo.preflight.local import ListedHost, listed_hosts
from yolo.recipe.schema.distributed import ClusterSection

GOOD = "# ours\n\nnode0 slots=8\n  user@node1\tslots=4 # the old one\nnode2 slots=8\n"


def listed(tmp_path: Path, text: str, nodes: int = 2) -> list[ListedHost]:
    path = tmp_path / "hosts"
    path.write_text(text)
    return listed_hosts(ClusterSection(nodes=nodes, hostfile=str(path)))


def test_the_first_of_the_list_are_taken_with_their_slots(tmp_path: Path) -> None:
    assert listed(tmp_path, GOOD) == [ListedHost("node0", 8), ListedHost("user@node1", 4)]


@pytest.mark.slow
def test_a_list_is_read_as_deepspeeds_launcher_reads_it(tmp_path: Path) -> None:
    from deepspeed.launcher.runner import _parse_hostfile

    theirs = _parse_hostfile(GOOD.splitlines())
    assert {host.name: host.slots for host in listed(tmp_path, GOOD, nodes=3)} == theirs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("node0 slots=8\nnode1\n", "hosts:2: 'node1': expected a line `hostname slots=GPUs`"),
        ("node0 slots=8\nnode0 slots=4\n", "hosts:2: node0 is listed twice"),
        (
            "node0 slots=8\n",
            "hosts: lists 1 hosts, and cluster.nodes is 2; add hosts or lower cluster.nodes",
        ),
        ("", "lists 0 hosts"),
        ("-oProxyCommand=touch slots=1\nb slots=1\n", "hosts:1: '-oProxyCommand=touch slots=1'"),
    ],
)
def test_a_list_that_cannot_be_is_told_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ClusterError) as caught:
        listed(tmp_path, text)
    assert message in str(caught.value)


def test_without_a_list_several_nodes_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="set cluster.hostfile to a file with a line"):
        listed_hosts(ClusterSection(nodes=2))
    with pytest.raises(ClusterError, match="nowhere: no such file"):
        listed_hosts(ClusterSection(nodes=2, hostfile=str(tmp_path / "nowhere")))


def test_one_node_is_this_machine_and_needs_no_ssh() -> None:
    (host,) = listed_hosts(ClusterSection())
    assert host.over_ssh is None
