import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import let_ctrl_c_end_it, needs_a_cluster
from yolo.emulation import link_check as gate
from yolo.emulation.cluster import EmulatedCluster
from yolo.errors import BenchError

REPOSITORY = Path(__file__).parents[2]
ALL_REDUCE = REPOSITORY / "tests" / "workers" / "all_reduce.py"
GONE_SECONDS = 60.0


def network_namespaces() -> set[int]:
    """Those that any process on this machine is in."""
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(process.stat().st_ino)
        except OSError:
            continue
    return found


def wait_until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + GONE_SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def said(process: "subprocess.Popen[bytes]") -> str:
    out, _ = process.communicate(timeout=GONE_SECONDS)
    return out.decode().strip()


def test_without_its_tools_a_cluster_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError, match=r"tc, unshare.*apt-get install iproute2 util-linux"):
        EmulatedCluster(2, 100).__enter__()


@needs_a_cluster
def test_who_is_not_root_is_told_in_one_line_to_become_root() -> None:
    program = (
        "import os, sys\n"
        "from yolo.bench.__main__ import main\n"
        "os.setuid(65534)\n"
        "sys.exit(main(['recipes/demo.yaml']))"
    )
    unmeasured = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env=unmeasured,  # another user cannot write the file of what was run
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert ran.stderr.count("\n") == 1 and "sudo" in ran.stderr


@pytest.mark.parametrize(("hosts", "bandwidth"), [(0, 100), (65, 100), (2, 0.5), (2, float("nan"))])
def test_a_cluster_that_cannot_be_is_refused(hosts: int, bandwidth: float) -> None:
    with pytest.raises(BenchError, match="expected 1 to"):
        EmulatedCluster(hosts, bandwidth)


