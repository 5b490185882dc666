"""What a recipe needs of the machine that it is checked or launched on, and does not find there. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path

from yolo.data.location import missing_files
from yolo.data.shards.index import local_index, shard_location, too_few
from yolo.errors import ClusterError, DataError
from yolo.recipe.load.hostfile import slots_by_host
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.distributed import ClusterSection


def missing_here(resolved: ResolvedRecipe, goes_on: bool = False) -> Iterator[str]:
    """A line for each folder and file that the recipe names and that is not on this machine.

    A run that goes on from a checkpoint wants no weights to start from. These are no rules: the recipe is right, and
    other machines may have what it names.
    """
    recipe = resolved.recipe
    yield from missing_files(recipe.data)
    weights = recipe.model.weights
    if not goes_on and weights is not None and not Path(weights).is_file():
        yield f"model.weights: {weights}: no such file; expected a .safetensors file"


def unfit_here(resolved: ResolvedRecipe) -> Iterator[str]:
    """A line for each thing that is on this machine and with which the recipe cannot work."""
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
    """A line where the list of hosts is on this machine and cannot be read, or is of too few."""
    if cluster.nodes > 1 and cluster.hostfile is not None and not missing_hosts(cluster):
        try:
            slots_by_host(cluster)
        except ClusterError as error:
            yield str(error)


def missing_hosts(cluster: ClusterSection) -> str | None:
    """A line where the launcher would not find the nodes."""
    if cluster.nodes == 1:
        return None
    if cluster.hostfile is None:
        return (
            f"cluster.nodes {cluster.nodes}: set cluster.hostfile to a file with a line `hostname slots=GPUs` for each; "
            "or call the deepspeed launcher or torchrun yourself, with `--module yolo.train`"
        )
    if not Path(cluster.hostfile).is_file():
        return f"cluster.hostfile {cluster.hostfile}: no such file"
    return None
