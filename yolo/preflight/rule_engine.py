"""What a rule about hosts finds, the case that it looks at, and the list of all rules."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from yolo.architecture import parameter_count
from yolo.preflight.collect import Inspection
from yolo.preflight.host_info import HostFacts
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Severity
from yolo.recipe.schema.optimizer import ONE_BIT

Value = TypeVar("Value")
HERE = "this machine"
CHECKPOINT_BYTES, ONE_BIT_CHECKPOINT_BYTES = 17, 37
"""For each parameter, rounded up: checkpoints of the demo's 1.77 million are 28.7 MB with AdamW, and with the 1-bit
optimizers, which keep what they have not sent yet, up to 65.4 MB (OneBitLamb)."""
MOST_NAMES = 4
"""Of hosts in one line; the table has them all."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that differs or is missing, and what to do."""

    severity: Severity
    text: str
    hosts: tuple[str, ...] = ()
    """Those that it is about, where it is not about all."""


@dataclass(frozen=True, slots=True)
class RuleContext:
    """What was found on the hosts, and what the recipe wants of them."""

    inspection: Inspection
    nodes: int
    processes: int
    """On each host."""
    backend: str
    checkpoint_bytes: int
    """About, of one."""
    checkpoints: int
    """That are on disk at once: those that are kept, and one that is being written."""
    hostfile: str | None = None
    folder: str = ""
    """Of the repository, the same on all hosts."""

    @property
    def wants_gpus(self) -> bool:
        """NCCL works on nothing else."""
        return self.backend == "nccl"

    def answered(self) -> Iterator[tuple[str, HostFacts]]:
        """Hosts that have facts, in order."""
        for host in self.inspection.hosts:
            if host.facts is not None:
                yield host.name, host.facts

    def values(self, of: Callable[[HostFacts], Value]) -> dict[str, Value]:
        """One value of each host that answered, by its name."""
        return {name: of(facts) for name, facts in self.answered()}

    def names(self, of: Callable[[HostFacts], Mapping[str, object]]) -> list[str]:
        """Whatever any host names."""
        return list(dict.fromkeys(name for _, facts in self.answered() for name in of(facts)))

    def here(self, value: Value) -> dict[str, Value]:
        """This machine's own value, to be compared with the hosts'; with one node it is the host."""
        return {HERE: value} if self.nodes > 1 else {}


Rule = Callable[[RuleContext], Iterator[Finding]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Add a function to the rules."""
    RULES.append(function)
    return function


def error(text: str, *hosts: str) -> Finding:
    """What cannot work."""
    return Finding(Severity.ERROR, text, hosts)


def warning(text: str, *hosts: str) -> Finding:
    """What is slow or doubtful."""
    return Finding(Severity.WARNING, text, hosts)


def case_of(resolved: ResolvedRecipe, inspection: Inspection) -> RuleContext:
    """The inspection beside the recipe's wishes."""
    recipe, cluster = resolved.recipe, resolved.recipe.cluster
    each = ONE_BIT_CHECKPOINT_BYTES if recipe.optimizer.type in ONE_BIT else CHECKPOINT_BYTES
    return RuleContext(
        inspection=inspection,
        nodes=cluster.nodes,
        processes=cluster.processes_per_node,
        backend=cluster.backend,
        checkpoint_bytes=each * parameter_count(recipe.model.variant, 80),
        checkpoints=recipe.checkpoint.keep + 1,
        hostfile=cluster.hostfile,
        folder=str(Path.cwd()),
    )


def findings_of(case: RuleContext) -> list[Finding]:
    """What all rules find, errors first."""
    found = [finding for each in RULES for finding in each(case)]
    return sorted(found, key=lambda finding: finding.severity is not Severity.ERROR)


def agreement(values: Mapping[str, object], *words: str) -> str | None:
    """None where all values are equal; otherwise who has which, most hosts first: `2.4 on a, b; 2.3 on c`.

    `words` stand for values that say nothing to a reader, the last for all further ones.
    """
    groups: dict[object, list[str]] = {}
    for name, value in values.items():
        groups.setdefault(value, []).append(name)
    if len(groups) < 2:
        return None
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    return "; ".join(
        f"{words[min(number, len(words) - 1)] if words else value or 'none'} on {named(names)}"
        for number, (value, names) in enumerate(ordered)
    )


def odd_ones(values: Mapping[str, object]) -> list[str]:
    """The hosts that have another value than most."""
    all_values = list(values.values())
    usual = max(all_values, key=all_values.count)
    return [name for name, value in values.items() if value != usual and name != HERE]


def named(hosts: list[str]) -> str:
    """The first few, and how many more."""
    more = len(hosts) - MOST_NAMES
    return ", ".join(hosts[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
