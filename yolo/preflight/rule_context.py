"""What a rule on hosts looks at, and how it names values that differ."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from yolo.architecture import parameter_count
from yolo.preflight.collect import Inspection
from yolo.preflight.host_info import HostFacts
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.optimizer import ONE_BIT

Value = TypeVar("Value")
HERE = "this machine"
CHECKPOINT_BYTES, ONE_BIT_CHECKPOINT_BYTES = 17, 37
"""Per parameter, rounded up: checkpoints of the demo's 1.77 million parameters take 28.7 MB with AdamW, and up to 65.4 MB
with the 1-bit optimizers (OneBitLamb), which store their compression error."""
MAX_NAMES = 4
"""Hosts named in one line; the table has all."""


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What was found on the hosts, and what the recipe requires of them."""

    inspection: Inspection
    processes: int
    """Per host."""
    accelerator: str
    """`cuda` or `cpu`."""
    checkpoint_bytes: int
    """Approximate size of one checkpoint."""
    checkpoints: int
    """On disk at the same time: those that are kept, and one that is being written."""
    hostfile: str | None = None
    """None: the only host is this machine."""
    folder: str = ""
    """The repository's folder, the same on all hosts."""

    def answered(self) -> Iterator[tuple[str, HostFacts]]:
        """Hosts that have facts, in order."""
        for host in self.inspection.hosts:
            if host.facts is not None:
                yield host.name, host.facts

    def values(self, of: Callable[[HostFacts], Value]) -> dict[str, Value]:
        """One value per host that answered."""
        return {name: of(facts) for name, facts in self.answered()}

    def by_name(
        self, of: Callable[[HostFacts], Mapping[str, Value]]
    ) -> Iterator[tuple[str, dict[str, Value | None]]]:
        """Each key of the hosts' mappings, and its value per host that answered; None if a host lacks it."""
        mappings = self.values(of)
        for name in dict.fromkeys(chain.from_iterable(mappings.values())):
            yield name, {host: mapping.get(name) for host, mapping in mappings.items()}

    def here(self, value: Value) -> dict[str, Value]:
        """This machine's own value, to compare with the hosts'; empty if it is the only host."""
        return {} if self.hostfile is None else {HERE: value}


def rule_context(resolved: ResolvedRecipe, inspection: Inspection) -> RuleContext:
    """Combine the inspection with the recipe's requirements."""
    recipe, cluster = resolved.recipe, resolved.recipe.cluster
    each = ONE_BIT_CHECKPOINT_BYTES if recipe.optimizer.type in ONE_BIT else CHECKPOINT_BYTES
    return RuleContext(
        inspection=inspection,
        processes=cluster.processes_per_node,
        accelerator=cluster.accelerator,
        checkpoint_bytes=each * parameter_count(recipe.model.variant, 80),
        checkpoints=recipe.checkpoint.keep + 1,
        hostfile=cluster.hostfile,
        folder=str(Path.cwd()),
    )


def differences(values: Mapping[str, object], *words: str) -> str | None:
    """None if all values are equal; otherwise each value and its hosts, most hosts first: `2.4 on a, b; 2.3 on c`.

    `words` replace values that mean nothing to a reader; the last replaces all further ones.
    """
    groups = grouped(values)
    if len(groups) < 2:
        return None
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return "; ".join(
        f"{words[min(number, len(words) - 1)] if words else value or 'none'} on {join_names(names)}"
        for number, (value, names) in enumerate(ordered)
    )


def grouped(values: Mapping[str, Value]) -> dict[Value, list[str]]:
    """The hosts that have each value."""
    groups: defaultdict[Value, list[str]] = defaultdict(list)
    for name, value in values.items():
        groups[value].append(name)
    return groups


def outliers(values: Mapping[str, object]) -> list[str]:
    """The hosts whose value differs from most hosts'."""
    usual = statistics.mode(values.values())
    return [name for name, value in values.items() if value != usual and name != HERE]


def join_names(hosts: list[str]) -> str:
    """The first few hosts, and how many more."""
    more = len(hosts) - MAX_NAMES
    return ", ".join(hosts[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")
