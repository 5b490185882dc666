"""The factors' figure: a panel for each."""

from collections.abc import Callable, Sequence

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from yolo.architecture import parameter_count
from yolo.bench.factors.rows import FactorResults, ProtocolRow, sizes_of
from yolo.bench.factors.steps import CaseTiming, Factor
from yolo.bench.factors.tables import size_name
from yolo.bench.results import FAINT, GRID, INK, grouped, style_axes
from yolo.calibration.strategy_timing import CLASSES

COLOURS = ("#2f6fdb", "#e8792b", "#2a9d6f", "#8a4fd0")
"""Of protocols, in their order."""
EXCHANGE = "#2f6fdb"
Panel = Callable[[Axes, FactorResults], None]


def figure(results: FactorResults) -> Figure:
    """Two rows of three panels; one without measurements says so."""
    drawing = Figure(figsize=(14, 8), layout="constrained")
    panels: tuple[tuple[str, Panel, bool], ...] = (
        ("Message size", _by_size, bool(results.protocols)),
        ("Bandwidth", _by_bandwidth, bool(results.protocols)),
        ("Mode", _by_mode, bool(results.of(Factor.MODE))),
        ("Image size", _by_image_size, bool(results.of(Factor.DATA))),
        ("Batch", _by_batch, bool(results.of(Factor.DATA))),
        ("Model size", _by_model, bool(results.of(Factor.MODEL))),
    )
    for axes, (title, draw, is_measured) in zip(drawing.subplots(2, 3).flat, panels, strict=True):
        axes.set_title(title, fontsize=11, loc="left")
        if is_measured:
            draw(axes, results)
        else:
            axes.axis("off")
            axes.text(0.5, 0.5, "not measured", ha="center", color=FAINT)
    named: dict[str, Artist] = {}
    for axes in drawing.axes:
        handles, labels = axes.get_legend_handles_labels()
        named |= zip(labels, handles, strict=True)
    drawing.legend(named.values(), named, loc="outside lower center", ncols=8, frameon=False)
    return drawing


