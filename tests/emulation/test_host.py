"""Links that are cut, and commands between emulated hosts."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import needs_a_cluster
from yolo.emulation.cluster import EmulatedCluster
from yolo.emulation.host import Host

pytestmark = needs_a_cluster


@pytest.fixture
def cluster() -> Iterator[EmulatedCluster]:
    with EmulatedCluster(2) as made:
        yield made


def said_by(host: Host, command: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    process = host.run(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.communicate(timeout=30)
    return process.returncode, out.decode(), error.decode()


def test_a_command_runs_on_the_other_host_and_its_exit_code_comes_back(
    cluster: EmulatedCluster,
) -> None:
    environment = cluster.open_to_ssh()
    command = ["ssh", "-o", "ConnectTimeout=5", "node1", "hostname; echo wrong >&2; exit 7"]
    assert said_by(cluster.hosts[0], command, environment) == (7, "node1\n", "wrong\n")


def test_a_command_sees_nothing_of_the_callers_environment(cluster: EmulatedCluster) -> None:
    environment = cluster.open_to_ssh() | {"SECRET": "1"}
    code, out, _ = said_by(cluster.hosts[0], ["ssh", "node1", "env"], environment)
    assert code == 0 and "PATH=" in out and "SECRET" not in out


def test_pdsh_numbers_its_hosts_and_fails_as_the_worst_of_them(cluster: EmulatedCluster) -> None:
    command = ["pdsh", "-S", "-f", "1024", "-w", "node0,node1", "echo", "%n", "%h;", "exit", "%n"]
    code, out, error = said_by(cluster.hosts[0], command, cluster.open_to_ssh())
    assert code == 1
    assert sorted(out.splitlines()) == ["node0: 0 node0", "node1: 1 node1"]
    assert error == "pdsh@node0: node1: ssh exited with exit code 1\n"


def test_a_host_that_is_cut_off_is_reached_by_nobody_until_it_is_restored(
    cluster: EmulatedCluster,
) -> None:
    first, second = cluster.hosts
    environment = cluster.open_to_ssh()
    cluster.cut(second)
    briefly = ["ssh", "-o", "ConnectTimeout=2", "node1", "true"]
    code, _, error = said_by(first, briefly, environment)
    assert code == 255 and error.startswith("ssh: connect to host node1 port 22: ")
    cluster.restore(second)
    # The kernel asks three times, a second apart, who has the address; a machine that is busy may need more.
    assert any(
        said_by(first, ["ssh", "-o", "ConnectTimeout=15", "node1", "true"], environment)[0] == 0
        for _ in range(5)
    )


def test_a_connection_outlives_a_short_cut_and_is_given_up_in_a_long_one(
    cluster: EmulatedCluster,
) -> None:
    first, second = cluster.hosts
    environment = cluster.open_to_ssh()
    patient = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=3"]
    command = ["ssh", *patient, "node1", "echo begun; sleep 4; echo done"]
    process = first.run(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    cluster.cut(second)
    time.sleep(1)
    cluster.restore(second)
    assert process.communicate(timeout=30) == (b"done\n", b"") and process.returncode == 0
    process = first.run(command, environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    cluster.cut(second)
    started = time.monotonic()
    _, error = process.communicate(timeout=30)
    assert process.returncode == 255 and b"imed out" in error
    assert (
        time.monotonic() - started > 2
    )  # and communicate() waits for 30 s, where TCP would for minutes
