"""What a recipe needs of the machine that it is checked or launched on, and does not find there. Needs no torch."""

from collections.abc import Iterator
from pathlib import Path

from yolo.errors import ClusterError, DataError
from yolo.recipe.hostfile import slots_by_host
from yolo.recipe.resolve import ResolvedRecipe
from yolo.recipe.sections.cluster import ClusterSection
from yolo.recipe.sections.data import DataSection
from yolo.recipe.shard_index import local_index, shard_location, too_few


def missing_here(resolved: ResolvedRecipe, goes_on: bool = False) -> Iterator[str]:
    """A line for each folder and file that the recipe names and that is not on this machine.

    A run that goes on from a checkpoint wants no weights to start from. These are no rules: the recipe is right, and
    other machines may have what it names.
    """
    recipe = resolved.recipe
    if recipe.data.format == "shards":
        yield from _missing_shards(recipe.data)
    elif lack := missing_root(recipe.data):
        yield lack
    else:
        for split in ("train", "val"):
            path = Path(recipe.data.root) / getattr(recipe.data, split)
            if not path.is_file():
                yield f"data.{split}: {path}: no such file; set data.root, data.train and data.val"
    weights = recipe.model.weights
    if not goes_on and weights is not None and not Path(weights).is_file():
        yield f"model.weights: {weights}: no such file; expected a .safetensors file"


def _missing_shards(data: DataSection) -> Iterator[str]:
    """Of what lies elsewhere nothing is known in a check."""
    for split in ("train", "val"):
        try:
            local_index(data, split)
        except DataError as error:
            yield str(error)


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


def missing_root(data: DataSection) -> str | None:
    """A line where the folder of the data is not on this machine."""
    if Path(data.root).is_dir():
        return None
    return f"data.root: {data.root}: no such folder; set data.root=/path/to/data"


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
