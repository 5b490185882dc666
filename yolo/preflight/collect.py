"""Ask all hosts at once what they are, then measure one link after another."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from yolo.data.progress_protocol import ProgressFactory
from yolo.preflight.data_digest import digest_of, digest_of_source
from yolo.preflight.host_info import HostFacts, HostReport, Interface, LinkMeasurement
from yolo.preflight.hosts import ListedHost, listed_hosts
from yolo.preflight.probe import PACKAGE_FOLDER
from yolo.preflight.request import question_of, recipe_files
from yolo.preflight.ssh import NoAnswer, answer_from, running
from yolo.recipe.resolve.resolve import ResolvedRecipe

PROBE, BANDWIDTH = "yolo.preflight.probe", "yolo.preflight.bandwidth"
LINK_SECONDS = 20
"""At least, for a link: longer than its sockets wait, so that they can say what was in the way."""
FACTS, LINK = TypeAdapter(HostFacts), TypeAdapter(LinkMeasurement)


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found out."""

    hosts: tuple[HostReport, ...]
    """In the list's order: ranks meet on the first."""
    source: str
    """Digest of the package's Python files on this machine, which need not be one of the hosts."""
    recipes: dict[str, str | None]
    """sha256 of the recipe and its parents on this machine."""

    def interface_of(self, host: HostReport) -> Interface | None:
        """The interface that a host's link to the first was measured over; the first's, that it is met on."""
        if host.facts is None:
            return None
        address = host.link.local_address if host.link else host.facts.address
        return host.facts.interface(address)


def inspect(resolved: ResolvedRecipe, seconds: int, counting: ProgressFactory) -> Inspection:
    """Look at the hosts of a recipe; each answer may take `seconds`.

    A host that does not answer is no error here. Raises ClusterError where the list of hosts cannot be read.
    """
    listed = listed_hosts(resolved.recipe.cluster)
    question = json.dumps(asdict(question_of(resolved, seconds)))
    with (
        counting("asking hosts", len(listed)) as advance,
        ThreadPoolExecutor(len(listed)) as threads,
    ):
        asked = [threads.submit(_report, host, question, seconds) for host in listed]
        for _ in as_completed(asked):
            advance(1)
    reports = [each.result() for each in asked]
    if len(reports) > 1:
        with counting("measuring links", len(reports) - 1) as advance:
            for number, report in enumerate(_with_links(reports, seconds), start=1):
                reports[number] = report
                advance(1)
    return Inspection(
        tuple(reports),
        digest_of_source(PACKAGE_FOLDER),
        {file: digest_of(Path(file)) for file in recipe_files(resolved)},
    )


def _report(host: ListedHost, question: str, seconds: int) -> HostReport:
    try:
        facts = FACTS.validate_json(answer_from(host.over_ssh, PROBE, question, seconds=seconds))
    except NoAnswer as error:
        return HostReport(host.name, host.slots, None, str(error))
    except ValidationError:
        return HostReport(
            host.name,
            host.slots,
            None,
            "its answer has another form; expected this repository there at the same commit",
        )
    return HostReport(host.name, host.slots, facts)


def _with_links(reports: list[HostReport], seconds: int) -> Iterator[HostReport]:
    """All but the first, with what was measured between them and the first."""
    first, *others = reports
    if first.facts is None:  # which is told already
        yield from others
        return
    address = first.facts.address or first.name
    try:
        # It serves all the others, one after another.
        most = str(max(seconds, LINK_SECONDS) * len(reports))
        with running(first.name, BANDWIDTH, "answer", most, seconds=seconds) as line:
            port = str(json.loads(line)["port"])
            for each in others:
                yield _measured(each, address, port, seconds) if each.facts else each
    except NoAnswer as error:
        yield from (replace(each, link_problem=f"{first.name}: {error}") for each in others)


def _measured(report: HostReport, address: str, port: str, seconds: int) -> HostReport:
    patient = max(seconds, LINK_SECONDS)
    try:
        line = answer_from(report.name, BANDWIDTH, "ask", address, port, seconds=patient)
    except NoAnswer as error:
        return replace(report, link_problem=str(error))
    return replace(report, link=LINK.validate_json(line))
