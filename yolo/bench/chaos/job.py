"""A small run on an emulated cluster, started as a user would, and what is left of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from safetensors import safe_open

from yolo.emulation.cluster import REPOSITORY, EmulatedCluster
from yolo.errors import BenchError
from yolo.training.checkpointing.atomic_dir import verify
from yolo.training.checkpointing.run_directory import RunDirectory

RUN_SECONDS = 600.0
"""Longest wait for a run to end."""
POLL_SECONDS = 0.05
RECIPE = REPOSITORY / "recipes" / "demo.yaml"


@dataclass(slots=True)
class ChaosRun:
    """What is trained: a recipe with overrides, on all hosts of a cluster, in a folder that holds `runs`."""

    cluster: EmulatedCluster
    folder: Path
    overrides: tuple[str, ...]
    environment: Mapping[str, str]
    recipe: Path = RECIPE
    _alone: dict[int, "Started"] = field(default_factory=dict)

    def left_alone(self, seed: int = 0, seconds: float = RUN_SECONDS) -> "Started":
        """The run with a `train.seed` that nothing happens to, made where it is first asked for."""
        if seed not in self._alone:
            alone = self.start(f"alone-{seed}", f"train.seed={seed}")
            alone.wait(seconds)
            if alone.run is None or not alone.run.finished.exists():
                raise BenchError(f"the run that is left alone failed: {alone.said[-3000:]}")
            self._alone[seed] = alone
        return self._alone[seed]

    def expected_weights(self) -> dict[str, bytes]:
        """Those of the run that is left alone."""
        return self.left_alone().weights()

    def start(self, name: str, *further: str, added: Mapping[str, str] | None = None) -> "Started":
        """Start `yolo train` on the first host; what it prints goes to `<folder>/<name>.log`, on no disk that a fault fills."""
        resume = f"checkpoint.resume={'auto' if (self.folder / name).exists() else 'never'}"
        work = self.folder / name
        work.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "yolo", "train", str(self.recipe)),
            *(*self.overrides, f"cluster.nodes={len(self.cluster.hosts)}"),
            *("cluster.hostfile=/dev/shm/hostfile", "cluster.processes_per_node=1", resume),
            "cluster.threads_per_process=1",  # each host takes the machine's cores for its own
            *further,
        ]
        log = self.folder / f"{name}.log"
        with log.open("ab") as file:
            process = self.cluster.hosts[0].run(
                command,
                {**self.environment, **(added or {})},
                folder=work,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        return Started(process, work, log)


@dataclass(slots=True)
class Started:
    """A run that was started, its processes and its folder."""

    process: "subprocess.Popen[bytes]"
    work: Path
    log: Path

    @property
    def run(self) -> RunDirectory | None:
        """The run's folder, once there is one."""
        runs = [path for path in self.work.glob("runs/*/*/") if not path.is_symlink()]
        return RunDirectory(runs[0]) if runs else None

    @property
    def said(self) -> str:
        """What was printed so far."""
        return self.log.read_text(errors="replace").replace("\r", "\n")

    @property
    def is_over(self) -> bool:
        """Whether `yolo train` has ended."""
        return self.process.poll() is not None

    def wait(self, seconds: float = RUN_SECONDS) -> None:
        """Until `yolo train` has ended; it is killed after so many."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for_a_checkpoint(self) -> None:
        """Until the run has one that is whole, or is over."""
        end = time.monotonic() + RUN_SECONDS
        while not self.whole_checkpoints() and not self.is_over and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def victims(self) -> dict[str, list[psutil.Process]]:
        """The processes at hand that may be killed, by what they are: ranks, their workers, the launcher's parts."""
        found: dict[str, list[psutil.Process]] = {}
        for process in processes_of(self.work):
            try:
                words, parent = process.cmdline(), process.parent()
                above = parent.cmdline() if parent else []
            except psutil.Error:
                continue
            if "yolo.train" not in words:
                continue
            rank = next((w for w in words if w.startswith("--local_rank")), None)
            if rank is None:
                kind = "launcher"  # `deepspeed` itself, and what it reaches the hosts with
            elif "deepspeed.launcher.launch" in words:
                kind = "launcher on a host"
            elif "deepspeed.launcher.launch" in above:
                kind = "rank"
            else:
                kind = "worker of a rank"
            found.setdefault(kind, []).append(process)
        return found

    def weights(self) -> dict[str, bytes]:
        """The final averaged weights, as bytes by name."""
        run = self.run
        assert run is not None
        with safe_open(run.last_weights, framework="numpy") as file:
            return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118

    def whole_checkpoints(self) -> set[str]:
        """Names of the checkpoints that are what was written."""
        run = self.run
        if run is None:
            return set()
        return {folder.name for folder in run.published() if verify(folder) is None}


def processes_of(work: Path) -> list[psutil.Process]:
    """Whatever runs with a folder as its working folder, on any of the hosts."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(work) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kill(process: psutil.Process) -> bool:
    """SIGKILL; whether there was anything left to kill."""
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
