"""`python -m yolo check --cluster`: the hosts as a table or as JSON, then what differs or is missing."""

import json
import sys
from dataclasses import asdict

from rich.console import Console

from yolo.data.progress_protocol import ProgressFactory
from yolo.errors import ClusterError
from yolo.preflight import rules  # noqa: F401  adds its rules
from yolo.preflight.collect import Inspection, inspect
from yolo.preflight.rule_engine import Finding, case_of, findings_of
from yolo.preflight.table import host_table
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Severity

WIDTH = 220
"""Of a table that goes into a file."""


def check_hosts(
    resolved: ResolvedRecipe, seconds: int, as_json: bool, counting: ProgressFactory
) -> None:
    """Look at the recipe's hosts, each answer within `seconds`, and print what is there.

    Raises ClusterError with a line for each thing that cannot work.
    """
    inspection = inspect(resolved, seconds, counting)
    found = findings_of(case_of(resolved, inspection))
    errors = [finding for finding in found if finding.severity is Severity.ERROR]
    if as_json:
        print(json.dumps(_as_json(resolved, inspection, found), indent=2))
    else:
        bad = [name for finding in errors for name in finding.hosts]
        Console(width=None if sys.stdout.isatty() else WIDTH).print(host_table(inspection, bad))
        for finding in found[len(errors) :]:
            print(f"warning: {finding.text}")
    if errors:
        raise ClusterError("\n".join(finding.text for finding in errors))
    if not as_json:
        hosts = "1 host" if len(inspection.hosts) == 1 else f"{len(inspection.hosts)} hosts"
        print(f"{resolved.loaded.path}: {hosts} can run it, {resolved.world_size} ranks")


def _as_json(
    resolved: ResolvedRecipe, inspection: Inspection, found: list[Finding]
) -> dict[str, object]:
    return {
        "recipe": str(resolved.loaded.path),
        "ranks": resolved.world_size,
        "here": {"source": inspection.source, "recipes": inspection.recipes},
        "hosts": [asdict(host) for host in inspection.hosts],
        "findings": [asdict(finding) for finding in found],
    }
