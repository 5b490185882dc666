"""`report.html`: a run as one self-contained page with figures, charts, sample images and the recipe."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

import cv2

from yolo.evaluation.metrics import ClassMetrics
from yolo.tracking.records import CLASS_COLUMNS, SampleBox, SamplePicture

JPEG_QUALITY = 88
LONGEST_SIDE = 640
"""Larger images are embedded smaller, so that the page stays at a few megabytes."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A figure made by `yolo.tracking.charts`."""

    title: str
    png: bytes


@dataclass(frozen=True, slots=True)
class ReportContent:
    """The content of the page, from top to bottom."""

    title: str
    summary: Sequence[tuple[str, str]]
    """Names and values."""
    charts: Sequence[Chart] = ()
    classes: Sequence[ClassMetrics] = ()
    samples: Sequence[SamplePicture] = ()
    class_names: Sequence[str] = ()
    """For the boxes of the samples."""
    recipe: str = ""
    """The resolved recipe as text, each value with its origin."""


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page atomically. All text in it is escaped."""
    sections = [
        _table(content.summary),
        *(_chart(chart) for chart in content.charts),
        _classes(content.classes),
        _samples(content),
        _recipe(content.recipe),
    ]
    page = PAGE.substitute(title=escape(content.title), body="\n".join(filter(None, sections)))
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # of any file name
    temporary.replace(path)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    body = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows
    )
    return f'<table class="summary">{body}</table>' if rows else ""


def _chart(chart: Chart) -> str:
    source = _data_url("image/png", chart.png)
    return f'<h2>{escape(chart.title)}</h2>\n<img class="chart" alt="{escape(chart.title)}" src="{source}">'


def _classes(rows: Sequence[ClassMetrics]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{heading}</th>" for heading in CLASS_COLUMNS)
    body = "".join(
        f"<tr><th>{escape(row.name)}</th><td>{row.images}</td><td>{row.boxes}</td>"
        + "".join(f"<td>{_figure(v)}</td>" for v in (row.ap, row.ap50, row.precision, row.recall))
        + "</tr>"
        for row in rows
    )
    return f'<h2>Classes</h2>\n<table class="classes"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _samples(content: ReportContent) -> str:
    if not content.samples:
        return ""
    images = "\n".join(_sample(sample, content.class_names) for sample in content.samples)
    return (
        "<h2>Samples</h2>\n<p>Validation images. Solid: detected, with its score. Dashed white: what is there.</p>\n"
        f'<div class="samples">{images}</div>'
    )


def _sample(sample: SamplePicture, class_names: Sequence[str]) -> str:
    height, width = sample.image.shape[:2]
    shrink = min(1.0, LONGEST_SIDE / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(sample.image, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(
        ".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    )
    # About one CSS pixel: strokes and letters have the same size in all images.
    unit = max(width, height) / 400
    boxes = [_box(box, "true", "", "white", unit) for box in sample.true]
    for box in sample.predicted:
        text = f"{class_names[box.category]} {box.score or 0:.2f}"
        colour = f"hsl({(210 + box.category * 137.5) % 360:.0f} 90% 62%)"
        boxes.append(_box(box, "predicted", text, colour, unit))
    return (
        f'<figure><svg viewBox="0 0 {width} {height}">'
        f'<image width="{width}" height="{height}" href="{_data_url("image/jpeg", jpeg.tobytes())}"/>'
        f"{''.join(boxes)}</svg><figcaption>{escape(sample.name)}</figcaption></figure>"
    )


def _box(box: SampleBox, kind: str, text: str, colour: str, unit: float) -> str:
    left, top = box.left, box.top
    dashes = f' stroke-dasharray="{5 * unit:.2f} {4 * unit:.2f}"' if kind == "true" else ""
    rectangle = (
        f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{box.right - left:.1f}" '
        f'height="{box.bottom - top:.1f}" stroke="{colour}" stroke-width="{1.8 * unit:.2f}"{dashes}/>'
    )
    if not text:
        return rectangle
    line = max(top - 4 * unit, 13 * unit)
    return rectangle + (
        f'<text x="{left + 2 * unit:.1f}" y="{line:.1f}" font-size="{13 * unit:.2f}" fill="{colour}" '
        f'stroke-width="{3 * unit:.2f}">{escape(text)}</text>'
    )


def _recipe(text: str) -> str:
    return f"<h2>Recipe</h2>\n<pre>{escape(text)}</pre>" if text else ""


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; max-width: 1000px; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
table { border-collapse: collapse; } th { font-weight: 600; text-align: left; }
.summary th { padding: .2rem 2rem .2rem 0; white-space: nowrap; vertical-align: top; }
.classes td, .classes th { padding: .2rem 1rem; border-bottom: 1px solid #e4e8ec; }
.classes td, .classes thead th:not(:first-child) { text-align: right; font-variant-numeric: tabular-nums; }
.chart { max-width: 100%; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1rem; }
figure { margin: 0; } svg { width: 100%; border-radius: 4px; display: block; } figcaption { color: #66727f; font-size: .85rem; }
rect { fill: none; } text { font-family: system-ui, sans-serif; font-weight: 600; paint-order: stroke; stroke: #10151acc; }
pre { background: #f5f7f9; padding: 1rem; overflow-x: auto; font-size: .85rem; border-radius: 4px; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")
