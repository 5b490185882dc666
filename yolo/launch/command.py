"""Build the `deepspeed` launcher's command for a recipe. Needs no torch."""

import os
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
"""The deepspeed launcher's own."""
SSH_OPTIONS = "PDSH_SSH_ARGS_APPEND"
"""Environment variable in which pdsh takes options for its ssh."""
SIGNS_OF_LIFE = 3
"""That a host may miss before ssh gives it up."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, and what is added to its environment."""

    command: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    port: int
    """Where the ranks meet."""

    def __str__(self) -> str:
        return shlex.join((*(f"{name}={value}" for name, value in self.environment), *self.command))


def launch_of(
    resolved: ResolvedRecipe,
    recipe: Path,
    overrides: Sequence[str],
    run: RunDirectory,
    hosts_left: Path | None = None,
    earlier_starts: int = 0,
    token: str | None = None,
) -> Launch:
    """The launcher's command for a recipe: `deepspeed ... --module yolo.train --recipe ...`.

    `hosts_left` is a hostfile to take in place of the recipe's, where not all of its hosts answer; `token` tells this start
    from others (`FencingToken`). Raises LaunchError where this machine lacks what the recipe asks for.
    """
    start = ["--start", token] if token else []
    arguments = ["--recipe", str(recipe), "--run", str(run.path), *start, *overrides]
    return launch_module(resolved, "yolo.train", arguments, hosts_left, earlier_starts)


def launch_module(
    resolved: ResolvedRecipe,
    module: str,
    arguments: Sequence[str],
    hosts_left: Path | None = None,
    earlier_starts: int = 0,
) -> Launch:
    """The launcher's command for a module of this package, on the machines that a recipe names.

    Raises LaunchError where this machine lacks what the recipe asks for.
    """
    recipe = resolved.recipe
    launcher = Path(sys.executable).with_name("deepspeed")
    environment = [("OMP_NUM_THREADS", str(recipe.cluster.threads_per_process))]
    if not visible_gpus():
        environment.append(("DS_ACCELERATOR", "cpu"))
    if recipe.cluster.nodes > 1 or hosts_left is not None:
        options = _several_nodes(recipe.cluster, hosts_left, earlier_starts)
        arguments = [_through_the_shell(argument) for argument in arguments]
        environment.append((SSH_OPTIONS, _ssh_options(recipe)))
    else:
        options = _one_node(recipe.cluster)
    command = (str(launcher), "--log_level", "error", *options, "--module", module, *arguments)
    port = int(options[options.index("--master_port") + 1])
    return Launch(command, tuple(environment), port)


def _one_node(cluster: ResolvedCluster) -> list[str]:
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


def _several_nodes(
    cluster: ResolvedCluster, hosts_left: Path | None, earlier_starts: int
) -> list[str]:
    if hosts_left is None and (lack := missing_hosts(cluster)):
        raise LaunchError(lack)
    if hosts_left is None and (unfit := list(unfit_hosts(cluster))):
        raise LaunchError("\n".join(unfit))
    # Ranks of the start before, on a host that was cut off, may still hold its port.
    port = DEFAULT_PORT + earlier_starts if cluster.master_port == "auto" else cluster.master_port
    return [
        *("--hostfile", str(hosts_left or cluster.hostfile), "--num_nodes", str(cluster.nodes)),
        *("--num_accelerators", str(cluster.processes_per_node), "--master_port", str(port)),
        # With one host left, the launcher would start its ranks here, wherever here is.
        *(["--force_multi"] if hosts_left is not None else []),
    ]


def _ssh_options(recipe: Recipe) -> str:
    """So that ssh gives up a host that is gone about when the ranks do, rather than never."""
    seconds = max(1, round(recipe.communication.timeout_seconds / (SIGNS_OF_LIFE + 1)))
    ours = f"-o ServerAliveInterval={seconds} -o ServerAliveCountMax={SIGNS_OF_LIFE}"
    return f"{os.environ.get(SSH_OPTIONS, '')} {ours}".strip()


def _through_the_shell(argument: str) -> str:
    """An argument as the launcher must be given it, so that the shell of each host hands on the same.

    DeepSpeed joins arguments with blanks, and puts one that holds a blank into double quotes, where it escapes only
    those themselves (multinode_runner.py, PDSHRunner.parse_user_args).
    """
    if " " not in argument:
        return shlex.quote(argument)
    for character in "\\$`":
        argument = argument.replace(character, f"\\{character}")
    return argument
