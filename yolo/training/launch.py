"""Build and run the `deepspeed` launcher's command for a recipe. Needs no torch."""

import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from yolo.errors import LaunchError
from yolo.recipe import ResolvedRecipe
from yolo.recipe.machine import count_gpus
from yolo.training.run_directory import RunDirectory

STOP_SECONDS = 10.0
"""For the launcher and the ranks to end when asked, before they are made to."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and what is added to its environment."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return " ".join((*(f"{name}={value}" for name, value in self.environment), *self.command))


def launch_of(
    resolved: ResolvedRecipe, recipe: Path, overrides: Sequence[str], run: RunDirectory
) -> Launch:
    """The launcher's command for a recipe: `deepspeed ... --module yolo.train --recipe ...`."""
    cluster = resolved.recipe.cluster
    launcher = Path(sys.executable).with_name("deepspeed")
    options = ["--log_level", "error", "--num_accelerators", str(cluster.processes_per_node)]
    options += ["--master_port", str(cluster.master_port)]
    if cluster.nodes > 1 and cluster.hostfile is not None:
        options += ["--hostfile", cluster.hostfile, "--num_nodes", str(cluster.nodes)]
    arguments = ["--recipe", str(recipe), "--run", str(run.path), *overrides]
    environment = [("OMP_NUM_THREADS", str(cluster.threads_per_process))]
    if count_gpus() == 0:
        environment.append(("DS_ACCELERATOR", "cpu"))
    command = (str(launcher), *options, "--module", "yolo.train", *arguments)
    return Launch(command, tuple(environment))


def run_to_the_end(launch: Launch, run: RunDirectory) -> None:
    """Run the launcher until it ends.

    Raises LaunchError unless the run reached its end: the launcher's exit code is 0 even after its helper was killed,
    so the run's own `finished` marker is asked.
    """
    launcher = Path(launch.command[0])
    if not launcher.exists():
        raise LaunchError(
            f"{launcher}: no such program; `make setup` installs DeepSpeed's launcher"
        )
    # A terminal sends Ctrl-C to all processes at once, and the launcher would answer it with a traceback.
    process = psutil.Popen(
        launch.command,
        env=os.environ | dict(launch.environment),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        _stop_all(process)
        raise LaunchError(
            f"stopped. `checkpoint.resume=auto` goes on from the last checkpoint, if {run.path} has one"
        ) from None
    if code != 0:
        raise LaunchError(
            f"training ended with exit code {code}; the lines above say why. "
            f"`checkpoint.resume=auto` goes on from the last checkpoint, if {run.path} has one"
        )
    if not run.finished.exists():
        raise LaunchError(
            f"the launcher ended without an error, but the run did not reach its end: {run.finished} is missing; "
            "its processes were probably killed (out of memory?). `checkpoint.resume=auto` goes on"
        )


def _stop_all(launcher: psutil.Popen) -> None:
    """End the launcher and all that it started."""
    processes = [launcher, *launcher.children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
