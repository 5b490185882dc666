"""Write a benchmark's results: NAME.json, NAME.md with tables, and NAME.png with a figure."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

DOTS_PER_INCH = 130
INK, FAINT, GRID = "#1f2933", "#c3cad3", "#edf0f3"
Row = TypeVar("Row")


def machine_facts(*further: str) -> str:
    """Describe the machine that the figures were measured on."""
    return ", ".join((f"{os.cpu_count()} cores", platform.machine(), *further))


def write_results(
    folder: Path,
    name: str,
    content: Mapping[str, Any],
    tables: str = "",
    figure: Figure | None = None,
) -> list[Path]:
    """Write NAME.json, NAME.md if there are tables, NAME.png if there is a figure; returns the files."""
    files = [write_json(folder / f"{name}.json", content)]
    if tables:
        files.append(folder / f"{name}.md")
        files[-1].write_text(tables, encoding="utf-8")
    if figure is not None:
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=DOTS_PER_INCH)
    return files


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write one JSON file, and its folder if there is none; returns the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def grouped(rows: Iterable[Row], *names: str) -> dict[Any, list[Row]]:
    """The rows by the values of these attributes, in the order of their first rows."""
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(attrgetter(*names)(row), []).append(row)
    return groups


def by_cell(rows: Iterable[Row]) -> list[tuple[tuple[int, float], list[Row]]]:
    """The rows of each number of hosts and bandwidth, low ones first."""
    return sorted(grouped(rows, "hosts", "bandwidth_mbps").items())


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["|" + "".join(f" {cell} |" if cell else " |" for cell in headings)]
    lines.append("|" + "---|" * len(headings))
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def style_axes(axes: Axes, title: str, grid: Literal["major", "both"] = "major") -> None:
    """Both axes logarithmic, a faint grid, the title on the left, no frame at the top and right."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(which=grid, color=GRID, lw=0.8)
    axes.spines[["top", "right"]].set_visible(False)
