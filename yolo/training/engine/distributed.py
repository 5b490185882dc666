"""Joining the other processes: backend, device, threads, and the little that all ranks must agree on."""

import datetime
import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import deepspeed.comm as dist
import deepspeed.ops
import torch
from deepspeed.accelerator import get_accelerator

from yolo.errors import CheckpointError, LaunchError
from yolo.recipe.schema.recipe import Recipe

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class DistributedContext:
    """This process among the others."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    """Ranks on this machine."""
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and prints."""
        return self.rank == 0


def world_size_from_launcher() -> int:
    """How many processes the launcher started.

    Raises LaunchError when there was no launcher.
    """
    try:
        return int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError) as error:
        raise LaunchError(
            "yolo.train is started by a launcher: `python -m yolo train RECIPE`, or "
            "`deepspeed --module yolo.train --recipe RECIPE`"
        ) from error


def local_world_size_from_launcher() -> int | None:
    """How many of them it started on this machine, in DeepSpeed's words or torchrun's; None where it did not say."""
    said = os.environ.get("LOCAL_SIZE") or os.environ.get("LOCAL_WORLD_SIZE") or ""
    return int(said) if said.isdecimal() and int(said) else None


def init_distributed(recipe: Recipe) -> DistributedContext:
    """Meet the other ranks over `cluster.backend` and take this rank's device.

    Raises LaunchError where the machine does not have that backend, or the others do not come.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls all_gather_into_tensor, whose name torch is changing: nothing that a user can put right.
    warnings.filterwarnings("ignore", r".*torch\.distributed\..* is deprecated", FutureWarning)
    # DeepSpeed compiles a shared-memory operator for half a minute at each first start on a processor, and training
    # never calls it: only its inference all-reduce does.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    accelerator = get_accelerator()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if accelerator.device_name() == "cpu":
        torch.set_num_threads(recipe.cluster.threads_per_process)
        device = torch.device("cpu")
    else:
        accelerator.set_device(local_rank)
        device = torch.device(accelerator.device_name(local_rank))
        # cuDNN tries its ways of a convolution out; with sizes that change it would do so again and again.
        torch.backends.cudnn.benchmark = recipe.train.multi_scale == 0
    timeout = datetime.timedelta(seconds=recipe.communication.timeout_seconds)
    backend = recipe.cluster.backend
    try:
        dist.init_distributed(
            dist_backend=backend, timeout=timeout, verbose=False, auto_mpi_discovery=False
        )
    except (RuntimeError, ValueError, ImportError, AssertionError) as error:
        what, hint = (
            f"cluster.backend {backend}",
            (
                "gloo works on every machine; nccl wants GPUs, and mpi a torch that was built with it"
            ),
        )
        if "EADDRINUSE" in str(error):
            what = f"cluster.master_port {os.environ.get('MASTER_PORT', '')}"
            hint = "another program on this machine has the port: start again, or set another"
        raise LaunchError(
            f"{what}: the ranks cannot meet: {str(error).splitlines()[0]} ({hint})"
        ) from error
    world_size = dist.get_world_size()
    local_world_size = local_world_size_from_launcher() or world_size
    return DistributedContext(dist.get_rank(), local_rank, world_size, local_world_size, device)


def shutdown_distributed() -> None:
    """Part from the other ranks, once all have come here.

    A process that merely ends may die of SIGABRT: gloo's threads still let go of their last tensors then.
    """
    dist.barrier()
    dist.destroy_process_group()


def broadcast_object(ranks: DistributedContext, value: Any) -> Any:
    """The first rank's value of some small object, on every rank."""
    holder = [value if ranks.is_main else None]
    torch.distributed.broadcast_object_list(holder, src=0, device=ranks.device)
    return holder[0]


def run_on_main(ranks: DistributedContext, work: Callable[[], Result]) -> Result:
    """What the first rank's work gives, on every rank; its CheckpointError reaches all."""
    outcome: Result | CheckpointError | None = None
    if ranks.is_main:
        try:
            outcome = work()
        except CheckpointError as error:
            outcome = error
    agreed: Result | CheckpointError = broadcast_object(ranks, outcome)
    if isinstance(agreed, CheckpointError):
        raise agreed
    return agreed


def all_gather_object(ranks: DistributedContext, value: Any) -> list[Any]:
    """Every rank's value of some small object, in the order of ranks, on every rank."""
    values: list[Any] = [None] * ranks.world_size
    torch.distributed.all_gather_object(values, value)
    return values
