"""`yolo check --cluster`: print the hosts as a table or as JSON, then the findings of the rules."""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yolo.data.progress_protocol import ProgressFactory
from yolo.errors import ClusterError
from yolo.preflight.collect import Inspection, inspect
from yolo.preflight.host_info import Content, HostFacts, HostReport
from yolo.preflight.rule_context import rule_context
from yolo.preflight.rules import HOST_RULES, gpu_names
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Severity

FILE_WIDTH = 220
"""Columns of a table that is written into a file."""
RIGHT = ("free GB", "Mbit/s to first", "from", "round trip ms", "clock ms")
"""Right-justified columns."""
HEADINGS = (
    *("host", "commit", "Python", "torch", "CUDA, NCCL", "DeepSpeed", "NumPy", "GPUs"),
    *("free GB", "interface", *RIGHT[1:], "data"),
)


def check_hosts(
    resolved: ResolvedRecipe, seconds: int, as_json: bool, counting: ProgressFactory
) -> None:
    """Inspect the recipe's hosts, each answer within `seconds`, and print what was found.

    Raises ClusterError with one line per error.
    """
    inspection = inspect(resolved, seconds, counting)
    findings = HOST_RULES.check(rule_context(resolved, inspection))
    errors = [finding for finding in findings if finding.severity is Severity.ERROR]
    if as_json:
        shown = {
            "recipe": str(resolved.loaded.path),
            "ranks": resolved.world_size,
            "here": {"source": inspection.source, "recipes": inspection.recipes},
            "hosts": [asdict(host) for host in inspection.hosts],
            "findings": [
                {"severity": each.severity, "text": each.text, "hosts": each.hosts}
                for each in findings
            ],
        }
        print(json.dumps(shown, indent=2))
    else:
        bad = [name for finding in errors for name in finding.hosts]
        console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
        console.print(_host_table(inspection, bad))
        for finding in findings[len(errors) :]:
            print(f"warning: {finding.text}")
    if errors:
        raise ClusterError("\n".join(finding.text for finding in errors))
    if not as_json:
        hosts = "1 host" if len(inspection.hosts) == 1 else f"{len(inspection.hosts)} hosts"
        print(f"{resolved.loaded.path}: {hosts} can run it, {resolved.world_size} ranks")


def _host_table(inspection: Inspection, bad: Sequence[str]) -> Table:
    """All hosts, one per line; `bad` ones in red.

    A star beside the commit: files were changed after it. The digest in the data column covers all files that were
    inspected: equal data, equal digest.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(
            heading, justify="right" if heading in RIGHT else "left", no_wrap=heading == "host"
        )
    for host in inspection.hosts:
        style = "red" if host.name in bad else None
        if host.facts is None:
            table.add_row(escape(host.name), "no answer", style=style)
            continue
        interface = inspection.interface_of(host)
        cells = [
            host.name,
            *_program(host.facts),
            gpu_names(host.facts) or "none",
            f"{host.facts.free_bytes / 1e9:.1f}",
            f"{interface.name} (MTU {interface.mtu})" if interface else "",
            *_link(host),
            _data(host.facts.content),
        ]
        table.add_row(*map(escape, cells), style=style)
    return table


def _program(facts: HostFacts) -> list[str]:
    commit = (facts.code.commit or "unknown")[:8] + ("*" if facts.code.changed else "")
    packages = ("Python", "torch", "deepspeed", "numpy")
    python, torch, *others = (facts.versions.get(package) or "none" for package in packages)
    libraries = ", ".join(filter(None, facts.torch_is_for.values())) or "none"
    return [commit, python, torch, libraries, *others]


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
