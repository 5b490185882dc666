"""The three ways to train on images too large for one GPU, each as a training run and as the views that it detects in."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from yolo.bench.tiling.images import DrawnImages
from yolo.bench.tiling.merging import MERGINGS, NMS, Merging, merge_views
from yolo.bench.tiling.tiles import View, views_of
from yolo.data.image.decode import read_image
from yolo.evaluation.coco_ap import measure
from yolo.evaluation.detections import Detections, GroundTruth
from yolo.evaluation.metrics import Metrics
from yolo.evaluation.predict import CPU, Predictor
from yolo.launch.supervisor import run_with_restarts
from yolo.model.io.weights import load_detector
from yolo.recipe import ResolvedRecipe
from yolo.training.checkpointing.run_directory import RUNS, RunDirectory

CONFIDENCE = 0.001
IOU = 0.6
"""Of non-maximum suppression within a view: the recipe's default, as the confidence."""
MOST = 300
"""Detections per view, and per image."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How one approach is set up."""

    name: str
    image_size: int
    """At the network's input, pixels."""
    batch: int
    """Inputs per optimizer step."""
    inputs: int
    """Per epoch."""
    root: Path
    """Its training data."""
    views: Callable[[int, int], list[View]]
    """What it detects in, for an image's width and height."""
    mergings: tuple[Merging, ...] = (NMS,)

    @property
    def pixels_per_epoch(self) -> int:
        """At the network's input."""
        return self.inputs * self.image_size**2

    def epochs_for(self, pixels: int) -> int:
        """Epochs in which it sees at least so many pixels."""
        return math.ceil(pixels / self.pixels_per_epoch)


def plans(images: DrawnImages, size: int, tile: int, count: int) -> list[Plan]:
    """Whole images first; a step of the others sees about as many pixels, so that they take as many steps.

    `count` are the images to train on, all of `size` x `size` pixels; shrunk ones are as large as a tile.
    """

    def whole(at: int) -> Callable[[int, int], list[View]]:
        return lambda width, height: [View(0, 0, width, height, at)]

    def batch(at: int) -> int:
        """The power of two below: fewer pixels, and more steps."""
        return int(2 ** math.floor(math.log2((size / at) ** 2)))

    cut = count * len(views_of(size, size, tile))
    return [
        Plan("whole", size, 1, count, images.large, whole(size)),
        Plan(
            *("tiles", tile, batch(tile), cut, images.tiles),
            lambda width, height: views_of(width, height, tile),
            MERGINGS,
        ),
        Plan("shrunk", tile, batch(tile), count, images.large, whole(tile)),
    ]


@dataclass(frozen=True)
class Job:
    """One training run."""

    name: str
    settings: tuple[str, ...]
    """All overrides of the recipe."""
    resolved: ResolvedRecipe

    @cached_property
    def run(self) -> RunDirectory:
        """Its run's folder, the same for the same settings."""
        values = json.dumps(self.resolved.loaded.values, sort_keys=True)
        digest = hashlib.sha256(values.encode()).hexdigest()
        return RunDirectory((RUNS / "tiling" / f"{self.name}-{digest[:12]}").resolve())

    def train(self) -> Path:
        """Train it through the launcher, unless its run is finished; an interrupted one resumes. Returns the weights."""
        if not self.run.finished.exists():
            run_with_restarts(self.resolved, self.settings, self.run)
        return self.run.last_weights


@dataclass(frozen=True, slots=True)
class Measured:
    """The detections of one approach in all images, merged in one way."""

    merging: Merging
    found: tuple[Detections, ...]
    """In the order of the truth's images, boxes in the pixels of the whole images."""
    metrics: Metrics
    ap_by_merging: Mapping[str, float | None] = field(default_factory=dict)
    """Of all ways that were tried."""


def detect(plan: Plan, weights: Path, truth: GroundTruth) -> Measured:
    """Detect in the images of the truth; of several mergings, the one with the highest AP counts."""
    model = load_detector(weights).model
    predictor = Predictor(model, plan.image_size, CPU, CONFIDENCE, IOU, MOST)
    by_view = []
    for record in truth.images:
        image = read_image(record.path, record.width, record.height)
        views = plan.views(record.width, record.height)
        by_view.append([_in_view(predictor, image, view, record.image_id) for view in views])
    tried = []
    for merging in plan.mergings:
        found = tuple(merge_views(views, merging, MOST) for views in by_view)
        tried.append(Measured(merging, found, measure(found, truth)))
    aps = {each.merging.name: each.metrics.ap for each in tried}
    best = max(tried, key=lambda each: each.metrics.ap or 0.0)
    return replace(best, ap_by_merging=aps)


def _in_view(predictor: Predictor, image: np.ndarray, view: View, image_id: int) -> Detections:
    """What is detected in a view, in the image's pixels."""
    found = predictor.detect(view.crop(image), image_id)
    return replace(found, boxes=view.to_image(found.boxes).astype(np.float32))
