"""Build the command that starts a recipe's ranks: the `deepspeed` launcher's, mpiexec's or srun's. Needs no torch."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import LaunchError
from yolo.launch.mpi import MPICH_SSH_OPTIONS, launcher_of, mpi_command
from yolo.preflight.local import listed_hosts, missing_backend, missing_hosts
from yolo.recipe import ResolvedRecipe
from yolo.recipe.resolve.hardware import visible_gpus
from yolo.recipe.resolve.hostfile import ListedHost
from yolo.recipe.schema.recipe import Recipe, ResolvedCluster
from yolo.training.checkpointing.run_directory import RunDirectory

SSH_OPTIONS = "PDSH_SSH_ARGS_APPEND"
"""Environment variable with which pdsh passes options to ssh."""
KEEPALIVE_COUNT = 3
"""Unanswered keepalive messages after which ssh disconnects."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command with its additional environment variables."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    port: int
    """The ranks' MASTER_PORT."""
    stop_command: tuple[str, ...] = ()
    """Ends what pdsh started on the hosts; empty if the command's own end does that."""

    def __str__(self) -> str:
        return shlex.join((*(f"{name}={value}" for name, value in self.environment), *self.command))


def launch_training(
    resolved: ResolvedRecipe,
    overrides: Sequence[str],
    run: RunDirectory,
    port: int,
    token: str | None = None,
) -> Launch:
    """Build the command that trains a recipe, loaded with these overrides: `deepspeed ... --module yolo.train --recipe ...`.

    The ranks meet at `port`; `token` identifies this start (`FencingToken`). Raises LaunchError if this machine lacks what
    the recipe needs.
    """
    start = ["--start", token] if token else []
    cluster = resolved.recipe.cluster
    # If DS_ACCELERATOR of this machine decided it, the hosts do not know.
    is_told = cluster.hostfile is None or resolved.is_set(("cluster", "accelerator"))
    here = [] if is_told else [f"cluster.accelerator={cluster.accelerator}"]
    arguments = ["--recipe", str(resolved.loaded.path), "--run", str(run.path)]
    arguments += [*start, *here, *overrides]
    return launch_module(resolved, "yolo.train", arguments, port, token)


def launch_module(
    resolved: ResolvedRecipe,
    module: str,
    arguments: Sequence[str],
    port: int,
    token: str | None = None,
) -> Launch:
    """Build the command that runs a module of this package on the recipe's machines; its ranks meet at `port`.

    `token` stands in the arguments of this start alone. Raises LaunchError if this machine lacks what the recipe needs.
    """
    recipe, cluster = resolved.recipe, resolved.recipe.cluster
    environment = [("OMP_NUM_THREADS", str(cluster.threads_per_process))]
    if lack := missing_hosts(cluster) or missing_backend(cluster):
        raise LaunchError(lack)
    launcher = launcher_of(cluster)
    if launcher != "pdsh":
        return _without_deepspeed(recipe, launcher, environment, [module, *arguments], port)
    stop_command: tuple[str, ...] = ()
    if cluster.hostfile is not None:
        stop_command = _stop_command(cluster, token or f"--master_port={port} ")
        options = [
            *("--hostfile", cluster.hostfile, "--num_nodes", str(cluster.nodes)),
            *("--num_accelerators", str(cluster.processes_per_node)),
            # With one host, the launcher would start its ranks on this machine instead.
            "--force_multi",
        ]
        arguments = [_quote_for_hosts(argument) for argument in arguments]
        # The launcher chooses by it which variables it hands to the hosts, whatever this machine has.
        environment.append(("DS_ACCELERATOR", cluster.accelerator))
        environment.append((SSH_OPTIONS, _ssh_options(recipe)))
    else:
        options = _one_node(cluster)
        if cluster.accelerator == "cpu":
            environment.append(("DS_ACCELERATOR", "cpu"))
    options += ["--master_port", str(port)]
    program = str(Path(sys.executable).with_name("deepspeed"))
    command = (program, "--log_level", "error", *options, "--module", module, *arguments)
    return Launch(command, tuple(environment), port, stop_command)


