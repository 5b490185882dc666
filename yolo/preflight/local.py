"""What a recipe needs on the machine that checks or launches it: data, weights and the list of hosts.

Needs no torch, except for weights in a checkpoint (*.pt).
"""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolo.data.location import local_index, missing_files, shard_location, too_few
from yolo.errors import ClusterError, DataError
from yolo.preflight.weights import unfit_weights
from yolo.recipe.load.safe_read import MOST_HOSTFILE_BYTES, read_bytes
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.distributed import ClusterSection

LINE = re.compile(r"(\S+)\s+slots=(\d{1,6})\s*(#.*)?")
"""The launcher ignores the rest of a line, where a second host, for example, would be lost."""
NAME = re.compile(r"(\w[\w.-]*@)?[\w\[][\w.:%\]-]*", re.ASCII)
"""A host's name or address, optionally after `user@`; never what ssh reads as an option, or a shell as syntax."""


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
    yield from unfit_hosts(resolved.recipe.cluster)
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
            yield from too_few(index, place, resolved.recipe, resolved.world_size)


def _weights_are_elsewhere(resolved: ResolvedRecipe) -> bool:
    """Whether the recipe names weights that only the hosts may have."""
    weights = resolved.recipe.model.weights
    return weights is not None and resolved.recipe.cluster.nodes > 1 and not Path(weights).exists()


def inspect_data(resolved: ResolvedRecipe) -> tuple[list[str], list[str]]:
    """Warnings about the data on this machine, and lines for what would stop the run; images are not decoded.

    Both are empty if the data are elsewhere.
    """
    recipe = resolved.recipe
    if any(missing_files(recipe.data)):
        return [], []
    from yolo.data.inspection import inspect  # slow: imports OpenCV

    try:
        return inspect(recipe.data, recipe.model.image_size), []
    except DataError as error:
        return [], [str(error)]


def unfit_hosts(cluster: ClusterSection) -> Iterator[str]:
    """One line if the hostfile exists, but cannot be read or lists too few hosts."""
    if cluster.nodes > 1 and not missing_hosts(cluster):
        try:
            listed_hosts(cluster)
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
    """The first `cluster.nodes` hosts of the hostfile; ranks rendezvous on the first.

    Raises ClusterError if the hostfile cannot be read or lists fewer.
    """
    if cluster.nodes == 1:
        return [ListedHost(socket.gethostname(), None)]
    if lack := missing_hosts(cluster):
        raise ClusterError(lack)
    assert cluster.hostfile is not None
    hosts = _read_hostfile(Path(cluster.hostfile))
    if len(hosts) < cluster.nodes:
        raise ClusterError(
            f"{cluster.hostfile}: lists {len(hosts)} hosts, and cluster.nodes is {cluster.nodes}; add hosts or lower cluster.nodes"
        )
    return hosts[: cluster.nodes]


def _read_hostfile(path: Path) -> list[ListedHost]:
    """Read DeepSpeed's list of hosts as its launcher does: one `name slots=N` per line."""
    try:
        text = read_bytes(path, MOST_HOSTFILE_BYTES).decode(errors="replace")
    except OSError as error:
        raise ClusterError(f"{path}: cannot be read: {error.strerror}") from error
    hosts: dict[str, ListedHost] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        found = LINE.fullmatch(line)
        if not found or not NAME.fullmatch(found[1]):
            raise ClusterError(
                f"{path}:{number}: {line[:60]!r}: expected a line `hostname slots=GPUs`"
            )
        name = found[1]
        if name in hosts:
            raise ClusterError(f"{path}:{number}: {name} is listed twice; remove one line")
        hosts[name] = ListedHost(name, int(found[2]))
    return list(hosts.values())
