"""Build the `deepspeed` launcher's command for a recipe. Needs no torch."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo.errors import LaunchError
from yolo.preflight.local import missing_hosts, unfit_hosts
from yolo.recipe import ResolvedRecipe
from yolo.recipe.resolve.hardware import free_port, visible_gpus
from yolo.recipe.schema.recipe import Recipe, ResolvedCluster
from yolo.training.checkpointing.run_directory import RunDirectory

DEFAULT_PORT = 29500
"""The deepspeed launcher's own default."""
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

    def __str__(self) -> str:
        return shlex.join((*(f"{name}={value}" for name, value in self.environment), *self.command))


def launch_training(
    resolved: ResolvedRecipe,
    overrides: Sequence[str],
    run: RunDirectory,
    hostfile: Path | None = None,
    earlier_starts: int = 0,
    token: str | None = None,
) -> Launch:
    """Build the command that trains a recipe, loaded with these overrides: `deepspeed ... --module yolo.train --recipe ...`.

    `hostfile` replaces the recipe's if not all of its hosts answer; `token` identifies this start (`FencingToken`).
    Raises LaunchError if this machine lacks what the recipe needs.
    """
    start = ["--start", token] if token else []
    arguments = ["--recipe", str(resolved.loaded.path), "--run", str(run.path), *start, *overrides]
    return launch_module(resolved, "yolo.train", arguments, hostfile, earlier_starts)


def launch_module(
    resolved: ResolvedRecipe,
    module: str,
    arguments: Sequence[str],
    hostfile: Path | None = None,
    earlier_starts: int = 0,
) -> Launch:
    """Build the command that runs a module of this package on the recipe's machines.

    Raises LaunchError if this machine lacks what the recipe needs.
    """
    recipe = resolved.recipe
    launcher = Path(sys.executable).with_name("deepspeed")
    environment = [("OMP_NUM_THREADS", str(recipe.cluster.threads_per_process))]
    if not visible_gpus():
        environment.append(("DS_ACCELERATOR", "cpu"))
    if recipe.cluster.nodes > 1 or hostfile is not None:
        port, options = _several_nodes(recipe.cluster, hostfile, earlier_starts)
        arguments = [_quote_for_hosts(argument) for argument in arguments]
        environment.append((SSH_OPTIONS, _ssh_options(recipe)))
    else:
        port, options = _one_node(recipe.cluster)
    options += ["--master_port", str(port)]
    command = (str(launcher), "--log_level", "error", *options, "--module", module, *arguments)
    return Launch(command, tuple(environment), port)


def _one_node(cluster: ResolvedCluster) -> tuple[int, list[str]]:
    processes, gpus = cluster.processes_per_node, visible_gpus()
    port = free_port(DEFAULT_PORT) if cluster.master_port == "auto" else cluster.master_port
    if gpus and processes > len(gpus):
        raise LaunchError(
            f"cluster.processes_per_node {processes}: this machine has {len(gpus)} GPUs to use; expected as many or fewer"
        )
    if not gpus or "CUDA_VISIBLE_DEVICES" not in os.environ:
        return port, ["--num_accelerators", str(processes)]
    # With --num_accelerators the launcher would ignore CUDA_VISIBLE_DEVICES and take the machine's first GPUs.
    if not all(gpu.isdecimal() for gpu in gpus):
        raise LaunchError(
            f"CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}: the deepspeed launcher reads GPUs' numbers only; "
            "expected such as 0,1"
        )
    return port, ["--include", f"localhost:{','.join(gpus[:processes])}"]


def _several_nodes(
    cluster: ResolvedCluster, hostfile: Path | None, earlier_starts: int
) -> tuple[int, list[str]]:
    if hostfile is None and (lack := missing_hosts(cluster) or "\n".join(unfit_hosts(cluster))):
        raise LaunchError(lack)
    # Ranks of the previous start may still hold its port on a host that lost its connection.
    port = DEFAULT_PORT + earlier_starts if cluster.master_port == "auto" else cluster.master_port
    return port, [
        *("--hostfile", str(hostfile or cluster.hostfile), "--num_nodes", str(cluster.nodes)),
        *("--num_accelerators", str(cluster.processes_per_node)),
        # With one reachable host, the launcher would start its ranks on this machine instead.
        *(["--force_multi"] if hostfile is not None else []),
    ]


def _ssh_options(recipe: Recipe) -> str:
    """Make ssh disconnect from a lost host about when the ranks time out, not never."""
    seconds = max(1, round(recipe.communication.timeout_seconds / (KEEPALIVE_COUNT + 1)))
    added = f"-o ServerAliveInterval={seconds} -o ServerAliveCountMax={KEEPALIVE_COUNT}"
    return f"{os.environ.get(SSH_OPTIONS, '')} {added}".strip()


def _quote_for_hosts(argument: str) -> str:
    """Quote an argument so that the shell of each host passes it on unchanged.

    DeepSpeed joins arguments with spaces. It puts an argument with a space into double quotes, and escapes only double
    quotes in it (multinode_runner.py, PDSHRunner.parse_user_args).
    """
    if " " not in argument:
        return shlex.quote(argument)
    return re.sub(r"([\\$`])", r"\\\1", argument)
