"""Rules for the hosts of a cluster: is each fit to run a recipe together with the others?

An error cannot work: training would stop, hang, or learn from data that differ. A warning is slow or doubtful.
"""

import shutil
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping

from yolo.preflight.host_info import Content, HostFacts
from yolo.preflight.rule_context import RuleContext, differences, grouped, join_names, outliers
from yolo.recipe.rules.engine import Finding, RuleSet, error, warning

HOST_RULES: RuleSet[RuleContext] = RuleSet()
rule = HOST_RULES.add

MIN_FREE_BYTES = 2**30
"""For every network: logs, figures and weights need space beside the checkpoints."""
MAX_SKEW_SECONDS = 0.5
SLOW_LINK_RATIO = 0.5
"""To the other links' median: less than half is no noise of the measurement, which takes a second."""


@rule
def every_host_answers(context: RuleContext) -> Iterator[Finding]:
    for host in context.inspection.hosts:
        if host.facts is None:
            yield error(f"{host.name}: {host.problem}", hosts=[host.name])


@rule
def every_host_reaches_the_first(context: RuleContext) -> Iterator[Finding]:
    problems = {host.name: host.link_problem for host in context.inspection.hosts}
    for problem, hosts in grouped(problems).items():
        if problem:
            yield error(f"{join_names(hosts)}: link not measured: {problem}", hosts=hosts)


@rule
def the_launcher_needs_pdsh(context: RuleContext) -> Iterator[Finding]:
    if context.hostfile is not None and shutil.which("pdsh") is None:
        text = "pdsh: no such program on this machine; `yolo train` starts several hosts with it: install pdsh"
        yield warning(text)


@rule
def one_commit(context: RuleContext) -> Iterator[Finding]:
    commits = context.values(lambda facts: facts.code.commit)
    known = {name: commit[:12] for name, commit in commits.items() if commit is not None}
    if found := differences(known):
        usual, odd = statistics.mode(known.values()), outliers(known)
        remedy = f"`git fetch && git checkout {usual}` in {context.folder} on {join_names(odd)}"
        yield error(f"commit: {found}; {remedy}, or the others' likewise", hosts=odd)


@rule
def one_source(context: RuleContext) -> Iterator[Finding]:
    """Compare the files too: git may not answer, or report the same commit for files that were changed."""
    commits = set(context.values(lambda facts: facts.code.commit).values()) - {None}
    sources = context.values(lambda facts: facts.code.source)
    sources |= context.here(context.inspection.source)
    if len(commits) < 2 and (found := differences(sources, "one version", "another")):
        yield error(
            f"the files in yolo/ differ, though the hosts' commits do not: {found}; commit, push and pull, or copy the "
            "folder to all",
            hosts=outliers(sources),
        )


@rule
def nothing_uncommitted(context: RuleContext) -> Iterator[Finding]:
    changed = context.values(lambda facts: facts.code.changed)
    dirty = [name for name, number in changed.items() if number]
    if dirty:
        yield warning(
            f"uncommitted changes on {join_names(dirty)} (up to {max(changed.values())} files): nobody can find out later "
            "what ran; commit them, or `git stash`",
            hosts=dirty,
        )


@rule
def git_answers(context: RuleContext) -> Iterator[Finding]:
    for host, facts in context.answered():
        if facts.code.commit is None:
            yield warning(f"{host}: the commit is unknown: {facts.code.problem}", hosts=[host])


@rule
def one_version_of_each_package(context: RuleContext) -> Iterator[Finding]:
    for package, versions in context.by_name(lambda facts: facts.versions):
        advice = (
            "install one, and run `make setup` again"
            if package == "Python"
            else "`rm .venv/ready && make setup` on each installs what requirements.txt names"
        )
        lacks = "not installed on {}; `make setup` there installs it"
        yield from _same_on_all(package, versions, lacks, f"{{}}; {advice}")


def _same_on_all(
    subject: str, values: Mapping[str, str | None], lacks: str, differs: str, *words: str
) -> Iterator[Finding]:
    """Errors for hosts without a value (`lacks`, with {} for them), and for different values (`differs`)."""
    lacking = [name for name, value in values.items() if value is None]
    if lacking:
        yield error(f"{subject}: {lacks.format(join_names(lacking))}", hosts=lacking)
    present = {name: value for name, value in values.items() if value is not None}
    if found := differences(present, *words):
        yield error(f"{subject}: {differs.format(found)}", hosts=outliers(present))


@rule
def one_build_of_torch(context: RuleContext) -> Iterator[Finding]:
    for library, builds in context.by_name(lambda facts: facts.torch_is_for):
        if found := differences(builds):
            text = f"{library} that torch was built for: {found}; install the same torch on each"
            yield error(text, hosts=outliers(builds))


@rule
def one_copy_of_each_file(context: RuleContext) -> Iterator[Finding]:
    """Each host reads the recipe, annotations and weights from its own disk."""
    recipes = context.inspection.recipes
    for file, digests in context.by_name(lambda facts: facts.content.digests):
        advice = "copy it to all, or set data.root, data.train, data.val, model.weights"
        if file in recipes:
            digests |= context.here(recipes[file])
            advice = "copy it to all, or commit and pull"
        lacks, differs = f"cannot be read on {{}}; {advice}", f"its content differs: {{}}; {advice}"
        yield from _same_on_all(file, digests, lacks, differs, "one content", "another")