@needs_a_cluster
def test_what_the_kernel_refuses_is_said_in_its_words() -> None:
    """As in a container: root, but without the right to make namespaces."""
    program = (
        "from yolo.emulation.cluster import EmulatedCluster as C\n"
        "from yolo.errors import BenchError\n"
        "try: C(2, 100).__enter__()\n"
        "except BenchError as error: print(error)"
    )
    without = ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin"]
    ran = subprocess.run(
        [*without, sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert ran.stdout.startswith("unshare: ") and "Operation not permitted" in ran.stdout, ran
    assert "privileged" in ran.stdout


@needs_a_cluster
def test_each_host_has_its_own_name_interface_and_processes() -> None:
    look = (
        "hostname; getent hosts node1; ls /proc | grep -c '^[0-9]*$'; ls /sys/class/net; "
        "ip -brief address show eth0"
    )
    with EmulatedCluster(3) as cluster:
        for number, host in enumerate(cluster.hosts):
            lines = said(host.run(["sh", "-c", look], stdout=subprocess.PIPE)).splitlines()
            assert lines[0] == host.name == f"node{number}"
            assert lines[1].split() == ["10.77.0.2", "node1"]
            assert int(lines[2]) < 10
            assert lines[3:5] == ["eth0", "lo"]
            assert f"10.77.0.{number + 1}/24" in lines[5]


@needs_a_cluster
@pytest.mark.parametrize("bandwidth", [25, 100])
def test_messages_take_the_time_of_the_asked_for_rate_in_both_directions(bandwidth: float) -> None:
    with EmulatedCluster(2, bandwidth) as cluster:
        before = [host.counters() for host in cluster.hosts]
        rows = gate.check(cluster)
        first, second = (
            host.counters() - earlier for host, earlier in zip(cluster.hosts, before, strict=True)
        )
    assert {(row.sender, row.receiver) for row in rows} == {("node0", "node1"), ("node1", "node0")}
    assert all(abs(row.deviation) <= 0.05 for row in rows)
    assert first.sent_bytes == second.received_bytes and second.sent_bytes == first.received_bytes


@needs_a_cluster
def test_a_burst_that_shortens_messages_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolo.emulation.cluster.BURST_SECONDS", 0.005)
    expected = r"65536 bytes from node1 to node0 took .* expected"
    with EmulatedCluster(2, 100) as cluster, pytest.raises(BenchError, match=expected):
        gate.check(cluster)


@needs_a_cluster
def test_the_counters_see_the_frames_of_a_stream() -> None:
    """Each of 1514 bytes for 1448 of payload, as on a wire, and not what the kernel hands over at once."""
    size = 16 * 2**20
    receive = (
        "import socket, sys\n"
        "with socket.create_server((sys.argv[1], 7)) as listener:\n"
        "    print(flush=True)\n"
        "    connection, _ = listener.accept()\n"
        "    while connection.recv(2**20): pass\n"
    )
    send = (
        "import socket, sys\n"
        "socket.create_connection((sys.argv[1], 7)).sendall(bytes(int(sys.argv[2])))"
    )
    with EmulatedCluster(2, 500) as cluster:
        first, second = cluster.hosts
        receiver = first.run([sys.executable, "-c", receive, first.address], stdout=subprocess.PIPE)
        assert receiver.stdout is not None
        receiver.stdout.readline()
        before = second.counters()
        assert second.run([sys.executable, "-c", send, first.address, str(size)]).wait(20) == 0
        receiver.communicate(timeout=20)
        counted = second.counters() - before
    assert counted.sent_bytes == pytest.approx(size * 1514 / 1448, rel=0.01)
    assert counted.received_bytes < 0.03 * counted.sent_bytes  # acknowledgements


@needs_a_cluster
@pytest.mark.slow
@pytest.mark.launcher
def test_the_real_launcher_runs_one_rank_a_host_and_the_bytes_are_those_of_an_all_reduce(
    tmp_path: Path,
) -> None:
    with EmulatedCluster(2, 200) as cluster:
        arguments = [str(ALL_REDUCE), "--out", str(tmp_path / "found.json")]
        cluster.wait(cluster.launch(arguments, tmp_path / "hosts"), timeout=120)
    for rank in range(2):
        found = json.loads((tmp_path / f"found.{rank}.json").read_text())
        assert found["host"] == f"node{rank}"
        # Of two ranks each sends the payload once and receives it once; then the other's acknowledgements.
        frames = gate.wire_bytes(found["payload"])
        for direction in ("sent", "received"):
            assert frames <= found[direction] <= frames * 1.03


@needs_a_cluster
@pytest.mark.slow
@pytest.mark.launcher
def test_a_host_that_fails_is_named_with_what_it_said_and_the_others_are_stopped(
    tmp_path: Path,
) -> None:
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1': sys.exit('the second rank has had enough')\n"
        "time.sleep(600)\n"
    )
    with EmulatedCluster(2) as cluster:
        processes = cluster.launch([str(worker)], tmp_path / "hosts")
        with pytest.raises(BenchError, match=r"(?s)node1: exit code 1.*has had enough"):
            cluster.wait(processes, timeout=60)
        assert all(process.poll() is not None for process in processes)
        processes = cluster.launch([str(worker)], tmp_path / "hosts")
        with pytest.raises(BenchError, match="node0: not done after 0.1 s"):
            cluster.wait(processes, timeout=0.1)


@needs_a_cluster
def test_an_exception_leaves_nothing_behind() -> None:
    namespaces: set[int] = set()
    links = sorted(os.listdir("/sys/class/net"))
    with pytest.raises(ZeroDivisionError):
        fail_in_a_cluster(namespaces)
    assert len(namespaces) == 2
    assert not namespaces & network_namespaces()
    assert sorted(os.listdir("/sys/class/net")) == links


def fail_in_a_cluster(namespaces: set[int]) -> None:
    with EmulatedCluster(2, 100) as cluster:
        cluster.hosts[0].run(["sleep", "600"])
        namespaces |= {os.stat(f"/proc/{host.pid}/ns/net").st_ino for host in cluster.hosts}
        raise ZeroDivisionError


OWNER = """
import os, sys, time
from yolo.emulation.cluster import EmulatedCluster
with EmulatedCluster(2, 100) as cluster:
    cluster.hosts[0].run(["sh", "-c", "setsid sleep 600 & sleep 600"])
    time.sleep(0.3)
    namespaces = [os.stat(f"/proc/{host.pid}/ns/net").st_ino for host in cluster.hosts]
    print(*namespaces, flush=True)
    if sys.argv[1] == "wait":
        time.sleep(600)
"""


@needs_a_cluster
@pytest.mark.parametrize(
    ("then", "ask_to_end"),
    [("wait", signal.SIGKILL), ("wait", signal.SIGTERM), ("wait", signal.SIGINT), ("leave", None)],
    ids=["killed", "terminated", "interrupted", "left"],
)
def test_nothing_is_left_however_the_owner_ends(then: str, ask_to_end: int | None) -> None:
    links = sorted(os.listdir("/sys/class/net"))
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, then],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=let_ctrl_c_end_it,
    )
    assert owner.stdout is not None
    namespaces = {int(word) for word in owner.stdout.readline().split()}
    assert len(namespaces) == 2
    started = psutil.Process(owner.pid).children(recursive=True) if ask_to_end else []
    if ask_to_end is not None:
        assert len(started) >= 6  # three holders, two inits below them, and what runs on a host
        owner.send_signal(ask_to_end)
    owner.wait(GONE_SECONDS)
    owner.stdout.close()
    wait_until(lambda: not any(process.is_running() for process in started), "a process is left")
    wait_until(lambda: not namespaces & network_namespaces(), "a network namespace is left")
    assert sorted(os.listdir("/sys/class/net")) == links
