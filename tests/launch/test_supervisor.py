"""What `yolo train` does when its launcher ends: one that does as it is told, and at the end of the file the real one."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.conftest import REPOSITORY
from tests.training.conftest import Process, Start, train_command, wait_until
from yolo.errors import LaunchError
from yolo.launch import supervisor
from yolo.launch.supervisor import (
    StoppedWithCheckpoint,
    StoppedWithoutCheckpoint,
    run_with_restarts,
)
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.resilience.preemption import SUPERVISOR

DEMO = REPOSITORY / "recipes" / "demo.yaml"

LAUNCHER = """import os, signal, sys, time
from pathlib import Path
sys.path.insert(0, {repository!r})
from yolo.training.resilience.rank_status import RankStatusFile

here, run = Path(__file__).parent, Path(sys.argv[sys.argv.index("--run") + 1])
with (here / "commands").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + chr(10))
acts = (here / "acts").read_text().split(";")
mine = acts.pop(0)
(here / "acts").write_text(";".join(acts) if acts else mine)
ranks = [RankStatusFile(run, int(sys.argv[sys.argv.index("--master_port") + 1]), rank) for rank in (0, 1)]
for rank in ranks:
    rank.write_phase("computing step 7")
for act in mine.split():
    what, _, value = act.partition("=")
    if what == "checkpoint":
        (run / "checkpoints" / value).mkdir(parents=True)
    elif what == "finish":
        (run / "finished").touch()
    elif what == "raise":
        ranks[1].write_exit(1, "Traceback:\\nValueError: " + value)
        ranks[0].write_phase("waiting for rank 1")
        sys.exit(1)
    elif what == "exit":
        sys.exit(int(value))
    elif what == "refuse":
        ranks[1].write_exit(2, "a value is wrong")
        sys.exit(247)
    elif what == "taken":
        ranks[0].write_exit(77, "the port is taken")
        sys.exit(77)
    elif what == "leave":
        while not (run / "leave").exists():
            time.sleep(0.05)
    elif what == "wait":
        time.sleep(float(value))
    elif what == "stay":
        time.sleep({stay})
"""
STAY_SECONDS = 600.0


@pytest.fixture
def commands(tmp_path: Path) -> Callable[[], list[str]]:
    return lambda: (tmp_path / "bin" / "commands").read_text().splitlines()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path / "run")


@pytest.fixture
def train(
    tmp_path: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Train with a launcher whose starts act in turn as the text says; the last act is repeated."""
    launcher = tmp_path / "bin" / "deepspeed"
    launcher.parent.mkdir()
    acting = launcher.with_suffix(".py")
    acting.write_text(LAUNCHER.format(repository=str(REPOSITORY), stay=STAY_SECONDS))
    words = shlex.join([sys.executable, str(acting)])  # a #! line can hold no path with a space
    launcher.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(launcher.with_name("python")))
    monkeypatch.setattr(supervisor, "FIRST_WAIT_SECONDS", 0.01)

    def with_acts(acts: str, *overrides: str) -> None:
        launcher.with_name("acts").write_text(acts)
        run_with_restarts(prepare(DEMO, overrides).resolved, overrides, run)

    return with_acts