@rule
def one_copy_of_images(context: RuleContext) -> Iterator[Finding]:
    for place, totals in context.by_name(lambda facts: _totals(facts.content)):
        lacks = "not on {}; copy it there, or set data.root and data.images"
        differs = "images differ: {}; `rsync --archive --delete` from one host to all"
        yield from _same_on_all(place, totals, lacks, differs)


def _totals(content: Content) -> dict[str, str | None]:
    """Number and bytes of the images in each place; None if there are none."""
    return {
        place: None if count < 0 else f"{count:,} files, {content.sizes[place]:,} bytes"
        for place, count in content.files.items()
    }


@rule
def splits_can_be_listed(context: RuleContext) -> Iterator[Finding]:
    for host, facts in context.answered():
        if facts.content.problem:
            yield error(f"{host}: {facts.content.problem}", hosts=[host])


@rule
def enough_gpus(context: RuleContext) -> Iterator[Finding]:
    if context.accelerator == "cpu":
        return
    for host, facts in context.answered():
        if len(facts.gpus) < context.processes:
            yield error(
                f"{host}: {len(facts.gpus)} GPUs for cluster.processes_per_node {context.processes}; expected as many or "
                "more: see `nvidia-smi` there, or set cluster.processes_per_node, or cluster.accelerator=cpu",
                hosts=[host],
            )
        elif facts.torch_is_for.get("CUDA") is None and facts.versions.get("torch"):
            text = f"{host}: its torch is built for CPUs only; install one for CUDA"
            yield error(text, hosts=[host])


@rule
def gpus_are_used(context: RuleContext) -> Iterator[Finding]:
    having = [host for host, facts in context.answered() if facts.gpus]
    if having and context.accelerator == "cpu":
        yield warning(
            f"{join_names(having)}: GPUs are not used: cluster.accelerator is cpu; set it to cuda"
        )


@rule
def gpus_are_alike(context: RuleContext) -> Iterator[Finding]:
    kinds = context.values(gpu_names)
    if context.accelerator == "cuda" and (found := differences(kinds)):
        text = f"GPUs differ: {found}; each step waits for the slowest"
        yield warning(text, hosts=outliers(kinds))


@rule
def enough_disk(context: RuleContext) -> Iterator[Finding]:
    least = max(MIN_FREE_BYTES, context.checkpoint_bytes)
    expected = max(least, context.checkpoints * context.checkpoint_bytes)
    for host, facts in context.answered():
        if facts.free_bytes < expected:
            finding = error if facts.free_bytes < least else warning
            yield finding(
                f"{host}: {facts.free_bytes / 1e9:.2f} GB free for runs/; expected {expected / 1e9:.1f} GB or more, as a "
                f"checkpoint takes about {context.checkpoint_bytes / 1e9:.2f} GB and {context.checkpoints} are stored at "
                "once: remove old runs, link runs/ to a larger disk, or lower checkpoint.keep",
                hosts=[host],
            )


@rule
def one_mtu(context: RuleContext) -> Iterator[Finding]:
    sizes = {
        host.name: interface.mtu
        for host in context.inspection.hosts
        if (interface := context.inspection.interface_of(host)) is not None
    }
    if found := differences(sizes):
        text = f"MTU: {found}; large packets may be dropped or cut: `ip link set DEVICE mtu N` alike on all"
        yield warning(text, hosts=outliers(sizes))


@rule
def no_link_far_below_the_others(context: RuleContext) -> Iterator[Finding]:
    rates = {
        host.name: min(host.link.to_first_mbps, host.link.from_first_mbps)
        for host in context.inspection.hosts
        if host.link is not None
    }
    for name, rate in rates.items():
        others = [other for host, other in rates.items() if host != name]
        if others and rate < SLOW_LINK_RATIO * (usual := statistics.median(others)):
            yield warning(
                f"{name}: {rate:.0f} Mbit/s to or from {context.inspection.hosts[0].name}, the others {usual:.0f}: all ranks "
                "wait for it; check its cable, its `ethtool DEVICE`, and who else uses the link",
                hosts=[name],
            )


@rule
def clocks_agree(context: RuleContext) -> Iterator[Finding]:
    for host in context.inspection.hosts:
        ahead = host.link.clock_offset_seconds if host.link is not None else 0.0
        if abs(ahead) > MAX_SKEW_SECONDS:
            yield warning(
                f"{host.name}: its clock is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} "
                f"{context.inspection.hosts[0].name}'s: logs and file times mislead; start chrony or another NTP client on "
                "both",
                hosts=[host.name],
            )


def gpu_names(facts: HostFacts) -> str:
    """Name a host's GPUs, such as `8 x H100 80 GB`."""
    kinds = Counter((gpu.name, round(gpu.memory_mib / 1024)) for gpu in facts.gpus)
    return ", ".join(
        f"{number} x {name}" + (f" {gigabytes} GB" if gigabytes else "")
        for (name, gigabytes), number in kinds.items()
    )
