"""Start a small run on an emulated cluster with `yolo train`, and look at its processes and checkpoints."""

import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from safetensors.numpy import load_file

from yolo.emulation.cluster import REPOSITORY, EmulatedCluster
from yolo.errors import BenchError
from yolo.training.checkpointing.atomic_dir import PART, verify
from yolo.training.checkpointing.run_directory import RunDirectory

RUN_SECONDS = 600.0
"""Longest wait for a run to end."""
POLL_SECONDS = 0.05
RECIPE = REPOSITORY / "recipes" / "demo.yaml"


@dataclass(slots=True)
class ChaosJob:
    """A recipe with overrides, trained on all hosts of a cluster, in a folder that holds `runs`."""

    cluster: EmulatedCluster
    folder: Path
    overrides: tuple[str, ...]
    environment: Mapping[str, str]
    recipe: Path = RECIPE
    _began: float = field(default_factory=time.monotonic)
    _undisturbed: dict[int, "StartedRun"] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Seconds since the benchmark began."""
        return time.monotonic() - self._began

    def log(self, text: str) -> None:
        """Print a line with its time."""
        print(f"{self.seconds:6.1f} s  {text}", flush=True)

    def undisturbed(self, seed: int = 0, seconds: float = RUN_SECONDS) -> "StartedRun":
        """The run with a `train.seed` and without faults, trained at the first request."""
        if seed not in self._undisturbed:
            started = self.start(f"undisturbed-{seed}", f"train.seed={seed}")
            started.wait(seconds)
            if not started.is_finished:
                raise BenchError(f"the undisturbed run failed: {started.output[-3000:]}")
            self._undisturbed[seed] = started
        return self._undisturbed[seed]

    def ends_as_undisturbed(self, started: "StartedRun") -> bool:
        """Whether a run reached its end with the weights of the undisturbed one."""
        return started.is_finished and started.weights() == self.undisturbed().weights()

    def start(self, name: str, *further: str, **added: str) -> "StartedRun":
        """Start `yolo train` on the first host; its output goes to `<folder>/<name>.log`, which no fault's disk holds.

        `added`: to the environment.
        """
        work = self.folder / name
        resume = f"checkpoint.resume={'auto' if work.exists() else 'never'}"
        work.mkdir(parents=True, exist_ok=True)
        command = [
            *(sys.executable, "-m", "yolo", "train", str(self.recipe)),
            *(*self.overrides, f"cluster.nodes={len(self.cluster.hosts)}"),
            *("cluster.hostfile=/dev/shm/hostfile", "cluster.processes_per_node=1", resume),
            "cluster.threads_per_process=1",  # each host counts all of the machine's cores
            *further,
        ]
        log = self.folder / f"{name}.log"
        environment = {**self.environment, **added}
        with log.open("ab") as file:
            process = self.cluster.hosts[0].run(
                command, environment, work, stdout=file, stderr=subprocess.STDOUT
            )
        return StartedRun(process, work, log)


@dataclass(slots=True)
class StartedRun:
    """A run that was started: its processes and its folder."""

    process: "subprocess.Popen[bytes]"
    work: Path
    log: Path

    @property
    def run(self) -> RunDirectory | None:
        """The run's folder, once there is one."""
        runs = [path for path in self.work.glob("runs/*/*/") if not path.is_symlink()]
        return RunDirectory(runs[0]) if runs else None

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(errors="replace").replace("\r", "\n")

    @property
    def is_over(self) -> bool:
        """Whether `yolo train` has ended."""
        return self.process.poll() is not None

    @property
    def is_finished(self) -> bool:
        """Whether the training reached its end."""
        return self.run is not None and self.run.finished.exists()

    def wait(self, seconds: float = RUN_SECONDS) -> None:
        """Wait until `yolo train` has ended; kill it after `seconds`."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for_a_checkpoint(self) -> None:
        """Wait until the run has a valid one, or is over."""
        end = time.monotonic() + RUN_SECONDS
        while not self.valid_checkpoints() and not self.is_over and time.monotonic() < end:
            time.sleep(POLL_SECONDS)

    def victims(self) -> dict[str, list[psutil.Process]]:
        """The processes that may be killed, by kind: ranks, their workers, the launcher's parts."""
        found: dict[str, list[psutil.Process]] = {}
        for process in processes_in(self.work):
            try:
                arguments, parent = process.cmdline(), process.parent()
                above = parent.cmdline() if parent else []
            except psutil.Error:
                continue
            if "yolo.train" not in arguments:
                continue
            if not any(each.startswith("--local_rank") for each in arguments):
                kind = "launcher"  # `deepspeed` itself, and its pdsh and ssh
            elif "deepspeed.launcher.launch" in arguments:
                kind = "launcher on a host"
            else:
                kind = "rank" if "deepspeed.launcher.launch" in above else "worker of a rank"
            found.setdefault(kind, []).append(process)
        return found

    def weights(self) -> dict[str, bytes]:
        """The final averaged weights, as bytes by name."""
        assert self.run is not None
        return {name: w.tobytes() for name, w in load_file(self.run.last_weights).items()}

    def valid_checkpoints(self) -> set[str]:
        """Names of the checkpoints that are complete and undamaged."""
        checkpoints = self.run.published() if self.run else ()
        return {folder.name for folder in checkpoints if verify(folder) is None}

    def unfinished_checkpoints(self) -> list[Path]:
        """Folders of checkpoints that are being written."""
        return list(self.run.checkpoints.glob(f".*{PART}")) if self.run else []


def processes_in(work: Path) -> list[psutil.Process]:
    """All processes with this working folder, on any host."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(work) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
