"""Build and run the `deepspeed` launcher's command for a recipe. Needs no torch."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import LaunchError
from yolo.recipe import ResolvedRecipe
from yolo.recipe.machine import count_gpus
from yolo.training.run_directory import RunDirectory


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
    process = subprocess.Popen(launch.command, env=os.environ | dict(launch.environment))
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal has told the launcher as well, and it stops the ranks
        process.wait()
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
