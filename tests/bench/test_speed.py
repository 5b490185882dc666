"""The benchmark against the plain baseline, small, and the baseline itself."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import ON_A_PROCESSOR, REPOSITORY
from tests.forking.server import run_forked
from yolo.bench.baseline.data import PlainSamples
from yolo.bench.baseline.evaluation import greedy_suppression
from yolo.bench.speed.speed_ratios import SpeedRatio
from yolo.data.dataset import ImageRecord
from yolo.data.demo import DemoSettings, generate_demo
from yolo.model.nms import non_maximum_suppression
from yolo.recipe import prepare


@pytest.mark.slow
def test_both_sides_are_measured_and_written_down(tmp_path: Path) -> None:
    data = tmp_path / "demo"
    generate_demo(data, DemoSettings(train_images=16, val_images=8, size=96))
    command = (
        *(sys.executable, "-m", "yolo.bench.speed", "--rounds", "2", "--epochs", "1"),
        *("--images", "40", "--seconds", "0.2", "--out", str(tmp_path / "results")),
        *(str(REPOSITORY / "recipes/demo.yaml"), f"data.root={data}"),
        *("model.image_size=64", "train.global_batch=8", "train.warmup_epochs=0"),
        "cluster.threads_per_process=1",
    )
    ran = run_forked(command, tmp_path, ON_A_PROCESSOR, tmp_path / "log")
    assert ran.returncode == 0, ran.stdout
    found = json.loads((tmp_path / "results/speed.json").read_text())
    names = [row["name"] for row in found["comparisons"]]
    assert len(names) == len(set(names)) == 8
    for row in found["comparisons"]:
        assert len(row["ours"]) == len(row["baseline"]) == 2
        assert 0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert found["step_seconds"]["ours"].keys() == found["step_seconds"]["baseline"].keys()
    assert len(found["step_seconds"]["ours"]) == 4
    assert (tmp_path / "results/speed.png").stat().st_size > 5_000


def test_ratios_say_how_many_times_as_fast() -> None:
    rate = SpeedRatio("loader", "images/s", True, (30.0, 20.0, 50.0), (10.0, 10.0, 10.0))
    wall = SpeedRatio("run", "s", False, (5.0,), (20.0,))
    assert (rate.ratios, rate.ratio) == ([3.0, 2.0, 5.0], 3.0)
    assert wall.ratio == 4.0
    assert "3.00 times as fast (2.00 to 5.00 in 3 rounds)" in rate.line()


def test_the_baselines_suppression_keeps_what_ours_keeps() -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(4, 300, 8, generator=generator)
    predictions[..., :2] *= 200
    predictions[..., 2:4] *= 80
    ours = non_maximum_suppression(predictions, 0.2, 0.5, 50)
    for rows, kept in zip(predictions.numpy(), ours, strict=True):
        assert len(kept) > 5
        np.testing.assert_array_equal(greedy_suppression(rows, 0.2, 0.5, 50), kept.numpy())


def test_the_baselines_boxes_lie_on_their_pixels(tmp_path: Path) -> None:
    image = np.full((96, 128, 3), 10, np.uint8)
    image[20:70, 30:90] = 250
    cv2.imwrite(str(tmp_path / "a.png"), image)
    box = np.array([[30, 20, 90, 70]], np.float32)
    kind = np.zeros(1, np.int64)
    record = ImageRecord(1, tmp_path / "a.png", 128, 96, box, kind, kind > 0, box[:, 0])
    settings = [f"data.augmentation.hsv_{channel}=0" for channel in "hsv"]
    settings += [
        "model.image_size=128",
        "data.augmentation.degrees=0",
        "data.augmentation.mosaic=0",
    ]
    recipe = prepare(REPOSITORY / "recipes/demo.yaml", settings, 1).resolved.recipe
    samples = PlainSamples([record], recipe)
    torch.manual_seed(0)
    for _ in range(20):
        pixels, targets = samples[0]
        ((_, _, *place),) = targets.tolist()
        x, y, width, height = (128 * value for value in place)
        rows, columns = (pixels[0] > 180).nonzero(as_tuple=True)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        corners = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(corners, [int(edge) for edge in seen], atol=2.0)
