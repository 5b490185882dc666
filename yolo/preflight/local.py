"""What a recipe needs on the machine that checks or launches it: data, weights and the list of hosts.

Needs no torch, except for weights in a checkpoint (*.pt).
"""

import socket
from collections.abc import Iterator
from pathlib import Path

from yolo.communication.backends.installed_mpi import NAMES
from yolo.communication.backends.known import BACKENDS, lacks
from yolo.data.location import local_index, missing_files, shard_location, too_few
from yolo.errors import ClusterError, DataError
from yolo.preflight.weights import unfit_weights
from yolo.recipe.resolve.hardware import visible_gpus
from yolo.recipe.resolve.hostfile import ListedHost, read_hostfile
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.recipe import ResolvedCluster


def missing_here(resolved: ResolvedRecipe, resumes: bool = False) -> Iterator[str]:
    """One line per folder and file that the recipe names and that is not on this machine.

    A run that resumes from a checkpoint (`resumes`) needs no weights to start from. These are no rules: the recipe is
    valid, and other machines may have the files. Weights that this machine itself needs are left to `unfit_here`.
    """
    yield from missing_files(resolved.recipe.data)
    if not resumes and _weights_are_elsewhere(resolved):
        yield f"model.weights: {resolved.recipe.model.weights}: no such file"


def unfit_here(resolved: ResolvedRecipe, resumes: bool = False) -> Iterator[str]:
    """One line per file on this machine that the recipe cannot work with; `resumes` as for `missing_here`."""
    if not resumes and not _weights_are_elsewhere(resolved):
        yield from unfit_weights(resolved.recipe.model)
    data = resolved.recipe.data
    if data.format == "shards":
        try:
            index = local_index(data, "train")
        except DataError:
            return
        if index is not None:
            place = shard_location(data, "train")
            yield from too_few(index, place, resolved.recipe)


def _weights_are_elsewhere(resolved: ResolvedRecipe) -> bool:
    """Whether the recipe names weights that only the hosts may have."""
    weights, cluster = resolved.recipe.model.weights, resolved.recipe.cluster
    has_hosts = cluster.nodes > 1 or cluster.hostfile is not None
    return weights is not None and has_hosts and not Path(weights).exists()


def inspect_data(resolved: ResolvedRecipe) -> tuple[list[str], list[str]]:
    """Warnings about the data on this machine, and lines for what would stop the run.

    Both are empty if the data are elsewhere. As `inspect`, decodes only a sample of what may have 16 bits.
    """
    recipe = resolved.recipe
    if any(missing_files(recipe.data)):
        return [], []
    from yolo.data.inspection import inspect  # slow: imports OpenCV

    try:
        return inspect(recipe.data, recipe.model.image_size), []
    except DataError as error:
        return [], [str(error)]


def missing_hosts(cluster: ResolvedCluster) -> str | None:
    """One line if the launcher would not find the nodes."""
    if cluster.hostfile is None:
        if cluster.nodes == 1 or cluster.launcher == "slurm":
            return None
        return (
            f"cluster.nodes {cluster.nodes}: set cluster.hostfile to a file with a line `hostname slots=GPUs` per host; "
            "or run the deepspeed launcher or torchrun yourself, with `--module yolo.train`"
        )
    if not Path(cluster.hostfile).is_file():
        return f"cluster.hostfile {cluster.hostfile}: no such file"
    return None


def missing_backend(cluster: ResolvedCluster) -> str | None:
    """One line if this machine cannot run `cluster.backend`, or cannot start it on the hosts."""
    backend, is_here = cluster.backend, cluster.hostfile is None and cluster.nodes == 1
    if not is_here and backend != "mpi":
        return None
    mpi = cluster.launcher if cluster.launcher in (*NAMES, "slurm") else None
    if lack := lacks(backend, len(visible_gpus()), mpi):
        return f"cluster.backend {backend}: {lack} on this machine; {BACKENDS[backend].hint}"
    return None


def listed_hosts(cluster: ResolvedCluster) -> list[ListedHost]:
    """The hosts that ranks are started on: the first `cluster.nodes` of the hostfile; without one, this machine.

    Raises ClusterError if the hostfile cannot be read or lists fewer.
    """
    if lack := missing_hosts(cluster):
        raise ClusterError(lack)
    if cluster.hostfile is None:
        return [ListedHost(socket.gethostname(), None)]
    return read_hostfile(Path(cluster.hostfile), cluster.nodes)
