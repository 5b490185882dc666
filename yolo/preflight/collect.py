"""Probe all hosts at once, then measure one link after another."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from yolo.data.location import INDEX, annotation_path, shard_location
from yolo.data.progress_protocol import ProgressFactory
from yolo.preflight.data_digest import digest_of, digest_of_source
from yolo.preflight.host_info import HostFacts, HostReport, Interface, LinkMeasurement, ProbeRequest
from yolo.preflight.local import listed_hosts
from yolo.preflight.probe import PACKAGE_FOLDER
from yolo.preflight.ssh import NoAnswer, answer_from, running
from yolo.recipe.load.merge import Source
from yolo.recipe.resolve.hostfile import ListedHost
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.data import is_url

PROBE, BANDWIDTH = "yolo.preflight.probe", "yolo.preflight.bandwidth"
MIN_LINK_SECONDS = 20
"""Timeout of a link's measurement: longer than its sockets', so that they can report what is wrong."""
FACTS, LINK = TypeAdapter(HostFacts), TypeAdapter(LinkMeasurement)


@dataclass(frozen=True, slots=True)
class Inspection:
    """All that was found on the hosts and on this machine."""

    hosts: tuple[HostReport, ...]
    """In the hostfile's order: ranks rendezvous on the first."""
    source: str
    """Digest of the package's Python files on this machine, which need not be one of the hosts."""
    recipes: dict[str, str | None]
    """sha256 of the recipe and its parents on this machine."""

    def interface_of(self, host: HostReport) -> Interface | None:
        """The interface of a host's link to the first host; for the first, the one with its rendezvous address."""
        if host.facts is None:
            return None
        address = host.link.local_address if host.link else host.facts.address
        return next((each for each in host.facts.interfaces if each.address == address), None)


def inspect(resolved: ResolvedRecipe, seconds: int, counting: ProgressFactory) -> Inspection:
    """Inspect the hosts of a recipe; each answer may take `seconds`.

    A host that does not answer is no error here. Raises ClusterError if the list of hosts cannot be read.
    """
    listed = listed_hosts(resolved.recipe.cluster)
    request = json.dumps(asdict(probe_request(resolved, seconds)))
    with (
        counting("asking hosts", len(listed)) as advance,
        ThreadPoolExecutor(len(listed)) as threads,
    ):
        pending = [threads.submit(_probe, host, request, seconds) for host in listed]
        for _ in as_completed(pending):
            advance(1)
    reports = [each.result() for each in pending]
    if len(reports) > 1:
        with counting("measuring links", len(reports) - 1) as advance:
            for number, report in enumerate(_with_links(reports, seconds), start=1):
                reports[number] = report
                advance(1)
    recipes = {file: digest_of(Path(file)) for file in recipe_files(resolved)}
    return Inspection(tuple(reports), digest_of_source(PACKAGE_FOLDER), recipes)


def probe_request(resolved: ResolvedRecipe, seconds: int) -> ProbeRequest:
    """What each host is to report: the files that every rank reads, and the folders of images."""
    recipe, root = resolved.recipe, Path(resolved.recipe.data.root)
    files = [str(annotation_path(recipe.data, split)) for split in ("train", "val")]
    folders, splits = [], []
    if recipe.data.format == "shards":
        places = [shard_location(recipe.data, split) for split in ("train", "val")]
        files = [f"{place}/{INDEX}" for place in places if not is_url(place)]
    elif recipe.data.format == "yolo":
        splits = [(files[0], "train"), (files[1], "val")]
    elif recipe.data.format == "voc":
        files, folders = [], [str(root)]
    else:
        folders = [str(root / recipe.data.images), str(root / recipe.data.val_images)]
    if recipe.model.weights is not None:
        files.append(recipe.model.weights)
    return ProbeRequest(
        files=list(dict.fromkeys([*recipe_files(resolved), *files])),
        folders=list(dict.fromkeys(folders)),
        splits=splits,
        seconds=seconds,
    )


def recipe_files(resolved: ResolvedRecipe) -> list[str]:
    """The recipe, its parents, and the profile of the cluster if that is a file."""
    parents = {
        origin.place.rpartition(":")[0]
        for origin in resolved.loaded.origins.values()
        if origin.source is Source.PARENT
    }
    profile = resolved.recipe.cluster.profile
    profiles = [profile] if profile is not None and Path(profile).is_file() else []
    return [str(resolved.loaded.path), *sorted(parents), *profiles]


def _probe(host: ListedHost, request: str, seconds: int) -> HostReport:
    try:
        line = answer_from(host.over_ssh, PROBE, request, seconds=seconds)
        return HostReport(host.name, host.slots, FACTS.validate_json(line))
    except NoAnswer as error:
        problem = str(error)
    except ValidationError:
        problem = "its answer has another form; expected this repository there at the same commit"
    return HostReport(host.name, host.slots, None, problem)


def _with_links(reports: list[HostReport], seconds: int) -> Iterator[HostReport]:
    """Yield all reports but the first, each with its link to the first host."""
    first, *others = reports
    if first.facts is None:  # which is reported already
        yield from others
        return
    address = first.facts.address or first.name
    timeout = max(seconds, MIN_LINK_SECONDS)
    # The first host serves all the others, one after another.
    lifetime = str(timeout * len(reports))
    try:
        with running(first.name, BANDWIDTH, "serve", lifetime, seconds=seconds) as line:
            port = str(json.loads(line)["port"])
            for each in others:
                yield _measured(each, address, port, timeout) if each.facts else each
    except NoAnswer as error:
        yield from (replace(each, link_problem=f"{first.name}: {error}") for each in others)


def _measured(report: HostReport, address: str, port: str, seconds: int) -> HostReport:
    try:
        line = answer_from(report.name, BANDWIDTH, "measure", address, port, seconds=seconds)
    except NoAnswer as error:
        return replace(report, link_problem=str(error))
    return replace(report, link=LINK.validate_json(line))
