import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from tests.forking.server import run_forked
from yolo.bench.tiling.__main__ import main
from yolo.bench.tiling.approaches import plans
from yolo.bench.tiling.images import DrawnImages
from yolo.bench.tiling.merging import NMS, Merging, merge_views
from yolo.bench.tiling.tiles import LEAST_VISIBLE, OVERLAP, View, views_of, write_views
from yolo.data.demo import TEXTURES, DemoSettings, ShapeSizes, generate_demo
from yolo.data.open import load_annotated
from yolo.evaluation.detections import Detections
from yolo.model import YOLOv5
from yolo.model.io.weights import weights_content

GREEDY = Merging("greedy", 0.5, is_over_smaller=True, is_joined=True)
CHAINED = Merging("chained", 0.5, is_over_smaller=True, is_joined=True, is_chained=True)

sides = st.integers(100, 900)
edges = st.floats(0, 1)


def inside(view: View, box: np.ndarray) -> np.ndarray:
    """A box (4,) xyxy cut to a view, in the image's pixels."""
    low = np.array([view.left, view.top] * 2)
    return np.clip(box, low, low + [view.width, view.height] * 2)


def area(box: np.ndarray) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))


@settings(max_examples=200, deadline=None)
@given(sides, sides, st.integers(64, 300), edges, edges, edges, edges)
def test_a_box_lands_in_the_views_that_see_it_and_comes_back(
    width: int, height: int, tile: int, x1: float, y1: float, x2: float, y2: float
) -> None:
    low, high = np.minimum([x1, y1], [x2, y2]), np.maximum([x1, y1], [x2, y2])
    room = np.array([width, height]) - 1
    box = np.concatenate([low * room, high * room + 1])
    views = views_of(width, height, tile)
    seen = 0
    for view in views:
        moved, is_shown = view.visible(box[None])
        part = inside(view, box)
        share = area(part) / area(box)
        if abs(share - LEAST_VISIBLE) > 1e-9:
            assert is_shown[0] == (share > LEAST_VISIBLE)
        if is_shown[0]:
            seen += 1
            np.testing.assert_allclose(view.to_image(moved)[0], part, atol=1e-9 * 1000)
            assert moved.min() >= 0
            assert moved.max() <= view.size + 1e-9
    assert seen
    is_small = ((box[2:] - box[:2]) <= int(OVERLAP * tile)).all()
    if is_small:  # it is whole in one tile
        assert any(
            np.array_equal(inside(view, box), box) for view in views[: max(1, len(views) - 1)]
        )


@settings(max_examples=100, deadline=None)
@given(sides, sides, st.integers(64, 300))
def test_tiles_cover_the_image_at_its_own_scale_and_the_last_view_is_all_of_it(
    width: int, height: int, tile: int
) -> None:
    *tiles, last = views_of(width, height, tile)
    covered = np.zeros((height, width), bool)
    for view in tiles or [last]:
        assert view.scale == 1
        assert view.left + view.width <= width
        assert view.top + view.height <= height
        covered[view.top : view.top + view.height, view.left : view.left + view.width] = True
    assert covered.all()
    assert (last.left, last.top, last.width, last.height) == (0, 0, width, height)


def test_sahis_tiles_of_a_large_image() -> None:
    views = views_of(3072, 3072, 1024)
    assert len(views) == 17
    assert [view.left for view in views[:4]] == [0, 820, 1640, 2048]


