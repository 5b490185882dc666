"""Train a recipe on an emulated cluster: `python -m yolo.bench --hosts 2 --bandwidth 100 recipes/demo.yaml`."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from yolo.bench.communication.interface_traffic import StepTraffic
from yolo.emulation import link_check as gate
from yolo.emulation.cluster import EmulatedCluster, check_rights
from yolo.errors import BenchError, exit_code_of
from yolo.preflight.local import missing_here
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

BRIEF = (
    "train.epochs=1",
    "model.image_size=64",
    "tracking.log_every_steps=5",
    "tracking.wandb.mode=disabled",
)
"""Enough for a step time; the user's overrides come after these and win."""
ONE_RANK_A_HOST = ("cluster.processes_per_node=1", "cluster.threads_per_process=1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a cluster, check its links, train on it; returns the exit code, 2 where the user has to put something right."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench", description=__doc__)
    parser.add_argument("recipe", type=Path, help="the recipe's YAML file")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="section.key=value",
        help=f"after the benchmark's own: {' '.join(BRIEF)}",
    )
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--bandwidth",
        type=float,
        metavar="MBPS",
        help="of every link and direction, in Mbit/s (default: not shaped)",
    )
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="SECONDS", help="for the training"
    )
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench")


def _bench(options: argparse.Namespace) -> None:
    check_rights()
    overrides = [*BRIEF, f"cluster.nodes={options.hosts}", *ONE_RANK_A_HOST, *options.overrides]
    resolved = prepare(options.recipe, overrides, options.hosts, 1).resolved
    if lack := list(missing_here(resolved)):
        raise BenchError("\n".join(lack))
    run = RunDirectory(new_run("bench").path.resolve())
    with EmulatedCluster(options.hosts, options.bandwidth) as cluster:
        _print_gate(gate.check(cluster))
        traffic = StepTraffic(cluster, run)
        before = [host.counters() for host in cluster.hosts]
        processes = cluster.launch(
            [
                *("--module", "yolo.train", "--recipe", str(options.recipe)),
                *("--run", str(run.path), *overrides),
            ],
            run.path / "hosts",
        )
        print(f"training on {len(cluster.hosts)} hosts; they print to {run.path / 'hosts'}")
        cluster.wait(processes, options.timeout, traffic.look)
        total = [
            host.counters() - earlier for host, earlier in zip(cluster.hosts, before, strict=True)
        ]
    if not run.finished.exists():
        raise BenchError(f"the hosts ended without an error, but {run.finished} is missing")
    summary = json.loads(run.summary.read_text())
    rows = [
        ("step", f"{summary['step_seconds'] * 1e3:.0f} ms, {summary['steps']} steps"),
        (
            "waiting for collectives",
            f"{summary['exposed_communication_seconds_per_step'] * 1e3:.0f} ms a step",
        ),
        *traffic.rows(),
        (
            "whole run, eth0 sent",
            f"{_mean([counters.sent_bytes for counters in total]) / 1e6:.1f} MB a rank, start and evaluation included",
        ),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _print_gate(rows: Sequence[gate.LinkCheckRow]) -> None:
    if not rows:
        return
    print(f"messages at the asked-for rate: the fastest of some tries, within {gate.TOLERANCE:.0%}")
    table = Table(box=None, pad_edge=False)
    table.add_column("from")
    table.add_column("to")
    for heading in ("bytes", "expected ms", "measured ms", "deviation"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            row.sender,
            row.receiver,
            f"{row.size:,}",
            f"{row.ideal_seconds * 1e3:.2f}",
            f"{row.seconds * 1e3:.2f}",
            f"{row.deviation:+.1%}",
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(main())
