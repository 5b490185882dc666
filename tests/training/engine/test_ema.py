"""The averaged weights are the same on every rank and under every stage."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from yolo.recipe import prepare
from yolo.training.engine.ema import ModelEMA

STAGES = (0, 2, 3)


@pytest.fixture(scope="module")
def averaged(launch_worker_once: Callable[..., Any]) -> Any:
    return launch_worker_once("averaging", *(f"zero.stage={stage}" for stage in STAGES))


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_all_ranks_hold_the_same_average_and_the_same_batchnorm_statistics(
    averaged: Any, stage: int
) -> None:
    found = averaged[f"zero.stage={stage}"]
    assert found["moved"] > 1e-3, "the average is not merely the newest weights"
    assert found["off_by_hand"] < 1e-4 * found["moved"]
    assert found["drift"] > 1e-3, "DeepSpeed has begun to synchronise statistics itself"
    assert found["weights_apart"] == found["statistics_apart"] == 0
    assert found["trained_statistics_moved"] == 0, "looking at a run must not change it"


def test_the_decay_rises_from_nothing_to_what_is_asked_and_one_step_may_stand_for_several() -> None:
    overrides = ["train.ema_decay=0.9", "train.ema_ramp_steps=10"]
    settings = prepare("recipes/demo.yaml", overrides, 1).resolved.recipe.train
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    average = ModelEMA(layer, settings)
    torch.nn.init.ones_(layer.weight)
    expected = 0.0
    for steps in (1, 1, 5, 20):
        average.update(steps)
        decay = 0.9 * (1 - math.exp(-average.updates / 10))
        assert average.decay == pytest.approx(decay)
        expected = 1 - (1 - expected) * decay**steps
        assert float(average.parameters[0]) == pytest.approx(expected)
    assert average.updates == 27
