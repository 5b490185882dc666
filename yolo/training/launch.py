"""Build and run the `deepspeed` launcher's command for a recipe. Needs no torch."""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from yolo.errors import LaunchError
from yolo.recipe import ResolvedRecipe
from yolo.recipe.machine import free_port, visible_gpus
from yolo.recipe.needs import missing_hosts
from yolo.recipe.sections.cluster import ClusterSection
from yolo.training.run_directory import RunDirectory, how_to_go_on

DEFAULT_PORT = 29500
"""The deepspeed launcher's own."""
STOP_SECONDS = 10.0
"""For the launcher and the ranks to end when asked, before they are made to."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and what is added to its environment."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        return shlex.join((*(f"{name}={value}" for name, value in self.environment), *self.command))


def launch_of(
    resolved: ResolvedRecipe, recipe: Path, overrides: Sequence[str], run: RunDirectory
) -> Launch:
    """The launcher's command for a recipe: `deepspeed ... --module yolo.train --recipe ...`.

    Raises LaunchError where this machine lacks what the recipe asks for.
    """
    arguments = ["--recipe", str(recipe), "--run", str(run.path), *overrides]
    return launch_module(resolved, "yolo.train", arguments)


def launch_module(resolved: ResolvedRecipe, module: str, arguments: Sequence[str]) -> Launch:
    """The launcher's command for a module of this package, on the machines that a recipe names.

    Raises LaunchError where this machine lacks what the recipe asks for.
    """
    cluster = resolved.recipe.cluster
    launcher = Path(sys.executable).with_name("deepspeed")
    options = [
        "--log_level",
        "error",
        *(_several_nodes if cluster.nodes > 1 else _one_node)(cluster),
    ]
    environment = [("OMP_NUM_THREADS", str(cluster.threads_per_process))]
    if not visible_gpus():
        environment.append(("DS_ACCELERATOR", "cpu"))
    command = (str(launcher), *options, "--module", module, *arguments)
    return Launch(command, tuple(environment))


def _one_node(cluster: ClusterSection) -> list[str]:
    assert cluster.processes_per_node != "auto"
    processes, gpus = cluster.processes_per_node, visible_gpus()
    port = free_port(DEFAULT_PORT) if cluster.master_port == "auto" else cluster.master_port
    options = ["--master_port", str(port)]
    if gpus and processes > len(gpus):
        raise LaunchError(
            f"cluster.processes_per_node {processes}: this machine has {len(gpus)} GPUs to use; expected as many or fewer"
        )
    if not gpus or "CUDA_VISIBLE_DEVICES" not in os.environ:
        return ["--num_accelerators", str(processes), *options]
    # Given a number, the launcher would forget the variable and take the machine's first GPUs.
    if not all(gpu.isdecimal() for gpu in gpus):
        raise LaunchError(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}: the deepspeed launcher reads GPUs' numbers only; "
            "expected such as 0,1"
        )
    return ["--include", f"localhost:{','.join(gpus[:processes])}", *options]


def _several_nodes(cluster: ClusterSection) -> list[str]:
    if lack := missing_hosts(cluster):
        raise LaunchError(lack)
    assert cluster.hostfile is not None
    port = DEFAULT_PORT if cluster.master_port == "auto" else cluster.master_port
    return [
        *("--hostfile", cluster.hostfile, "--num_nodes", str(cluster.nodes)),
        *("--num_accelerators", str(cluster.processes_per_node), "--master_port", str(port)),
    ]


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
    checkpoint_before = run.newest_checkpoint
    # Who asks this process to end means the run: SIGTERM is answered as Ctrl-C is.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
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
        raise LaunchError(f"stopped; {how_to_go_on(run)}") from None
    finally:
        signal.signal(signal.SIGTERM, before)
    if code != 0:
        # After a checkpoint that was refused, going on from it is no advice.
        has_new = run.newest_checkpoint != checkpoint_before
        advice = f". Then {how_to_go_on(run)}" if has_new else ""
        raise LaunchError(f"training ended with exit code {code}; the lines above say why{advice}")
    if not run.finished.exists():
        raise LaunchError(
            f"the launcher ended without an error, but the run did not reach its end: {run.finished} is missing; "
            f"its processes were probably killed (out of memory?). {how_to_go_on(run)}"
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