def test_a_crash_is_started_again_from_the_newest_checkpoint(
    train: Callable[..., None],
    run: RunDirectory,
    commands: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    train("checkpoint=epoch-0003 exit=247; finish")
    first, second = commands()
    assert "checkpoint.resume" not in first
    assert second.endswith(f" checkpoint.resume={run.path}")
    said = capfd.readouterr().err
    assert "died first: it was killed by SIGKILL while computing step 7" in said
    assert "starting again from epoch-0003 in " in said
    assert not (run.path / "ranks").exists()


def test_a_crash_before_the_first_checkpoint_begins_anew_in_the_same_folder(
    train: Callable[..., None], run: RunDirectory, commands: Callable[[], list[str]]
) -> None:
    train("exit=250; finish")
    changing = r" --(start|master_port) \S+"
    first, second = (re.sub(changing, "", command) for command in commands())
    assert first == second and f"--run {run.path}" in second


def test_a_launcher_that_was_killed_is_no_success(
    train: Callable[..., None],
    commands: Callable[[], list[str]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """DeepSpeed's exit code is 0 then."""
    train("exit=0; finish")
    assert len(commands()) == 2
    assert "all 2 ranks ended with their launcher, which was killed" in capfd.readouterr().err


def test_what_the_user_has_to_put_right_is_not_started_again(
    train: Callable[..., None], run: RunDirectory, commands: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError, match="exit code 2; the lines above say why$"):
        train("exit=2")
    assert len(commands()) == 1
    assert not run.path.exists()


def test_a_rank_that_refuses_is_heard_through_another_ones_exit_code(
    train: Callable[..., None], commands: Callable[[], list[str]]
) -> None:
    """Over several hosts the launcher's is the largest of theirs."""
    with pytest.raises(LaunchError, match="exit code 2; the lines above say why"):
        train("refuse")
    assert len(commands()) == 1


@pytest.mark.parametrize("saving", ["checkpoint=epoch-0002 ", ""])
def test_only_a_checkpoint_of_its_own_is_offered_after_an_error(
    train: Callable[..., None], run: RunDirectory, saving: str
) -> None:
    """A run that failed before it saved anything may have failed because of the checkpoint that it started from."""
    (run.checkpoints / "epoch-0001").mkdir(parents=True)
    with pytest.raises(LaunchError) as raised:
        train(f"{saving}exit=2")
    assert ("resumes from epoch-0002" in str(raised.value)) == bool(saving)
    assert ("resumes" in str(raised.value)) == bool(saving)


def test_what_crashes_again_and_again_ends_with_the_last_words_of_who_died_first(
    train: Callable[..., None], run: RunDirectory, commands: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError) as raised:
        train("raise=one; raise=two; raise=three; raise=four", "cluster.restarts=2")
    assert len(commands()) == 3
    text = str(raised.value)
    assert "rank 1 (" in text and "it ended with exit code 1 while computing step 7" in text
    assert "    ValueError: three\n" in text
    assert "Started again 2 times without a new checkpoint (cluster.restarts)" in text
    assert f"{run.path} has no checkpoint to resume from" in text


def test_starts_are_counted_anew_after_a_checkpoint(
    train: Callable[..., None], commands: Callable[[], list[str]]
) -> None:
    train("exit=247; checkpoint=epoch-0001 exit=247; finish", "cluster.restarts=1")
    assert len(commands()) == 3


def test_the_same_exception_twice_is_no_fault_that_passes(
    train: Callable[..., None], commands: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError, match=r"(?s)ValueError: always.*It did so twice"):
        train("raise=always")
    assert len(commands()) == 2


def test_nothing_is_started_again_where_the_recipe_says_so(
    train: Callable[..., None], commands: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError, match="killed by SIGSEGV"):
        train("exit=245", "cluster.restarts=0")
    assert len(commands()) == 1


def port_of(command: str) -> int:
    return int(command.split("--master_port ")[1].split()[0])


def test_a_taken_port_is_left_for_the_next_at_once_and_is_no_failure(
    train: Callable[..., None], commands: Callable[[], list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    train("taken; taken; finish", "cluster.restarts=0")
    ports = [port_of(command) for command in commands()]
    assert ports == sorted(set(ports)) and len(ports) == 3
    assert f"port {ports[0]} is taken on the first host; starting again" in capfd.readouterr().err


def test_a_port_that_the_recipe_states_is_not_exchanged(
    train: Callable[..., None], commands: Callable[[], list[str]]
) -> None:
    with pytest.raises(LaunchError, match="29876 is taken on the first host; set another"):
        train("taken", "cluster.master_port=29876")
    assert len(commands()) == 1


def test_where_all_ports_are_taken_it_ends(
    train: Callable[..., None],
    commands: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "MOST_PORTS", 3)
    with pytest.raises(LaunchError, match="3 ports up to [0-9]+ were taken"):
        train("taken")
    assert len(commands()) == 3


def test_hangup_stays_ignored_under_nohup(
    train: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGHUP)).start()
        train("wait=1 finish")
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_asks_the_ranks_to_leave_and_says_how_to_go_on(
    train: Callable[..., None], run: RunDirectory, number: signal.Signals
) -> None:
    (run.path).mkdir()
    (run.path / "leave").touch()  # of an earlier time, which nobody may obey
    threading.Timer(1.5, os.kill, (os.getpid(), number)).start()
    with pytest.raises(StoppedWithCheckpoint) as raised:
        train("leave checkpoint=epoch-0001 exit=75")
    assert raised.value.exit_code == 75
    assert str(raised.value) == (
        f"stopped with a checkpoint after {number.name}; the same command with checkpoint.resume={run.path} resumes from epoch-0001"
    )
    assert not (run.path / "leave").exists()


def test_a_second_ctrl_c_stops_at_once(train: Callable[..., None], run: RunDirectory) -> None:
    for seconds in (1.0, 1.5):
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(
        StoppedWithoutCheckpoint, match="stopped; .* no checkpoint to resume from"
    ) as raised:
        train("stay")
    assert time.monotonic() - started < STAY_SECONDS / 10
    assert raised.value.exit_code == 130


def test_who_does_not_leave_in_time_is_stopped(
    train: Callable[..., None], run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "SHUTDOWN_SECONDS", 0.5)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    started = time.monotonic()
    with pytest.raises(StoppedWithoutCheckpoint):
        train("stay", "checkpoint.leave_seconds=1")
    assert 2.0 < time.monotonic() - started < STAY_SECONDS / 10


# --- the real launcher -------------------------------------------------------------------------------------------


def started_by(process: Process, tmp_path: Path) -> dict[str, psutil.Process]:
    """The processes of a run that has a checkpoint: launcher, its helper on this host, and rank 1."""
    latest = tmp_path / "runs" / "demo" / "latest"
    wait_until(process, lambda: RunDirectory(latest).newest_checkpoint is not None)
    (runner,) = psutil.Process(process.pid).children()
    (helper,) = runner.children()
    first, second = sorted(helper.children(), key=lambda rank: rank.pid)
    return {"launcher": runner, "helper": helper, "first": first, "rank": second}


@pytest.mark.slow
@pytest.mark.launcher
@pytest.mark.parametrize("killed", ["rank", "helper"])
def test_a_killed_process_costs_a_start_and_nothing_is_left_of_the_one_before(
    start_anew: Start, tmp_path: Path, killed: str
) -> None:
    process = start_anew("recipes/demo.yaml", "train.epochs=12", "evaluation.every_epochs=12")
    processes = started_by(process, tmp_path)
    processes[killed].kill()
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output[-3000:]
    died = {
        # On a machine that is busy the other rank may be first to say that this one is missing.
        "rank": r"yolo: (ranks were lost: missing: )?rank 1 \(\S+\)(, silent| died first: it (was killed by SIGKILL|fell silent))",
        "helper": r"yolo: all 2 ranks ended with their launcher, which was killed",
    }
    assert re.search(died[killed], output), output[-3000:]
    assert re.search(r"starting again from epoch-\d+", output)
    assert not any(each.is_running() for each in processes.values())
    assert (tmp_path / "runs" / "demo" / "latest" / "finished").exists()


@pytest.mark.slow
@pytest.mark.launcher
def test_nothing_outlives_a_supervisor_that_was_killed(start_anew: Start, tmp_path: Path) -> None:
    process = start_anew("recipes/demo.yaml", "train.epochs=500", "evaluation.every_epochs=500")
    processes = started_by(process, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(processes.values(), timeout=20)
    assert not alive


def test_ranks_under_slurm_do_not_look_for_yolo_train(small_demo: Path, tmp_path: Path) -> None:
    """They are slurmstepd's descendants, and end with srun."""
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\nexit 3\n")
    srun.chmod(0o755)
    settings = ("cluster.launcher=slurm", "cluster.restarts=0", "cluster.processes_per_node=1")
    ran = subprocess.run(
        train_command(small_demo, str(DEMO), *settings),
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert "the launcher ended with exit code 3 before any rank began" in ran.stderr
    variables = (tmp_path / "environment").read_text()
    assert "MASTER_PORT=" in variables and SUPERVISOR not in variables
