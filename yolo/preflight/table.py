"""Hosts for people: a line each."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.markup import escape
from rich.table import Table

from yolo.preflight.collect import Inspection
from yolo.preflight.host_info import Content, HostFacts, HostReport
from yolo.preflight.rules import gpus_in_words

COLUMNS = (
    ("host", "left"),
    ("commit", "left"),
    ("Python", "left"),
    ("torch", "left"),
    ("CUDA, NCCL", "left"),
    ("DeepSpeed", "left"),
    ("NumPy", "left"),
    ("GPUs", "left"),
    ("free GB", "right"),
    ("interface", "left"),
    ("Mbit/s to first", "right"),
    ("from", "right"),
    ("round trip ms", "right"),
    ("clock ms", "right"),
    ("data", "left"),
)


def host_table(inspection: Inspection, bad: Sequence[str] = ()) -> Table:
    """All hosts; `bad` ones in red.

    A star beside the commit says that files were changed after it. The digest behind the data is of all that was looked
    at: equal data, equal digest.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading, kind in COLUMNS:
        table.add_column(heading, justify=kind, no_wrap=heading == "host")  # type: ignore[arg-type]
    for host in inspection.hosts:
        style = "red" if host.name in bad else None
        if host.facts is None:
            table.add_row(escape(host.name), "no answer", style=style)
            continue
        cells = [
            host.name,
            *_program(host.facts),
            gpus_in_words(host.facts) or "none",
            f"{host.facts.free_bytes / 1e9:.1f}",
            _interface(inspection, host),
            *_link(host),
            _data(host.facts.content),
        ]
        table.add_row(*map(escape, cells), style=style)
    return table


def _program(facts: HostFacts) -> list[str]:
    commit = (facts.code.commit or "unknown")[:8] + ("*" if facts.code.changed else "")
    versions = [facts.versions.get(name) or "none" for name in ("Python", "torch")]
    libraries = ", ".join(filter(None, facts.torch_is_for.values())) or "none"
    others = [facts.versions.get(name) or "none" for name in ("deepspeed", "numpy")]
    return [commit, *versions, libraries, *others]


def _interface(inspection: Inspection, host: HostReport) -> str:
    interface = inspection.interface_of(host)
    return f"{interface.name} (MTU {interface.mtu})" if interface else ""


def _link(host: HostReport) -> list[str]:
    link = host.link
    if link is None:
        return ["", "", "", ""]
    return [
        f"{link.to_first_mbps:,.0f}",
        f"{link.from_first_mbps:,.0f}",
        f"{link.round_trip_seconds * 1e3:.2f}",
        f"{link.clock_offset_seconds * 1e3:+.2f}",
    ]


def _data(content: Content) -> str:
    if -1 in content.files.values():
        return "missing"
    megabytes = sum(content.sizes.values()) / 1e6
    digest = hashlib.sha256(json.dumps(asdict(content), sort_keys=True).encode()).hexdigest()
    return f"{sum(content.files.values()):,} files, {megabytes:,.1f} MB, {digest[:8]}"
