"""What is wrong with hosts that are to run a recipe together: one small function a rule.

A rule looks at what was found and yields findings. An error cannot work: training would stop, hang, or learn from data
that differ. A warning is slow or doubtful. The machinery is finding.py's, next door.
"""

import shutil
import statistics
from collections.abc import Iterator

from yolo.preflight.host_info import Content, HostFacts
from yolo.preflight.rule_engine import (
    Finding,
    RuleContext,
    agreement,
    error,
    named,
    odd_ones,
    rule,
    warning,
)

ALMOST_NO_DISK_BYTES = 2**30
"""Whatever the network: logs, pictures and weights want room beside the checkpoints."""
MOST_SKEW_SECONDS = 0.5
FAR_BELOW = 0.5
"""Of the other links' median: less than half is no noise of the measurement, which is a second long."""

# --- can they be asked at all -----------------------------------------------------------------------------------


@rule
def every_host_answers(case: RuleContext) -> Iterator[Finding]:
    for host in case.inspection.hosts:
        if host.facts is None:
            yield error(f"{host.name}: {host.problem}", host.name)


@rule
def every_host_reaches_the_first(case: RuleContext) -> Iterator[Finding]:
    names: dict[str, list[str]] = {}
    for host in case.inspection.hosts:
        if host.link_problem:
            names.setdefault(host.link_problem, []).append(host.name)
    for problem, hosts in names.items():
        yield error(f"{named(hosts)}: link not measured: {problem}", *hosts)


@rule
def the_launcher_wants_pdsh(case: RuleContext) -> Iterator[Finding]:
    if case.nodes > 1 and shutil.which("pdsh") is None:
        yield warning(
            "pdsh: no such program on this machine; `yolo train` starts several hosts by it: install the package pdsh"
        )


# --- the same program -------------------------------------------------------------------------------------------


@rule
def one_commit(case: RuleContext) -> Iterator[Finding]:
    commits = case.values(lambda facts: facts.code.commit)
    known = {name: commit[:12] for name, commit in commits.items() if commit is not None}
    if told := agreement(known):
        most = max(known.values(), key=list(known.values()).count)
        odd = odd_ones(known)
        yield error(
            f"commit: {told}; `git fetch && git checkout {most}` in {case.folder} on {named(odd)}, or the others' likewise",
            *odd,
        )


@rule
def one_source(case: RuleContext) -> Iterator[Finding]:
    """Also where git says nothing, or the same of files that were changed."""
    commits = set(case.values(lambda facts: facts.code.commit).values()) - {None}
    sources = case.values(lambda facts: facts.code.source) | case.here(case.inspection.source)
    if len(commits) < 2 and (told := agreement(sources, "one version", "another")):
        yield error(
            f"the files in yolo/ differ, though the hosts' commits do not: {told}; commit, push and pull, or copy the "
            "folder to all",
            *odd_ones(sources),
        )


@rule
def nothing_uncommitted(case: RuleContext) -> Iterator[Finding]:
    changed = case.values(lambda facts: facts.code.changed)
    dirty = [name for name, number in changed.items() if number]
    if dirty:
        most = max(changed.values())
        yield warning(
            f"uncommitted changes on {named(dirty)} (up to {most} files): nobody can tell later what ran; commit them, or "
            "`git stash`",
            *dirty,
        )


@rule
def git_answers(case: RuleContext) -> Iterator[Finding]:
    for host, facts in case.answered():
        if facts.code.commit is None:
            yield warning(f"{host}: no commit can be told: {facts.code.problem}", host)


@rule
def one_version_of_each_package(case: RuleContext) -> Iterator[Finding]:
    for package in case.names(lambda facts: facts.versions):
        versions = {host: facts.versions.get(package) for host, facts in case.answered()}
        lacking = [name for name, version in versions.items() if version is None]
        if lacking:
            yield error(
                f"{package}: not installed on {named(lacking)}; `make setup` there installs it",
                *lacking,
            )
        present = {name: version for name, version in versions.items() if version is not None}
        if told := agreement(present):
            advice = (
                "install one, and `make setup` anew"
                if package == "Python"
                else "`rm .venv/ready && make setup` on each installs what requirements.txt names"
            )
            yield error(f"{package}: {told}; {advice}", *odd_ones(present))


@rule
def one_build_of_torch(case: RuleContext) -> Iterator[Finding]:
    for library in case.names(lambda facts: facts.torch_is_for):
        builds = {host: facts.torch_is_for.get(library) for host, facts in case.answered()}
        if told := agreement(builds):
            yield error(
                f"{library} that torch was built for: {told}; install the same torch on each",
                *odd_ones(builds),
            )


# --- the same data ----------------------------------------------------------------------------------------------


@rule
def one_recipe(case: RuleContext) -> Iterator[Finding]:
    """Each host reads the recipe from its own disk."""
    for file, here in case.inspection.recipes.items():
        yield from _same_file(case, file, case.here(here), "copy it to all, or commit and pull")


@rule
def one_copy_of_annotations(case: RuleContext) -> Iterator[Finding]:
    for file in case.names(lambda facts: facts.content.digests):
        if file not in case.inspection.recipes:
            advice = "copy it from one host to all, or set data.root, data.train, data.val, model.weights"
            yield from _same_file(case, file, {}, advice)


def _same_file(
    case: RuleContext, file: str, here: dict[str, str | None], advice: str
) -> Iterator[Finding]:
    digests = case.values(lambda facts: facts.content.digests.get(file)) | here
    lacking = [name for name, digest in digests.items() if digest is None]
    if lacking:
        yield error(f"{file}: cannot be read on {named(lacking)}; {advice}", *lacking)
    present = {name: digest for name, digest in digests.items() if digest is not None}
    if told := agreement(present, "one content", "another"):
        yield error(f"{file}: its content differs: {told}; {advice}", *odd_ones(present))


