from collections.abc import Callable
from pathlib import Path

from yolo.recipe import load_recipe, resolve
from yolo.recipe.render.resolved_yaml import arithmetic, effective_json, effective_yaml

Write = Callable[..., Path]


def test_the_resolved_recipe_can_be_trained_again(write: Write, tmp_path: Path) -> None:
    resolved = resolve(load_recipe(write("train: {epochs: 3}\nzero: {stage: 1}")), 2)
    again = tmp_path / "again.yaml"
    again.write_text(effective_yaml(resolved))
    assert load_recipe(again).recipe.model_dump() == resolved.recipe.model_dump()


def test_every_value_shows_its_origin(write: Write) -> None:
    resolved = resolve(load_recipe(write("train: {epochs: 3}"), ["train.seed=4"]), 2)
    origins = effective_json(resolved)["origins"]
    assert origins["train.epochs"].endswith("recipe.yaml:2")
    assert origins["train.seed"] == "override: train.seed=4"
    assert origins["train.micro_batch"].startswith("auto: largest divisor of 64 / 2 ranks")
    assert origins["train.ema"] == "default"


def test_derived_numbers_are_shown_as_sums(write: Write) -> None:
    resolved = resolve(load_recipe(write("train: {global_batch: 32}")), 2)
    assert arithmetic(resolved) == [
        "global_batch 32 = micro_batch 16 x gradient_accumulation_steps 1 x 2 ranks",
        "weight_decay 0.00025 = 0.0005 x global_batch 32 / 64",
    ]
