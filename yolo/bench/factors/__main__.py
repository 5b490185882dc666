"""What each factor of communication changes: `python -m yolo.bench.factors`.

Protocol, bandwidth and message size by all-reduces; mode, amount of data and model size by real training steps.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from rich.progress import Progress

from yolo.bench import results
from yolo.bench.command_line import add_out, bench_progress, numbers
from yolo.bench.communication.cell import Line, emulated_cell, run_ranks
from yolo.bench.factors import protocols
from yolo.bench.factors.figure import figure
from yolo.bench.factors.protocols import Protocol
from yolo.bench.factors.rows import HOSTS, AbsentProtocol, FactorResults, ProtocolRow
from yolo.bench.factors.steps import CaseTiming, Factor, cases
from yolo.bench.factors.tables import markdown
from yolo.emulation.cluster import check_rights
from yolo.errors import BenchError, exit_code_of

PROTOCOL = "protocol"
FACTORS = (PROTOCOL, *Factor)
SIZES = ",".join(str(2**power) for power in (10, 14, 18, 20, 23))
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
    factors = list(FACTORS) if options.factors == "all" else options.factors.split(",")
    if unknown := [name for name in factors if name not in FACTORS]:
        raise BenchError(f"--factors {unknown[0]}: expected some of {', '.join(FACTORS)}, or all")
    found = FactorResults(MACHINE, options.link)
    with bench_progress() as progress:
        if PROTOCOL in factors:
            wanted = protocols.chosen(options.protocols)
            reasons = [(protocol, protocol.absence()) for protocol in wanted]
            absent = tuple(AbsentProtocol(each.name, why) for each, why in reasons if why)
            found = replace(found, absent=absent)
            here = [protocol for protocol, reason in reasons if reason is None]
            for rows in _protocol_rows(here, options, progress):
                found = replace(found, protocols=(*found.protocols, *rows))
                _write(found, options.out)
        if of_steps := [name for name in factors if name != PROTOCOL]:
            found = replace(found, cases=tuple(_case_timings(of_steps, options, progress)))
        written = _write(found, options.out)
    print("wrote", ", ".join(map(str, written)))


def _write(found: FactorResults, folder: Path) -> list[Path]:
    content, tables = asdict(found), markdown(found)
    return results.write_results(folder, "factors", content, tables, figure(found))


def _protocol_rows(
    here: Sequence[Protocol], options: argparse.Namespace, progress: Progress
) -> Iterator[list[ProtocolRow]]:
    """All sizes of one protocol at one bandwidth, after each other."""
    count = len(numbers("--sizes", options.sizes, int))
    links = sorted(numbers("--bandwidths", options.bandwidths, float))
    task = progress.add_task("protocols", total=len(here) * len(links) * count)

    def note(_: Line) -> None:
        progress.advance(task)

    for mbps in links:
        with emulated_cell(HOSTS, mbps) as cell:
            for protocol in here:
                progress.update(task, description=f"{protocol.name}, {mbps:g} Mbit/s")
                words = (
                    *("--module", "yolo.bench.factors.all_reduce"),
                    *("--backend", protocol.backend, "--sizes", options.sizes),
                )
                lines = run_ranks(cell, words, count, note, protocol.launch)
                yield [
                    ProtocolRow(protocol=protocol.name, bandwidth_mbps=mbps, **line)
                    for line in lines
                ]


def _case_timings(
    factors: Sequence[str], options: argparse.Namespace, progress: Progress
) -> list[CaseTiming]:
    count = len(cases(factors, options.variants.split(","), options.steps))
    task = progress.add_task(f"training steps, {options.link:g} Mbit/s", total=count)
    words = (
        *("--module", "yolo.bench.factors.steps", "--factors", ",".join(factors)),
        *("--variants", options.variants, "--steps", str(options.steps)),
    )
    with emulated_cell(HOSTS, options.link) as cell:
        lines = run_ranks(cell, words, count, lambda _: progress.advance(task))
    return [CaseTiming(**line) for line in lines]


if __name__ == "__main__":
    sys.exit(main())