@rule
def one_copy_of_images(case: RuleContext) -> Iterator[Finding]:
    for place in case.names(lambda facts: facts.content.files):
        totals = {host: _total(facts.content, place) for host, facts in case.answered()}
        lacking = [name for name, total in totals.items() if total is None]
        if lacking:
            yield error(
                f"{place}: not on {named(lacking)}; copy it there, or set data.root and data.images",
                *lacking,
            )
        present = {name: total for name, total in totals.items() if total is not None}
        if told := agreement(present):
            yield error(
                f"{place}: images differ: {told}; `rsync --archive --delete` from one host to all",
                *odd_ones(present),
            )


def _total(content: Content, place: str) -> str | None:
    count = content.files.get(place, -1)
    return None if count < 0 else f"{count:,} files, {content.sizes[place]:,} bytes"


@rule
def splits_can_be_listed(case: RuleContext) -> Iterator[Finding]:
    for host, facts in case.answered():
        if facts.content.problem:
            yield error(f"{host}: {facts.content.problem}", host)


# --- what they have ---------------------------------------------------------------------------------------------


@rule
def enough_gpus(case: RuleContext) -> Iterator[Finding]:
    if not case.wants_gpus:
        return
    for host, facts in case.answered():
        if len(facts.gpus) < case.processes:
            yield error(
                f"{host}: {len(facts.gpus)} GPUs for cluster.processes_per_node {case.processes}; expected as many or more: "
                "see `nvidia-smi` there, or set cluster.processes_per_node",
                host,
            )
        elif facts.torch_is_for.get("CUDA") is None and facts.versions.get("torch"):
            yield error(f"{host}: its torch is for processors; install one for CUDA", host)


@rule
def gpus_are_used(case: RuleContext) -> Iterator[Finding]:
    having = [host for host, facts in case.answered() if facts.gpus]
    if having and not case.wants_gpus:
        yield warning(
            f"{named(having)}: GPUs that stay unused, as cluster.backend is {case.backend}, which `auto` becomes where this "
            "machine has none; start from a host with GPUs, or set cluster.backend and cluster.processes_per_node"
        )


@rule
def gpus_are_alike(case: RuleContext) -> Iterator[Finding]:
    kinds = case.values(gpus_in_words)
    if case.wants_gpus and (told := agreement(kinds)):
        yield warning(f"GPUs differ: {told}; each step waits for the slowest", *odd_ones(kinds))


@rule
def slots_hold_the_processes(case: RuleContext) -> Iterator[Finding]:
    for host in case.inspection.hosts:
        if host.slots is not None and host.slots < case.processes:
            yield warning(
                f"{host.name}: slots={host.slots} in {case.hostfile}, and cluster.processes_per_node is {case.processes}, "
                "which the launcher obeys; make them agree",
                host.name,
            )


@rule
def enough_disk(case: RuleContext) -> Iterator[Finding]:
    least = max(ALMOST_NO_DISK_BYTES, case.checkpoint_bytes)
    wanted = max(least, case.checkpoints * case.checkpoint_bytes)
    for host, facts in case.answered():
        if facts.free_bytes < wanted:
            tell = error if facts.free_bytes < least else warning
            yield tell(
                f"{host}: {facts.free_bytes / 1e9:.2f} GB free for runs/; expected {wanted / 1e9:.1f} GB or more, as a "
                f"checkpoint takes about {case.checkpoint_bytes / 1e9:.2f} GB and {case.checkpoints} are there at once: "
                "remove old runs, link runs/ to a larger disk, or lower checkpoint.keep",
                host,
            )


# --- the network and the clocks ---------------------------------------------------------------------------------


@rule
def one_mtu(case: RuleContext) -> Iterator[Finding]:
    sizes = {
        host.name: interface.mtu
        for host in case.inspection.hosts
        if (interface := case.inspection.interface_of(host)) is not None
    }
    if case.nodes > 1 and (told := agreement(sizes)):
        yield warning(
            f"MTU: {told}; large packets may be dropped or cut: `ip link set DEVICE mtu N` alike on all",
            *odd_ones(sizes),
        )


@rule
def no_link_far_below_the_others(case: RuleContext) -> Iterator[Finding]:
    rates = {
        host.name: min(host.link.to_first_mbps, host.link.from_first_mbps)
        for host in case.inspection.hosts
        if host.link is not None
    }
    for name, rate in rates.items():
        others = [other for host, other in rates.items() if host != name]
        if others and rate < FAR_BELOW * (usual := statistics.median(others)):
            yield warning(
                f"{name}: {rate:.0f} Mbit/s to or from {case.inspection.hosts[0].name}, the others {usual:.0f}: all ranks "
                "wait for it; see its cable, its `ethtool DEVICE`, and who else uses the link",
                name,
            )


@rule
def clocks_agree(case: RuleContext) -> Iterator[Finding]:
    for host in case.inspection.hosts:
        if host.link is not None and abs(host.link.clock_offset_seconds) > MOST_SKEW_SECONDS:
            ahead = host.link.clock_offset_seconds
            yield warning(
                f"{host.name}: its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} "
                f"{case.inspection.hosts[0].name}'s: logs and file times mislead; start chrony or another NTP client on both",
                host.name,
            )


def gpus_in_words(facts: HostFacts) -> str:
    """Such as `8 x H100 80 GB`."""
    kinds = [(gpu.name, round(gpu.memory_mib / 1024)) for gpu in facts.gpus]
    return ", ".join(
        f"{kinds.count(kind)} x {kind[0]}" + (f" {kind[1]} GB" if kind[1] else "")
        for kind in dict.fromkeys(kinds)
    )
