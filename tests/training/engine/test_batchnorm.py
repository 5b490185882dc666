"""BatchNorm's statistics for weights that no step had."""

from collections.abc import Callable
from typing import Any

import pytest

from yolo.architecture import BATCHNORM_MOMENTUM
from yolo.recipe import prepare


@pytest.mark.slow
def test_estimated_statistics_are_those_of_the_batches_of_all_ranks(
    launch_worker: Callable[..., Any],
) -> None:
    found = launch_worker("batchnorm")
    assert found["mean_off"] < 1e-5
    assert found["variance_off"] < 1e-5
    assert found["same_on_all_ranks"]
    assert found["changed"] == ["num_batches_tracked", "running_mean", "running_var"]
    assert found["momentum"] == BATCHNORM_MOMENTUM
    assert found["same_again"], "an estimate must not depend on the one before"


@pytest.mark.parametrize(
    ("overrides", "images"),
    [
        ([], 512),
        (["train.ema=false"], 0),
        (["train.ema=false", "communication.sync_every=4"], 512),
        (["evaluation.batchnorm_images=5"], 5),
    ],
)
def test_statistics_are_estimated_where_weights_are_averaged(
    overrides: list[str], images: int
) -> None:
    recipe = prepare("recipes/demo.yaml", overrides, 2).resolved.recipe
    assert recipe.evaluation.batchnorm_images == images
