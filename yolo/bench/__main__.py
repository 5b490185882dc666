"""Train a recipe on an emulated cluster: `python -m yolo.bench --hosts 2 --bandwidth 100 recipes/demo.yaml`."""

import argparse
import json
import sys
from collections.abc import Sequence
from statistics import fmean

from rich.console import Console
from rich.table import Table

from yolo.bench.command_line import check_files, recipe_parser
from yolo.emulation import link_check
from yolo.emulation.cluster import EmulatedCluster, check_rights
from yolo.errors import BenchError, exit_code_of
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory, new_run

BRIEF = (
    *("train.epochs=1", "model.image_size=64"),
    *("tracking.log_every_steps=5", "tracking.wandb.mode=disabled"),
)
"""Enough for a step time; the user's overrides come after these and win."""
ONE_RANK_PER_HOST = ("cluster.processes_per_node=1", "cluster.threads_per_process=1")
WIRE_BYTES = "communication/wire_bytes_per_step"


class StepTraffic:
    """Compares the bytes of training steps by the meter and by the interfaces; skips evaluations between them."""

    def __init__(self, cluster: EmulatedCluster, run: RunDirectory) -> None:
        self._cluster = cluster
        self._run = run
        self._checking_links = self._counted()
        self._lines = 0
        self._last: tuple[int, float] | None = None
        """The step of the log's last line, and `sent_bytes` then."""
        self._steps, self._metered, self._sent = 0, 0.0, 0.0
        """Compared steps, and their bytes per rank by the meter and by the interfaces."""
        self._before_steps: float | None = None
        """Bytes that a host sent until the first step."""

    def _counted(self) -> float:
        return fmean(host.counters().sent_bytes for host in self._cluster.hosts)

    def sent_bytes(self) -> float:
        """Bytes that a host has sent so far, since the links were checked; mean over the hosts."""
        return self._counted() - self._checking_links

    def look(self) -> None:
        """Read the interfaces if the log has a new line; call this often while the training runs."""
        if not self._run.metrics.is_file():
            return
        *lines, _ = self._run.metrics.read_text().split("\n")  # the last one is incomplete
        new, self._lines = lines[self._lines :], len(lines)
        if not new:
            return
        record = json.loads(new[-1])
        step, sent = record["step"], self.sent_bytes()
        if self._before_steps is None:
            self._before_steps = sent - record.get(WIRE_BYTES, 0.0) * step
        if len(new) == 1 and record["kind"] == "step" and self._last is not None:
            step_before, sent_before = self._last
            self._steps += step - step_before
            self._metered += record.get(WIRE_BYTES, 0.0) * (step - step_before)
            self._sent += sent - sent_before
        self._last = step, sent

    def rows(self) -> list[tuple[str, str]]:
        """The meter's and the interfaces' bytes for a table; none if too few lines were logged to compare."""
        if not self._metered:
            return []
        metered, sent = (each / self._steps / 1e6 for each in (self._metered, self._sent))
        ratio = f"over {self._steps} steps: {self._sent / self._metered:.3f} times the meter's"
        return [
            ("meter, sent", f"{metered:.3f} MB per step per rank"),
            ("eth0, sent", f"{sent:.3f} MB per step per rank, {ratio}"),
        ]

    def rows_of_run(self, metered: float, total: float) -> list[tuple[str, str]]:
        """What the interfaces sent in a full run, `total` bytes, told apart; `metered` are its steps' by the meter."""
        whole = ("full run, eth0 sent", f"{total / 1e6:.1f} MB per rank")
        if not self._metered or self._before_steps is None:
            return [whole]
        in_steps = metered * self._sent / self._metered
        rest = total - self._before_steps - in_steps
        return [
            whole,
            ("  start", f"{self._before_steps / 1e6:.1f} MB"),
            ("  training steps", f"{in_steps / 1e6:.1f} MB, the meter's times the ratio above"),
            ("  evaluations, checkpoints, end", f"{rest / 1e6:.1f} MB"),
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a cluster, check its links, train on it; returns the exit code, 2 for an error that the user can fix."""
    added = f"after the benchmark's own: {' '.join(BRIEF)}"
    parser = recipe_parser("yolo.bench", __doc__, overrides_help=added)
    parser.add_argument("--hosts", type=int, default=2, metavar="N", help="default 2")
    parser.add_argument(
        "--bandwidth",
        type=float,
        metavar="MBPS",
        help="per link and direction, in Mbit/s (default: not shaped)",
    )
    parser.add_argument(
        "--timeout", type=float, default=1800, metavar="SECONDS", help="for the training"
    )
    options = parser.parse_args(arguments)
    return exit_code_of(lambda: _bench(options), "bench")


def _bench(options: argparse.Namespace) -> None:
    check_rights()
    overrides = [*BRIEF, f"cluster.nodes={options.hosts}", *ONE_RANK_PER_HOST, *options.overrides]
    check_files(prepare(options.recipe, overrides, options.hosts, 1).resolved)
    run = RunDirectory(new_run("bench").path.resolve())
    arguments = ["--module", "yolo.train", "--recipe", str(options.recipe)]
    with EmulatedCluster(options.hosts, options.bandwidth) as cluster:
        _print_link_check(link_check.check(cluster))
        traffic = StepTraffic(cluster, run)
        output = run.path / "hosts"
        processes = cluster.launch([*arguments, "--run", str(run.path), *overrides], output)
        print(f"training on {len(cluster.hosts)} hosts; their output is in {output}")
        cluster.wait(processes, options.timeout, traffic.look)
        sent = traffic.sent_bytes()
    if not run.finished.exists():
        raise BenchError(f"the hosts ended without an error, but {run.finished} is missing")
    summary = json.loads(run.summary.read_text())
    waiting = summary["exposed_communication_seconds_per_step"]
    rows = [
        ("step", f"{summary['step_seconds'] * 1e3:.0f} ms, {summary['steps']} steps"),
        ("waiting for collectives", f"{waiting * 1e3:.0f} ms per step"),
        *traffic.rows(),
        *traffic.rows_of_run(summary["wire_bytes_per_rank"], sent),
    ]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _print_link_check(rows: Sequence[link_check.LinkCheckRow]) -> None:
    if not rows:
        return
    print(f"messages at the requested rate: the fastest try, within {link_check.TOLERANCE:.0%}")
    table = Table("from", "to", box=None, pad_edge=False)
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


if __name__ == "__main__":
    sys.exit(main())