def found(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    table = np.array(rows, np.float32)
    return Detections(7, table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


LEFT, RIGHT = (0, 0, 100, 50, 0.9, 1), (40, 0, 140, 50, 0.8, 1)
"""Two pieces of one object, in two tiles: 60% of each is in the other."""


def test_merging_joins_the_pieces_that_suppression_keeps() -> None:
    parts = [found(LEFT), found(RIGHT)]
    assert len(merge_views(parts, NMS, 300)) == 2
    joined = merge_views(parts, GREEDY, 300)
    assert joined.boxes.tolist() == [[0, 0, 140, 50]]
    assert joined.scores.tolist() == pytest.approx([0.9])
    assert joined.image_id == 7


def test_suppression_keeps_the_better_of_two_views_of_one_object() -> None:
    merged = merge_views([found((0, 0, 100, 50, 0.6, 1)), found((2, 0, 100, 50, 0.7, 1))], NMS, 300)
    assert merged.boxes.tolist() == [[2, 0, 100, 50]]


def test_other_classes_and_boxes_apart_are_not_merged() -> None:
    parts = [found(LEFT), found((*RIGHT[:5], 2)), found((300, 0, 400, 50, 0.5, 1))]
    assert len(merge_views(parts, GREEDY, 300)) == 3


def test_a_chain_of_pieces_is_joined_only_if_chained() -> None:
    third = (80, 0, 180, 50, 0.7, 1)  # covers enough of RIGHT, but not of LEFT
    parts = [found(LEFT), found(RIGHT, third)]
    assert len(merge_views(parts, GREEDY, 300)) == 2
    assert merge_views(parts, CHAINED, 300).boxes.tolist() == [[0, 0, 180, 50]]


def test_low_scores_and_too_many_are_left_out() -> None:
    far = [found((n * 200, 0, n * 200 + 50, 50, 0.9 - n / 10, 0)) for n in range(5)]
    merging = Merging("from 0.65", 0.5, confidence=0.65)
    assert merge_views(far, merging, 300).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert merge_views(far, merging, 2).scores.tolist() == pytest.approx([0.9, 0.8])


def test_approaches_see_the_same_pixels_in_at_least_as_many_steps() -> None:
    images = DrawnImages(Path("large"), Path("tiles"))
    whole, tiles, shrunk = plans(images, 3072, 1024, 24)
    pixels = 12 * whole.pixels_per_epoch
    steps = {}
    for plan in (whole, tiles, shrunk):
        epochs = plan.epochs_for(pixels)
        assert pixels <= epochs * plan.pixels_per_epoch < pixels + plan.pixels_per_epoch
        steps[plan.name] = epochs * plan.inputs / plan.batch
    assert steps["whole"] == 288
    assert steps["tiles"] > 288
    assert steps["shrunk"] > 288


def test_written_views_hold_the_images_pixels_and_boxes(tmp_path: Path) -> None:
    sizes = (ShapeSizes(0.1, 0.2, 3), ShapeSizes(0.02, 0.04, 3))
    generate_demo(tmp_path / "large", DemoSettings(2, 1, 256, sizes=sizes, is_textured=True))
    dataset = load_annotated(tmp_path / "large", "train")
    assert dataset.class_names == TEXTURES
    write_views(dataset, "train", tmp_path / "tiles", 128)
    written = load_annotated(tmp_path / "tiles", "train")
    views = views_of(256, 256, 128)
    assert len(written) == 2 * len(views)
    assert not written.report.lines()
    for number, record in enumerate(written.records):
        original, view = dataset.records[number // len(views)], views[number % len(views)]
        pixels = view.crop(cv2.imread(str(original.path)))
        assert np.array_equal(cv2.imread(str(record.path)), pixels)
        boxes, is_shown = view.visible(original.boxes)
        np.testing.assert_allclose(record.boxes, boxes[is_shown], atol=0.01)


def test_a_tile_is_smaller_than_the_images(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--tile", "4096"]) == 2
    assert "expected a tile smaller than the images" in capsys.readouterr().err


@pytest.mark.slow(20)
def test_all_approaches_are_trained_and_measured_and_not_again(tmp_path: Path) -> None:
    start = tmp_path / "start.safetensors"
    names = {"class_names": json.dumps(TEXTURES), "image_size": "64"}
    start.write_bytes(weights_content(YOLOv5("n", len(TEXTURES)), names))
    program = (
        *(sys.executable, "-m", "yolo.bench.tiling", "--size", "128", "--tile", "64"),
        *("--train-images", "2", "--val-images", "1", "--epochs", "1", "--start", str(start)),
        *("--base", str(REPOSITORY / "recipes" / "large_images.yaml")),
        *("precision.dtype=fp32", "cluster.processes_per_node=1", "data.workers=0"),
        *("train.gradient_clipping=1", "evaluation.batchnorm_images=0"),
    )
    ran = run_forked(program, tmp_path, ON_A_PROCESSOR, tmp_path / "log")
    assert ran.returncode == 0, ran.stdout
    results = tmp_path / "results"
    rows = json.loads((results / "tiling.json").read_text())["rows"]
    assert [row["trained_on"] for row in rows] == ["whole", "tiles", "shrunk"]
    assert [row["steps"] for row in rows] == [2, 5, 4]
    assert len(rows[1]["ap_by_merging"]) > 1
    assert max(rows[1]["ap_by_merging"].values()) == rows[1]["ap"]
    assert "| tiles | 64 | 4 |" in (results / "tiling.md").read_text()
    assert cv2.imread(str(results / "tiling.png")).size
    again = run_forked(program, tmp_path, ON_A_PROCESSOR, tmp_path / "log2")
    assert again.returncode == 0, again.stdout
    assert "yolo.train" not in again.stdout
    assert json.loads((results / "tiling.json").read_text())["rows"] == rows
