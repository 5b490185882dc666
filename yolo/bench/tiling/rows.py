"""The result of each approach, and the table that compares them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo.bench import results
from yolo.bench.tiling.tiles import LEAST_VISIBLE, OVERLAP

TILES = "tiles"
COLUMNS = (
    *("trained on", "pixels at the input", "inputs per step", "epochs", "steps", "Mpixels seen"),
    *("seconds", "AP", "AP50", "AP of small objects", "AP of large objects", "AP above tiles"),
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What all approaches share."""

    variant: str
    recipe: str
    size: int
    """Side of the images, pixels."""
    tile: int
    """Side of the tiles, pixels."""
    train_images: int
    val_images: int
    val_boxes: int
    machine: str


@dataclass(frozen=True, slots=True)
class Row:
    """One approach. AP is measured in the pixels of the whole images."""

    trained_on: str
    image_size: int
    """At the network's input, pixels."""
    batch: int
    """Inputs per optimizer step."""
    inputs_per_epoch: int
    epochs: int
    steps: int
    megapixels: float
    """Seen at the network's input in all epochs."""
    wall_seconds: float
    world_size: int
    merging: str
    """How detections of views were merged."""
    ap: float
    ap50: float
    ap_small: float
    ap_large: float
    ap_by_merging: Mapping[str, float | None]
    """Of all ways that were tried."""
    settings: tuple[str, ...]
    """Overrides of the recipe."""


@dataclass(frozen=True, slots=True)
class TilingResults:
    """The content of tiling.json."""

    setup: Setup
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: Path) -> "TilingResults":
        """Read what `as_json` gave."""
        content = json.loads(path.read_text(encoding="utf-8"))
        return cls(Setup(**content["setup"]), tuple(Row(**row) for row in content["rows"]))

    def as_json(self) -> dict[str, Any]:
        """The content of the file."""
        return asdict(self)

    def markdown(self) -> str:
        """A table with one line per approach, then how they were set up."""
        lines = [*results.markdown_table(COLUMNS, self._cells()), "", *self._described()]
        return "\n".join(lines) + "\n"

    def _cells(self) -> Sequence[Sequence[object]]:
        tiled = next((row.ap for row in self.rows if row.trained_on == TILES), None)
        return [
            (
                *(row.trained_on, f"{row.image_size:,}", row.batch, row.epochs, f"{row.steps:,}"),
                *(f"{row.megapixels:,.0f}", f"{row.wall_seconds:,.0f}"),
                *(f"{ap:.3f}" for ap in (row.ap, row.ap50, row.ap_small, row.ap_large)),
                "" if tiled is None else f"{row.ap - tiled:+.3f}",
            )
            for row in self.rows
        ]

    def _described(self) -> Sequence[str]:
        setup = self.setup
        lines = [
            f"yolov5{setup.variant}, {setup.train_images} images of {setup.size:,} x {setup.size:,} pixels to train on, "
            f"{setup.val_images} with {setup.val_boxes} objects to evaluate on; {setup.recipe}, all from the same weights; "
            f"{setup.machine}."
        ]
        for row in self.rows:
            if row.trained_on == TILES:
                lines.append(
                    f"Tiles of {setup.tile:,} pixels overlap by {OVERLAP:.0%}, show an object if {LEAST_VISIBLE:.0%} of its "
                    f"area is in them, and have the whole image, shrunk to their size, beside them. Detections are merged by "
                    f"{row.merging}: the best of {len(row.ap_by_merging)} ways on these images."
                )
        return lines
