"""The process group: backend, device, threads, and small objects exchanged between ranks."""

import datetime
import logging
import os
import socket
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import deepspeed.comm as dist
import deepspeed.ops
import torch
from deepspeed.accelerator import get_accelerator

from yolo.communication.backends.known import BACKENDS
from yolo.errors import CheckpointError, LaunchError
from yolo.recipe.resolve.resolve import ranks_per_node
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.launched import local_world_size_from_launcher
from yolo.training.engine.rendezvous import init_method

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """This process among the ranks of a run."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    """Ranks on this machine."""
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this rank writes and prints."""
        return self.rank == 0


def init_distributed(recipe: Recipe, start: str = "") -> DistributedContext:
    """Initialize the process group over `cluster.backend` and select the device.

    `start` is the token of this start, empty without `yolo train`. Raises LaunchError if the machine does not have that
    backend, or the other ranks do not connect; PortTaken if other ranks do.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls all_gather_into_tensor, which torch is renaming: nothing that a user can fix.
    warnings.filterwarnings("ignore", r".*torch\.distributed\..* is deprecated", FutureWarning)
    # DeepSpeed compiles a shared-memory operator at the first start on a CPU, for half a minute. Only its inference
    # all-reduce uses it, training never.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = get_accelerator()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    found = accelerator.device_name()
    if (found == "cpu") != (recipe.cluster.accelerator == "cpu"):
        raise _wrong_accelerator(recipe.cluster.accelerator, found)
    if found == "cpu":
        torch.set_num_threads(recipe.cluster.threads_per_process)
        device = torch.device("cpu")
    else:
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(local_rank))
        # cuDNN tries several algorithms per convolution; with changing sizes it would do so again and again.
        torch.backends.cudnn.benchmark = recipe.train.multi_scale == 0
    timeout = datetime.timedelta(seconds=recipe.communication.timeout_seconds)
    backend = recipe.cluster.backend
    try:
        dist.init_distributed(
            dist_backend=_registered(backend),
            timeout=timeout,
            init_method=init_method(start),
            verbose=False,
            auto_mpi_discovery=False,
        )
    except (RuntimeError, ValueError, ImportError, AssertionError) as error:
        raise LaunchError(
            f"cluster.backend {backend}: the ranks cannot connect: {str(error).splitlines()[0]} ({BACKENDS[backend].hint})"
        ) from error
    world_size = dist.get_world_size()
    local_world_size = local_world_size_from_launcher() or world_size
    return DistributedContext(dist.get_rank(), local_rank, world_size, local_world_size, device)


def _registered(backend: str) -> str:
    """The backend's name for torch. Raises ImportError or RuntimeError if there is no MPI."""
    if backend != "mpi":
        return backend
    from yolo.communication.backends.mpi import NAME, register_mpi  # loads MPI's library

    register_mpi()
    return NAME


def _wrong_accelerator(wanted: str, found: str) -> LaunchError:
    host = socket.gethostname()
    if wanted == "cpu":
        return LaunchError(
            f"cluster.accelerator cpu: {host}: DeepSpeed takes {found}; set DS_ACCELERATOR=cpu there, such as in .deepspeed_env"
        )
    return LaunchError(
        f"cluster.accelerator {wanted}: {host} has no GPU that torch can use; see `nvidia-smi` there, or set "
        "cluster.accelerator=cpu"
    )


def node_group(recipe: Recipe, context: DistributedContext) -> torch.distributed.ProcessGroup:
    """Make a process group for the ranks of each node, and return this node's. Collective.

    Launchers number the ranks node by node. All nodes must have as many (`check_nodes_agree`).
    """
    timeout = datetime.timedelta(seconds=recipe.communication.timeout_seconds)
    ranks = ranks_per_node(recipe, context.world_size)
    group, _ = torch.distributed.new_subgroups(ranks, timeout=timeout)
    return group


def check_nodes_agree(recipe: Recipe, context: DistributedContext) -> None:
    """Raise LaunchError on all ranks if SyncBatchNorm would group the ranks of nodes that do not have as many. Collective.

    Each rank resolves the recipe by the ranks that its own node has.
    """
    mine = recipe.model.sync_batchnorm, ranks_per_node(recipe, context.world_size)
    found = set(all_gather_object(context, mine))
    if len(found) > 1 and any(is_on for is_on, _ in found):
        ranks = " and ".join(str(ranks) for _, ranks in sorted(found))
        raise LaunchError(
            f"model.sync_batchnorm: SyncBatchNorm spans a node, and the nodes have {ranks} ranks; set it to false, or start as "
            "many ranks on each node"
        )


def shutdown_distributed() -> None:
    """Destroy the process group, once all ranks are here.

    Without it, a process may die of SIGABRT at its end: gloo's threads still release their last tensors then.
    """
    dist.barrier()
    dist.destroy_process_group()


def broadcast_object(context: DistributedContext, value: Any) -> Any:
    """Return the main rank's value of a small object on every rank."""
    holder = [value if context.is_main else None]
    torch.distributed.broadcast_object_list(holder, src=0, device=context.device)
    return holder[0]


def run_on_main(context: DistributedContext, work: Callable[[], Result]) -> Result:
    """Do work on the main rank, and return its result on every rank; a CheckpointError is raised on all."""
    outcome: Result | CheckpointError | None = None
    if context.is_main:
        try:
            outcome = work()
        except CheckpointError as error:
            outcome = error
    agreed: Result | CheckpointError = broadcast_object(context, outcome)
    if isinstance(agreed, CheckpointError):
        raise agreed
    return agreed


def all_gather_object(context: DistributedContext, value: Any) -> list[Any]:
    """Return every rank's value of a small object, by rank, on every rank."""
    values: list[Any] = [None] * context.world_size
    torch.distributed.all_gather_object(values, value)
    return values
