import math
from pathlib import Path

import pytest

from yolo.recipe import prepare
from yolo.training.loop.lr_schedule import LRSchedule

DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"


def schedule(*overrides: str, steps_per_epoch: int = 100) -> LRSchedule:
    common = (
        "optimizer.type=SGD",
        "train.epochs=10",
        "train.warmup_epochs=2",
        "train.warmup_min_steps=0",
    )
    recipe = prepare(DEMO, [*common, *overrides], 2).resolved.recipe
    return LRSchedule(recipe, steps_per_epoch)


def test_warm_up_goes_from_the_stated_start_to_the_plain_schedule() -> None:
    rates = schedule("optimizer.lr=0.01", "train.schedule=linear")
    first, last = rates.at(0), rates.at(200)
    assert (first.lr, first.bias_lr, first.momentum) == (0.0, 0.1, 0.8)
    assert last.lr == last.bias_lr == pytest.approx(0.01 * (0.8 * 0.99 + 0.01))
    assert last.momentum == 0.937
    halfway = rates.at(100)
    assert halfway.momentum == pytest.approx((0.8 + 0.937) / 2)
    assert halfway.lr < halfway.bias_lr < 0.1


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_rate_falls_to_its_final_share(kind: str) -> None:
    rates = schedule(f"train.schedule={kind}", "train.final_lr_fraction=0.1", "optimizer.lr=0.02")
    after_warm_up = [rates.at(step).lr for step in range(200, 1000)]
    assert after_warm_up == sorted(after_warm_up, reverse=True)
    descent = 1 - 0.9 if kind == "linear" else (1 + math.cos(math.pi * 0.9)) / 2
    assert after_warm_up[-1] == pytest.approx(0.02 * (descent * 0.9 + 0.1))


def test_adam_starts_its_biases_at_rest_and_has_no_momentum() -> None:
    rates = schedule("optimizer.type=AdamW").at(0)
    assert (rates.bias_lr, rates.momentum) == (0.0, None)


def test_warm_up_never_takes_more_than_half_of_the_run() -> None:
    assert schedule("train.warmup_min_steps=5000").warmup_steps == 500


def test_warm_up_ends_where_the_recipe_says_and_else_takes_100_steps() -> None:
    def steps(*overrides: str) -> int:
        recipe = prepare(DEMO, ["train.epochs=40", *overrides], 2).resolved.recipe
        return LRSchedule(recipe, steps_per_epoch=19).warmup_steps

    assert steps() == 100
    assert steps("train.warmup_epochs=1") == 19
    assert steps("train.warmup_epochs=1", "train.warmup_min_steps=50") == 50
    assert steps("train.warmup_epochs=0") == 0


def test_a_scaled_batch_rises_as_steeply_over_the_images_only_for_longer() -> None:
    settings = ("optimizer.type=AdamW", "train.base_batch=16", "train.final_lr_fraction=1.0")
    stated = schedule(*settings, "train.global_batch=16", steps_per_epoch=160)
    scaled = schedule(*settings, "train.global_batch=64", steps_per_epoch=40)
    assert (stated.warmup_steps, scaled.warmup_steps) == (2 * 160, 4 * 40)
    for epoch in (0.5, 1.0, 1.95):
        rate = stated.at(round(epoch * 160)).lr
        assert scaled.at(round(epoch * 40)).lr == pytest.approx(rate)
    assert scaled.at(4 * 40).lr == pytest.approx(2 * stated.at(4 * 160).lr)


def test_groups_are_told_apart_by_name() -> None:
    groups = [{"name": name, "lr": None} for name in ("biases", "weights", "norms")]
    schedule().apply(groups, 50)
    biases, weights, norms = groups
    assert weights["lr"] == norms["lr"] < biases["lr"]
    assert weights["momentum"] < 0.937
