"""What a recipe needs on the machine that checks or launches it: data, weights and the list of hosts. Needs no torch."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolo.data.location import local_index, missing_files, shard_location, too_few
from yolo.errors import ClusterError, DataError
from yolo.recipe.load.hostfile import slots_by_host
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.distributed import ClusterSection


def missing_here(resolved: ResolvedRecipe, resumes: bool = False) -> Iterator[str]:
    """One line per folder and file that the recipe names and that is not on this machine.

    A run that resumes from a checkpoint (`resumes`) needs no weights to start from. These are no rules: the recipe is
    valid, and other machines may have the files.
    """
    recipe = resolved.recipe
    yield from missing_files(recipe.data)
    weights = recipe.model.weights
    if not resumes and weights is not None and not Path(weights).is_file():
        yield f"model.weights: {weights}: no such file; expected a .safetensors file"


def unfit_here(resolved: ResolvedRecipe) -> Iterator[str]:
    """One line per file on this machine that the recipe cannot work with."""
    yield from unfit_hosts(resolved.recipe.cluster)
    data = resolved.recipe.data
    if data.format == "shards":
        try:
            index = local_index(data, "train")
        except DataError:
            return
        if index is not None:
            place = shard_location(data, "train")
            yield from too_few(index, place, resolved.recipe, resolved.world_size)


def unfit_hosts(cluster: ClusterSection) -> Iterator[str]:
    """One line if the hostfile exists, but cannot be read or lists too few hosts."""
    if cluster.nodes > 1 and cluster.hostfile is not None and not missing_hosts(cluster):
        try:
            slots_by_host(cluster)
        except ClusterError as error:
            yield str(error)


def missing_hosts(cluster: ClusterSection) -> str | None:
    """One line if the launcher would not find the nodes."""
    if cluster.nodes == 1:
        return None
    if cluster.hostfile is None:
        return (
            f"cluster.nodes {cluster.nodes}: set cluster.hostfile to a file with a line `hostname slots=GPUs` per host; "
            "or run the deepspeed launcher or torchrun yourself, with `--module yolo.train`"
        )
    if not Path(cluster.hostfile).is_file():
        return f"cluster.hostfile {cluster.hostfile}: no such file"
    return None


@dataclass(frozen=True, slots=True)
class ListedHost:
    """A host that ranks are started on."""

    name: str
    slots: int | None
    """None for this machine, which needs no hostfile."""

    @property
    def over_ssh(self) -> str | None:
        """The name for ssh; None for this machine. The launcher, too, reaches each listed host by ssh."""
        return None if self.slots is None else self.name


def listed_hosts(cluster: ClusterSection) -> list[ListedHost]:
    """The hosts of a recipe; ranks rendezvous on the first. Raises ClusterError if the hostfile does not list them."""
    if cluster.nodes == 1:
        return [ListedHost(socket.gethostname(), None)]
    if lack := missing_hosts(cluster):
        raise ClusterError(lack)
    return [ListedHost(name, slots) for name, slots in slots_by_host(cluster).items()]