def _stop_command(cluster: ResolvedCluster, mark: str) -> tuple[str, ...]:
    """End the launchers on the hosts whose command line contains `mark`, and with them their ranks.

    On SIGTERM, DeepSpeed 0.19.8 would end all its launchers there, of any run (multinode_runner.py, PDSHRunner.get_cmd).
    """
    hosts = ",".join(host.name for host in listed_hosts(cluster))
    pattern = f"[d]eepspeed.launcher.launch .*{mark}"  # not the command line of pkill's own shell
    command = f"pkill -f {shlex.quote(pattern)}"
    return ("env", "PDSH_RCMD_TYPE=ssh", "pdsh", "-S", "-f", "1024", "-w", hosts, command)


def _without_deepspeed(
    recipe: Recipe,
    launcher: str,
    environment: list[tuple[str, str]],
    arguments: Sequence[str],
    port: int,
) -> Launch:
    """The command of mpiexec or srun; each rank has a parent of its own (`yolo.launch.rank`)."""
    cluster = recipe.cluster
    environment += [("DS_ACCELERATOR", cluster.accelerator), ("MASTER_PORT", str(port))]
    hosts: list[ListedHost] = []
    if launcher != "slurm" and cluster.hostfile is not None:
        hosts = listed_hosts(cluster)
        if launcher == "mpich":
            environment.append((MPICH_SSH_OPTIONS, _keepalive(recipe)))
    elif launcher != "slurm" and cluster.accelerator == "cuda":
        _check_gpus(cluster)
    rank = [sys.executable, "-u", "-m", "yolo.launch.rank", *arguments]
    command = mpi_command(cluster, launcher, hosts, environment, rank)
    return Launch(command, tuple(environment), port)


def _check_gpus(cluster: ResolvedCluster) -> tuple[str, ...]:
    """This machine's GPUs. Raises LaunchError if there are fewer than processes."""
    gpus, processes = visible_gpus(), cluster.processes_per_node
    if processes > len(gpus):
        raise LaunchError(
            f"cluster.processes_per_node {processes}: this machine has {len(gpus)} GPUs to use; expected as many or fewer"
        )
    return gpus


def _one_node(cluster: ResolvedCluster) -> list[str]:
    processes = cluster.processes_per_node
    if cluster.accelerator == "cpu":
        return ["--num_accelerators", str(processes)]
    gpus = _check_gpus(cluster)
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return ["--num_accelerators", str(processes)]
    # With --num_accelerators the launcher would ignore CUDA_VISIBLE_DEVICES and take the machine's first GPUs.
    if not all(gpu.isdecimal() for gpu in gpus):
        raise LaunchError(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}: the deepspeed launcher reads GPUs' numbers only; "
            "expected such as 0,1"
        )
    return ["--include", f"localhost:{','.join(gpus[:processes])}"]


def _ssh_options(recipe: Recipe) -> str:
    return f"{os.environ.get(SSH_OPTIONS, '')} {_keepalive(recipe)}".strip()


def _keepalive(recipe: Recipe) -> str:
    """Options that make ssh disconnect from a lost host about when the ranks time out, not never."""
    seconds = max(1, round(recipe.communication.timeout_seconds / (KEEPALIVE_COUNT + 1)))
    return f"-o ServerAliveInterval={seconds} -o ServerAliveCountMax={KEEPALIVE_COUNT}"


def _quote_for_hosts(argument: str) -> str:
    """Quote an argument so that the shell of each host passes it on unchanged.

    DeepSpeed joins arguments with spaces. It puts an argument with a space into double quotes, and escapes only double
    quotes in it (multinode_runner.py, PDSHRunner.parse_user_args).
    """
    if " " not in argument:
        return shlex.quote(argument)
    return re.sub(r"([\\$`])", r"\\\1", argument)
