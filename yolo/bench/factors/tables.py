"""The factors' tables in Markdown."""

from collections.abc import Iterator, Sequence

from yolo.architecture import VARIANTS, parameter_count
from yolo.bench.factors.rows import FactorResults, ProtocolRow, formula_bytes, sizes_of
from yolo.bench.factors.steps import CaseTiming, Factor
from yolo.bench.results import grouped, markdown_table
from yolo.calibration.strategy_timing import CLASSES

STEP = "step, ms (quartiles)"
SENT = "MB sent per step per rank"


def markdown(results: FactorResults) -> str:
    """A table per factor, as far as it was measured."""
    lines = [f"Measured on {results.machine}.", ""]
    if results.protocols:
        lines += ["### Protocol, message size, bandwidth", "", *_protocols(results.protocols), ""]
    if results.absent:
        lines += [*_absent(results), ""]
    tables = {
        Factor.MODE: ("Mode", _modes),
        Factor.DATA: ("Amount of data", _data),
        Factor.MODEL: ("Model size", _models),
    }
    for factor, (title, table) in tables.items():
        if found := results.of(factor):
            title = f"### {title}, at {results.link_mbps:g} Mbit/s"
            lines += [title, "", *table(results, found), ""]
    return "\n".join(lines)


def size_name(size: int) -> str:
    """1 KiB, 8 MiB."""
    return f"{size / 2**20:g} MiB" if size >= 2**20 else f"{size / 2**10:g} KiB"


def _protocols(rows: Sequence[ProtocolRow]) -> list[str]:
    sizes = sizes_of(rows)
    headings = (
        "protocol",
        "Mbit/s",
        *map(size_name, sizes),
        "bus, Mbit/s",
        "wire / payload",
        "busy cores",
    )
    lines = []
    for (protocol, mbps), own in grouped(rows, "protocol", "bandwidth_mbps").items():
        by_size = {row.payload_bytes: row for row in own}
        cells = [_all_reduce(by_size[size]) if size in by_size else "" for size in sizes]
        largest = max(own, key=lambda row: row.payload_bytes)
        sent = largest.wire_bytes / largest.payload_bytes
        last = f"{largest.bus_mbps:.0f}", f"{sent:.3f}", f"{largest.busy_cores:.2f}"
        lines.append([protocol, f"{mbps:g}", *cells, *last])
    return [
        "Milliseconds of an all-reduce: median (fastest to slowest call). The last three columns are of the largest: what a rank "
        "sent by the time, its bytes on the wire per byte reduced, and the share of a core that its process kept busy.",
        "",
        *markdown_table(headings, lines),
    ]


def _all_reduce(row: ProtocolRow) -> str:
    times = (row.seconds, row.seconds_low, row.seconds_high)
    middle, low, high = (_milliseconds(each) for each in times)
    sent = row.wire_bytes / row.expected_bytes
    note = "" if row.is_valid else f", not valid: {sent:.2f} times the bytes"
    return f"{middle} ({low} to {high}){note}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.01 else f"{seconds * 1e3:.0f}"


def _absent(results: FactorResults) -> list[str]:
    return [f"- {each.protocol} is not here: {each.reason}" for each in results.absent]


def _modes(results: FactorResults, cases: Sequence[CaseTiming]) -> Iterator[str]:
    first = cases[0]
    rows = [
        [
            case.label,
            _step(case),
            _added(results, case),
            _megabytes(case),
            f"{case.collectives_per_step:.3g}",
        ]
        for case in cases
    ]
    yield f"yolov5{first.variant}, {first.images} x {first.image_size} px per rank.{_alone(results, first)}"
    yield ""
    yield from markdown_table(
        ("mode", STEP, "of it exchange, ms", SENT, "collectives per step"), rows
    )


def _data(results: FactorResults, cases: Sequence[CaseTiming]) -> Iterator[str]:
    headings = (
        "images per rank",
        "pixels",
        STEP,
        "of it exchange, ms",
        SENT,
        "MB per image",
        "images/s per rank",
    )
    rows = [
        [
            case.images,
            case.image_size,
            _step(case),
            _added(results, case),
            _megabytes(case),
            f"{case.wire_bytes_per_rank_per_step / case.images / 1e6:.2f}",
            f"{case.images / case.step_seconds:.1f}",
        ]
        for case in cases
    ]
    yield f"yolov5{cases[0].variant}, {cases[0].label}."
    yield ""
    yield from markdown_table(headings, rows)


def _models(results: FactorResults, cases: Sequence[CaseTiming]) -> Iterator[str]:
    measured = {case.variant: case for case in cases}
    rows = []
    for variant in (each for each in VARIANTS if each in measured or "6" not in each):
        case, parameters = measured.get(variant), parameter_count(variant, CLASSES)
        formula = formula_bytes(variant) / 1e6
        rows.append(
            [
                f"yolov5{variant}",
                f"{parameters / 1e6:.1f}",
                _step(case) if case else "not measured",
                _megabytes(case) if case else f"{formula:.2f} by the formula",
                f"{formula:.2f}",
            ]
        )
    first = cases[0]
    yield f"{first.label}, {first.images} x {first.image_size} px per rank."
    yield ""
    headings = ("network", "10^6 parameters", STEP, SENT, "MB by the formula")
    yield from markdown_table(headings, rows)


def _alone(results: FactorResults, case: CaseTiming) -> str:
    alone = results.computing(case)
    return f" Without any exchange a step takes {_step(alone)} ms." if alone else ""


def _step(case: CaseTiming) -> str:
    times = (case.step_seconds, case.step_seconds_low, case.step_seconds_high)
    middle, low, high = (f"{each * 1e3:.0f}" for each in times)
    return f"{middle} ({low} to {high})"


def _added(results: FactorResults, case: CaseTiming) -> str:
    alone = results.computing(case)
    return f"{(case.step_seconds - alone.step_seconds) * 1e3:.0f}" if alone else ""


def _megabytes(case: CaseTiming) -> str:
    return f"{case.wire_bytes_per_rank_per_step / 1e6:.2f}"