def _by_size(axes: Axes, results: FactorResults) -> None:
    links = sorted({row.bandwidth_mbps for row in results.protocols})
    mbps = links[len(links) // 2]
    own = [row for row in results.protocols if row.bandwidth_mbps == mbps]
    sizes = sizes_of(own)
    style_axes(axes, f"Message size, at {mbps:g} Mbit/s")
    _draw_protocols(axes, results, own, lambda row: row.payload_bytes)
    axes.set_xticks(sizes, [size_name(size) for size in sizes], fontsize=8)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel("ms per all-reduce")
    _plain_numbers(axes)


def _by_bandwidth(axes: Axes, results: FactorResults) -> None:
    largest = sizes_of(results.protocols)[-1]
    own = [row for row in results.protocols if row.payload_bytes == largest]
    links = sorted({row.bandwidth_mbps for row in own})
    style_axes(axes, f"Bandwidth, {size_name(largest)}")
    _draw_protocols(axes, results, own, lambda row: row.bandwidth_mbps)
    least = [own[0].expected_bytes * 8e-3 / mbps for mbps in links]
    axes.plot(links, least, "--", color=INK, lw=1.0, label="its frames at the link's rate")
    axes.set_xticks(links, [f"{each:g}" for each in links])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("Mbit/s per link")
    axes.set_ylabel("ms per all-reduce")
    _plain_numbers(axes)


def _draw_protocols(
    axes: Axes,
    results: FactorResults,
    rows: Sequence[ProtocolRow],
    x_of: Callable[[ProtocolRow], float],
) -> None:
    """A line per protocol, with a band from its fastest to its slowest call; crosses are not valid."""
    names = list(dict.fromkeys(row.protocol for row in results.protocols))
    for name, found in grouped(rows, "protocol").items():
        own = sorted(found, key=x_of)
        colour = COLOURS[names.index(name) % len(COLOURS)]
        x = [x_of(row) for row in own]
        axes.plot(
            x, [row.seconds * 1e3 for row in own], "o-", color=colour, lw=1.8, ms=4, label=name
        )
        low, high = ([1e3 * each for each in ends] for ends in _ends(own))
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        wrong = [row for row in own if not row.is_valid]
        if wrong:
            ends = [row.seconds * 1e3 for row in wrong]
            axes.plot(
                [x_of(row) for row in wrong],
                ends,
                "x",
                color="#d64550",
                ms=10,
                label="not valid",
            )


def _plain_numbers(axes: Axes) -> None:
    """1, 2, 5, 10 on the vertical axis, not powers of ten."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _ends(rows: Sequence[ProtocolRow]) -> tuple[list[float], list[float]]:
    return [row.seconds_low for row in rows], [row.seconds_high for row in rows]


def _by_mode(axes: Axes, results: FactorResults) -> None:
    cases = results.of(Factor.MODE)
    axes.set_title(f"Mode, at {results.link_mbps:g} Mbit/s", fontsize=11, loc="left")
    _bars(axes, results, cases, [case.label for case in cases])


def _by_image_size(axes: Axes, results: FactorResults) -> None:
    one = [case for case in results.of(Factor.DATA) if case.images == 1]
    axes.set_title(
        f"Image size, one image per rank, at {results.link_mbps:g} Mbit/s", fontsize=11, loc="left"
    )
    _bars(axes, results, one, [f"{case.image_size} px" for case in one])


def _by_batch(axes: Axes, results: FactorResults) -> None:
    found = results.of(Factor.DATA)
    sizes = {case.image_size for case in found if case.images > 1}
    own = sorted((each for each in found if each.image_size in sizes), key=lambda case: case.images)
    size = max(sizes, default=0)
    axes.set_title(f"Batch, {size} px, at {results.link_mbps:g} Mbit/s", fontsize=11, loc="left")
    names = ["1 image", *(f"{case.images} images" for case in own[1:])]
    _bars(axes, results, own, names, is_per_image=True)


def _bars(
    axes: Axes,
    results: FactorResults,
    cases: Sequence[CaseTiming],
    names: Sequence[str],
    is_per_image: bool = False,
) -> None:
    """A step's milliseconds, computing and what the exchange adds, with the bytes beside."""
    places = range(len(cases))
    steps = [case.step_seconds * 1e3 for case in cases]
    alone = [results.computing(case) for case in cases]
    computing = [
        min(each.step_seconds * 1e3, step) if each else 0.0
        for each, step in zip(alone, steps, strict=True)
    ]
    added = [step - below for step, below in zip(steps, computing, strict=True)]
    axes.barh(places, computing, color=FAINT, label="computing")
    axes.barh(places, added, left=computing, color=EXCHANGE, label="added by the exchange")
    for place, case, step in zip(places, cases, steps, strict=True):
        sent = case.wire_bytes_per_rank_per_step / 1e6
        text = f"{sent:.2f} MB"
        if is_per_image:
            text += f"\n{sent / case.images:.2f} per image"
        axes.text(step + max(steps) * 0.02, place, text, va="center", fontsize=9, color=INK)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.set_xlim(0, max(steps) * 1.35)
    axes.set_xlabel("ms per step")
    axes.grid(axis="x", color=GRID, lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _by_model(axes: Axes, results: FactorResults) -> None:
    cases = sorted(results.of(Factor.MODEL), key=_millions)
    style_axes(axes, f"Model size, at {results.link_mbps:g} Mbit/s")
    x = [_millions(case) for case in cases]
    axes.plot(x, [case.step_seconds for case in cases], "o-", color=EXCHANGE, lw=1.8, ms=4)
    low = [case.step_seconds_low for case in cases]
    axes.fill_between(
        x, low, [case.step_seconds_high for case in cases], color=EXCHANGE, alpha=0.15, lw=0
    )
    for case in cases:
        text = f"{case.variant}: {case.wire_bytes_per_rank_per_step / 1e6:.3g} MB"
        place = (_millions(case), case.step_seconds)
        axes.annotate(
            text, place, xytext=(7, -9), textcoords="offset points", fontsize=9, color=INK
        )
    axes.set_xlim(min(x) * 0.7, max(x) * 3)
    axes.xaxis.set_major_locator(FixedLocator(x))
    axes.set_xticks(x, [f"{each:.3g}" for each in x])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("million parameters")
    axes.set_ylabel("seconds per step")
    _plain_numbers(axes)


def _millions(case: CaseTiming) -> float:
    return parameter_count(case.variant, CLASSES) / 1e6
