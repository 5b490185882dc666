"""The machines of a recipe's ranks: how many, with which accelerator, and the processes on each.

With a hostfile they are other machines than this one, and what this one has means nothing: the hostfile says it.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo.errors import ClusterError, RecipeError
from yolo.recipe.load.merge import LoadedRecipe
from yolo.recipe.resolve.hardware import visible_gpus
from yolo.recipe.resolve.hostfile import ListedHost, read_hostfile
from yolo.recipe.schema.distributed import ClusterSection

CPU_PROCESSES = 2
Computed = tuple[Any, str]
"""A value, and its formula or reason."""


@dataclass(frozen=True, slots=True)
class Machines:
    """The `auto` values of the section `cluster` that follow from the machines."""

    world_size: int
    nodes: Computed
    processes: Computed
    """Per node."""
    accelerator: Computed


def machines_of(
    loaded: LoadedRecipe, world_size: int | None, local_world_size: int | None
) -> Machines:
    """The machines of a recipe, for `world_size` ranks, `local_world_size` per node (None: as its `cluster` section says).

    Raises RecipeError if the hostfile is needed and cannot be read, or contradicts the recipe.
    """
    cluster = loaded.recipe.cluster
    accelerator = _accelerator(cluster)
    nodes: Computed
    processes: Computed
    if world_size is not None:
        nodes, processes = _as_launched(loaded, world_size, local_world_size)
        return Machines(world_size, nodes, processes, accelerator)
    if cluster.hostfile is None:
        nodes = (1, "no hostfile") if cluster.nodes == "auto" else (cluster.nodes, "")
        processes = _processes_here(loaded, str(accelerator[0]))
    else:
        nodes, processes = _as_listed(loaded, cluster.hostfile)
    return Machines(nodes[0] * processes[0], nodes, processes, accelerator)


def _accelerator(cluster: ClusterSection) -> Computed:
    if cluster.accelerator != "auto":
        return cluster.accelerator, ""
    if os.environ.get("DS_ACCELERATOR") == "cpu":
        return "cpu", "DS_ACCELERATOR=cpu"
    if cluster.hostfile is not None:
        return "cuda", "slots in a hostfile are GPUs; for hosts without GPUs set cpu"
    gpus = len(visible_gpus())
    return ("cuda", f"{gpus} GPUs found") if gpus else ("cpu", "no GPU found")


def _as_launched(
    loaded: LoadedRecipe, world_size: int, local_world_size: int | None
) -> tuple[Computed, Computed]:
    """Nodes, and processes of each, for ranks that a launcher has started, or that the user assumes."""
    cluster = loaded.recipe.cluster
    if local_world_size is not None:
        nodes = max(1, world_size // local_world_size)
        return (nodes, f"world size {world_size} / {local_world_size} processes"), (
            local_world_size,
            "as many as the launcher started on this node",
        )
    # No hostfile is read: it may be on one of the machines only, and all ranks must come to the same.
    nodes, reason = (1, "not stated") if cluster.nodes == "auto" else (cluster.nodes, "")
    return (nodes, reason), (
        max(1, world_size // nodes),
        f"world size {world_size} / {nodes} nodes",
    )


def _processes_here(loaded: LoadedRecipe, accelerator: str) -> Computed:
    requested = loaded.recipe.cluster.processes_per_node
    if requested != "auto":
        return requested, ""
    sharding = loaded.recipe.sharding
    if sharding.data != "auto":
        ranks, nodes = sharding.data * sharding.columns, loaded.recipe.cluster.nodes
        if nodes == "auto" or nodes == 1:
            return ranks, "sharding.data x sharding.columns"
        return max(1, ranks // nodes), f"sharding.data x sharding.columns on {nodes} nodes"
    if accelerator == "cpu":
        return max(CPU_PROCESSES, sharding.columns), "on CPUs"
    gpus = len(visible_gpus())
    if not gpus:
        raise RecipeError(
            f"{loaded.place(('cluster', 'accelerator'))}: cluster.accelerator: cuda, and this machine has no GPU; name other "
            "machines in cluster.hostfile, or set cluster.processes_per_node"
        )
    return gpus, f"{gpus} GPUs found"


def _as_listed(loaded: LoadedRecipe, hostfile: str) -> tuple[Computed, Computed]:
    """Nodes, and processes of each, as the hostfile lists them."""
    cluster = loaded.recipe.cluster
    is_stated = "auto" not in (cluster.nodes, cluster.processes_per_node)
    if is_stated and not Path(hostfile).exists():  # it is on the machine that will start the run
        return (cluster.nodes, ""), (cluster.processes_per_node, "")
    hosts = _listed(loaded, hostfile)
    fewest, most = min(hosts, key=_slots), max(hosts, key=_slots)
    requested = cluster.processes_per_node
    place = f"{loaded.place(('cluster', 'processes_per_node'))}: cluster.processes_per_node"
    if requested == "auto" and fewest.slots != most.slots:
        raise RecipeError(
            f"{place}: auto, and {hostfile} gives {most.name} slots={most.slots} but {fewest.name} slots={fewest.slots}; set it "
            f"to {fewest.slots}, or make the slots equal"
        )
    if requested != "auto" and requested > _slots(fewest):
        raise RecipeError(
            f"{place}: {requested}, and {fewest.name} has slots={fewest.slots} in {hostfile}; make them agree, or leave the "
            "key at auto"
        )
    each = (_slots(fewest), f"slots in {hostfile}") if requested == "auto" else (requested, "")
    return (len(hosts), f"hosts of {hostfile}"), each


def _listed(loaded: LoadedRecipe, hostfile: str) -> list[ListedHost]:
    nodes = loaded.recipe.cluster.nodes
    try:
        return read_hostfile(Path(hostfile), None if nodes == "auto" else nodes)
    except ClusterError as error:
        place = loaded.place(("cluster", "hostfile"))
        raise RecipeError(f"{place}: cluster.hostfile: {error}") from error


def _slots(host: ListedHost) -> int:
    assert host.slots is not None
    return host.slots
