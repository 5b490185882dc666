import base64
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from deepspeed.launcher.multinode_runner import PDSHRunner
from deepspeed.launcher.runner import parse_args

from yolo.communication.backends import known
from yolo.errors import LaunchError, RecipeError
from yolo.launch.command import Launch, launch_training
from yolo.recipe import prepare
from yolo.recipe.resolve import hardware as machine
from yolo.training.checkpointing.run_directory import RunDirectory

DEMO = Path(__file__).parents[2] / "recipes" / "demo.yaml"
PORT = 29500


@pytest.fixture(autouse=True)
def four_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        (tmp_path / "gpus" / f"0000:0{number}:00.0").mkdir(parents=True)
    monkeypatch.setattr(machine, "DRIVER_FOLDER", tmp_path / "gpus")
    monkeypatch.setattr(machine, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(known, "_torch_has", lambda name: True)
    for name in ("CUDA_VISIBLE_DEVICES", "DS_ACCELERATOR"):
        monkeypatch.delenv(name, raising=False)


def launch(*overrides: str) -> Launch:
    resolved = prepare(DEMO, overrides).resolved
    return launch_training(resolved, overrides, RunDirectory(Path("runs/x")), PORT)


def test_all_gpus_are_used() -> None:
    made = launch()
    assert "--num_accelerators 4" in str(made)
    assert "DS_ACCELERATOR" not in dict(made.environment)


def test_only_the_visible_gpus_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given their number alone, the launcher would take GPUs 0 and 1, which may be somebody else's."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert "--include localhost:2,3 " in str(launch())
    assert "--num_accelerators" not in str(launch())
    assert "--include localhost:2 " in str(launch("cluster.processes_per_node=1"))


def test_gpus_named_by_uuid_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f2a,GPU-11c0")
    with pytest.raises(LaunchError, match="reads GPUs' numbers only; expected such as 0,1"):
        launch()


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(LaunchError, match="processes_per_node 8: this machine has 4 GPUs"):
        launch("cluster.processes_per_node=8")


def test_without_gpus_two_processes_run_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DRIVER_FOLDER", Path("/nowhere"))
    made = launch()
    assert "--num_accelerators 2" in str(made)
    assert dict(made.environment)["DS_ACCELERATOR"] == "cpu"


def test_gpus_are_found_where_a_container_hides_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "DRIVER_FOLDER", Path("/nowhere"))
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert machine.visible_gpus() == ("0", "1")


def test_gpus_are_found_under_wsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DRIVER_FOLDER", Path("/nowhere"))
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "dxg").touch()
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA RTX (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent))
    assert machine.visible_gpus() == ("0",)


def test_several_nodes_want_a_hostfile(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="a line `hostname slots=GPUs` per host"):
        launch("cluster.nodes=2")
    stated = ("cluster.nodes=2", "cluster.processes_per_node=4")
    with pytest.raises(LaunchError, match=r"cluster.hostfile /nowhere: no such file"):
        launch(*stated, "cluster.hostfile=/nowhere")
    with pytest.raises(
        RecipeError, match=r"cluster.hostfile: /nowhere: cannot be read: No such file"
    ):
        launch("cluster.hostfile=/nowhere")
    hosts = tmp_path / "hostfile"
    hosts.write_text("node1 slots=4\nnode2 slots=4\n")
    made = launch("cluster.nodes=2", f"cluster.hostfile={hosts}")
    assert f"--hostfile {hosts} --num_nodes 2 --num_accelerators 4 " in str(made)


def test_from_a_machine_without_gpus_the_hosts_are_used_as_their_slots_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "DRIVER_FOLDER", Path("/nowhere"))
    hosts = tmp_path / "hostfile"
    hosts.write_text("node1 slots=4\nnode2 slots=4\n")
    made = launch(f"cluster.hostfile={hosts}")
    assert f"--hostfile {hosts} --num_nodes 2 --num_accelerators 4 " in str(made)
    assert dict(made.environment)["DS_ACCELERATOR"] == "cuda"
    made = launch(f"cluster.hostfile={hosts}", "cluster.accelerator=cpu")
    assert "--num_nodes 2 --num_accelerators 4 " in str(made)
    assert dict(made.environment)["DS_ACCELERATOR"] == "cpu"


