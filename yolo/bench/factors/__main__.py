"""What each factor of communication changes: `python -m yolo.bench.factors`.

Protocol, bandwidth and message size by all-reduces; mode, amount of data and model size by real training steps.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.progress import Progress, TaskID

from yolo.architecture import VARIANTS
from yolo.bench import results
from yolo.bench.command_line import add_out, bench_progress, numbers
from yolo.bench.communication.cell import EmulatedCell, Launch, Line, emulated_cell, run_ranks
from yolo.bench.factors.figure import figure
from yolo.bench.factors.protocols import PROTOCOLS, Protocol
from yolo.bench.factors.rows import HOSTS, AbsentProtocol, FactorResults, ProtocolRow
from yolo.bench.factors.steps import CaseTiming, Factor, cases
from yolo.bench.factors.tables import markdown
from yolo.emulation.cluster import EmulatedCluster, check_rights
from yolo.errors import BenchError, exit_code_of

PROTOCOL = "protocol"
FACTORS = (PROTOCOL, *Factor)
SIZES = ",".join(str(2**power) for power in (10, 16, 20, 23))
MACHINE = results.machine_facts("one rank on each of 2 emulated hosts; training steps over gloo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the results; returns the exit code, 2 for an error that the user can fix."""
    parser = argparse.ArgumentParser(prog="python -m yolo.bench.factors", description=__doc__)
    parser.add_argument("--factors", default="all", help=f"some of {','.join(FACTORS)}, or all")
    parser.add_argument("--protocols", default="all", help="names, or all that are here")
    parser.add_argument(
        "--bandwidths", default="100,300,1000", help="Mbit/s per link, for protocols"
    )
    parser.add_argument(
        "--sizes", default=SIZES, help="bytes of an all-reduce (default %(default)s)"
    )
    parser.add_argument("--link", type=float, default=300.0, help="Mbit/s, for training steps")
    parser.add_argument("--variants", default="n,s,m,l,x", help="networks that are measured")
    parser.add_argument("--steps", type=int, default=8, help="timed per case (default 8)")
    add_out(parser)
    options = parser.parse_args(arguments)
    stopped = "stopped; results of the finished measurements are kept"
    return exit_code_of(lambda: _measure(options), "bench", stopped)


def _measure(options: argparse.Namespace) -> None:
    check_rights()
    factors = _known("--factors", options.factors, FACTORS)
    of_steps = [name for name in factors if name != PROTOCOL]
    variants = _known("--variants", options.variants, tuple(VARIANTS))
    sizes = numbers("--sizes", options.sizes, int)
    if min(sizes) < 4:
        raise BenchError(f"--sizes {options.sizes}: expected 4 bytes or more, one number in fp32")
    names = _known("--protocols", options.protocols, tuple(PROTOCOLS))
    links = numbers("--bandwidths", options.bandwidths, float)
    if PROTOCOL not in factors:
        names, links = [], []
    reasons = [(PROTOCOLS[name], PROTOCOLS[name].absence()) for name in names]
    here = [protocol for protocol, reason in reasons if reason is None]
    absent = tuple(AbsentProtocol(each.name, why) for each, why in reasons if why)
    found = FactorResults(MACHINE, options.link, absent=absent)
    count = len(cases(of_steps, variants, options.steps))
    with bench_progress() as progress:
        total = len(here) * len(links) * len(sizes) + count
        run = Run(progress, progress.add_task("links", total=total))
        for mbps in sorted({*links, *([options.link] if of_steps else [])}):
            with emulated_cell(HOSTS, mbps) as cell:
                for protocol in here if mbps in links else ():
                    rows = run.all_reduces(cell, protocol, sizes)
                    found = replace(found, protocols=(*found.protocols, *rows))
                    _write(found, options.out)
                if of_steps and mbps == options.link:
                    timings = run.steps(cell, of_steps, variants, options.steps)
                    found = replace(found, cases=tuple(timings))
        written = _write(found, options.out)
    print("wrote", ", ".join(map(str, written)))


@dataclass(frozen=True, slots=True)
class Run:
    """Starts the programs that measure, and shows how far they are."""

    progress: Progress
    task: TaskID

    def all_reduces(
        self, cell: EmulatedCell, protocol: Protocol, sizes: Sequence[int]
    ) -> list[ProtocolRow]:
        """All sizes by one protocol."""
        mbps = cell[0].bandwidth_mbps
        assert mbps is not None
        words = (
            *("--module", "yolo.bench.factors.all_reduce", "--backend", protocol.backend),
            *("--sizes", ",".join(map(str, sizes))),
        )
        name = f"{protocol.name}, {mbps:g} Mbit/s"
        lines = self._lines(cell, name, words, len(sizes), protocol.launch)
        return [ProtocolRow(protocol=protocol.name, bandwidth_mbps=mbps, **line) for line in lines]

    def steps(
        self, cell: EmulatedCell, factors: Sequence[str], variants: Sequence[str], steps: int
    ) -> list[CaseTiming]:
        """All cases of some factors."""
        count = len(cases(factors, variants, steps))
        words = (
            *("--module", "yolo.bench.factors.steps", "--factors", ",".join(factors)),
            *("--variants", ",".join(variants), "--steps", str(steps)),
        )
        name = f"training steps, {cell[0].bandwidth_mbps:g} Mbit/s"
        return [CaseTiming(**line) for line in self._lines(cell, name, words, count)]

    def _lines(
        self,
        cell: EmulatedCell,
        name: str,
        words: Sequence[str],
        count: int,
        launch: Launch = EmulatedCluster.launch,
    ) -> list[Line]:
        self.progress.update(self.task, description=name)
        return run_ranks(cell, words, count, lambda _: self.progress.advance(self.task), launch)


def _known(option: str, text: str, known: Sequence[str]) -> list[str]:
    """The names of an option's list. Raises BenchError for one that does not exist."""
    wanted = list(known) if text == "all" else text.split(",")
    if unknown := [name for name in wanted if name not in known]:
        raise BenchError(f"{option} {unknown[0]}: expected some of {', '.join(known)}, or all")
    return wanted


def _write(found: FactorResults, folder: Path) -> list[Path]:
    content, tables = asdict(found), markdown(found)
    return results.write_results(folder, "factors", content, tables, figure(found))


if __name__ == "__main__":
    sys.exit(main())
