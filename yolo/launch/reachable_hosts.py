"""After a crash over several hosts: which of them answer, and whether the run may go on with those. Needs no torch."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from yolo.preflight.local import ListedHost, listed_hosts
from yolo.preflight.ssh import why_silent
from yolo.recipe.schema.distributed import ClusterSection

ANSWER_SECONDS = 10
AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class HostsLeft:
    """The hosts of a recipe that answer, and why the others do not."""

    answering: Sequence[ListedHost]
    silent: dict[str, str] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write them down as a hostfile."""
        lines = [f"{host.name} slots={host.slots}\n" for host in self.answering]
        path.write_text("".join(lines), encoding="utf-8")

    def __str__(self) -> str:
        return "; ".join(f"{name} does not answer ({why})" for name, why in self.silent.items())


def hosts_left(cluster: ClusterSection) -> HostsLeft:
    """Ask each host of the recipe by ssh, all at a time. Raises ClusterError where the hostfile cannot be read."""
    hosts = listed_hosts(cluster)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        answers = list(threads.map(_ask, hosts))
    silent = {host.name: why for host, why in zip(hosts, answers, strict=True) if why is not None}
    return HostsLeft([host for host in hosts if host.name not in silent], silent)


def _ask(host: ListedHost) -> str | None:
    return None if host.over_ssh is None else why_silent(host.over_ssh, ANSWER_SECONDS)