@pytest.mark.launcher
def test_the_launcher_starts_a_rank_on_each_slot_of_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real `deepspeed` on a machine without GPUs, with an ssh and a pdsh that write down what they are asked to run."""
    monkeypatch.setattr(machine, "DRIVER_FOLDER", Path("/nowhere"))
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in (("ssh", "echo 10.0.0.1"), ("pdsh", f'echo "$@" > {tmp_path}/asked')):
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    (tmp_path / "hosts").write_text("node1 slots=4\nnode2 slots=4\n")
    made = launch(f"cluster.hostfile={tmp_path / 'hosts'}")
    added = {"PATH": f"{programs}:{os.environ['PATH']}", "NCCL_SOCKET_IFNAME": "ib0"}
    environment = os.environ | added | dict(made.environment)
    subprocess.run(made.command, env=environment, cwd=tmp_path, check=True, timeout=60)
    asked = (tmp_path / "asked").read_text()
    ranks = re.search(r"--world_info=(\S+)", asked)
    assert ranks is not None
    found = json.loads(base64.urlsafe_b64decode(ranks[1]))
    assert found == {"node1": [0, 1, 2, 3], "node2": [0, 1, 2, 3]}
    assert "export NCCL_SOCKET_IFNAME=ib0" in asked


def test_ranks_on_hosts_compute_on_what_was_decided_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher does not hand DS_ACCELERATOR to the hosts."""
    hosts = tmp_path / "hosts"
    hosts.write_text("one slots=2\ntwo slots=2\n")
    for accelerator in ("cuda", "cpu"):
        command = launch(f"cluster.hostfile={hosts}").command
        assert f"cluster.accelerator={accelerator}" in command
        monkeypatch.setenv("DS_ACCELERATOR", "cpu")


def test_gpus_can_be_left_alone() -> None:
    made = launch("cluster.accelerator=cpu")
    assert "--num_accelerators 2 " in str(made)
    assert dict(made.environment)["DS_ACCELERATOR"] == "cpu"


def test_the_printed_command_can_be_pasted_into_a_shell() -> None:
    made = launch("description=two words")
    assert shlex.split(str(made))[-1] == "description=two words"


@pytest.mark.parametrize(
    "argument", ["description=two words", "description=$(touch x); `y` \\ \"z\" 'w'", "a=$HOME;b"]
)
def test_an_override_reaches_other_hosts_as_it_is(tmp_path: Path, argument: str) -> None:
    """DeepSpeed hands the joined command to the shell of each host."""
    hosts = tmp_path / "hostfile"
    hosts.write_text("node1 slots=4\nnode2 slots=4\n")
    settings = ("cluster.nodes=2", f"cluster.hostfile={hosts}")
    resolved = prepare(DEMO, settings).resolved
    made = launch_training(resolved, (*settings, argument), RunDirectory(Path("runs/x")), PORT)
    runner = PDSHRunner(parse_args(["script", *made.command[-1:]]), "world")
    script = f"printf %s {' '.join(runner.user_arguments)}"
    assert subprocess.run(["sh", "-c", script], capture_output=True, text=True).stdout == argument


def test_ssh_gives_up_a_host_when_its_ranks_are_given_up(tmp_path: Path) -> None:
    hosts = tmp_path / "hostfile"
    hosts.write_text("node1 slots=4\nnode2 slots=4\n")
    settings = ("communication.timeout_seconds=60", f"cluster.hostfile={hosts}")
    options = dict(launch("cluster.nodes=2", *settings).environment)["PDSH_SSH_ARGS_APPEND"]
    assert options == "-o ServerAliveInterval=15 -o ServerAliveCountMax=3"


def test_one_host_is_reached_like_several(tmp_path: Path) -> None:
    """Without --force_multi the launcher would take the machine that it is called on, whichever that is."""
    left = tmp_path / "hostfile"
    left.write_text("node2 slots=4\n")
    made = launch(f"cluster.hostfile={left}")
    assert f"--hostfile {left} --num_nodes 1 " in str(made)
    assert "--force_multi" in made.command
