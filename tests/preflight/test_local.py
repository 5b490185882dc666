from pathlib import Path

import pytest

from yolo.errors import ClusterError
from yolo.preflight.local import listed_hosts
from yolo.recipe import prepare
from yolo.recipe.schema.recipe import ResolvedCluster


def cluster(*overrides: str) -> ResolvedCluster:
    stated = ("cluster.processes_per_node=1", *overrides)
    return prepare("recipes/demo.yaml", stated).resolved.recipe.cluster


def test_without_a_list_several_nodes_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="set cluster.hostfile to a file with a line"):
        listed_hosts(cluster("cluster.nodes=2"))
    with pytest.raises(ClusterError, match="nowhere: no such file"):
        listed_hosts(cluster("cluster.nodes=2", f"cluster.hostfile={tmp_path / 'nowhere'}"))


def test_this_machine_needs_no_ssh() -> None:
    (host,) = listed_hosts(cluster())
    assert host.over_ssh is None


def test_the_hosts_of_a_list_are_reached_by_ssh_also_a_single_one(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    path.write_text("node0 slots=4\nnode1 slots=4\n")
    hosts = listed_hosts(cluster("cluster.nodes=1", f"cluster.hostfile={path}"))
    assert [host.over_ssh for host in hosts] == ["node0"]
