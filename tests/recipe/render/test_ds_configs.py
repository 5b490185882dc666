"""The recipes that are shipped, and the DeepSpeed JSON generated from them."""

import json
from pathlib import Path

import pytest

from yolo.recipe import prepare
from yolo.recipe.render.ds_configs import generated_path, generated_text, planned_world_size

REPOSITORY = Path(__file__).parents[3]
RECIPES = sorted(path.relative_to(REPOSITORY) for path in (REPOSITORY / "recipes").rglob("*.yaml"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_all_recipes_are_found() -> None:
    assert len(RECIPES) >= 14
    assert {path.stem for path in RECIPES} >= {
        *("demo", "bccd", "yolov5n", "yolov5s", "yolov5m", "yolov5l", "yolov5x"),
        *("zero0", "zero1", "zero2", "zero3", "bf16", "fp16", "accumulation"),
    }


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_can_be_launched(recipe: Path) -> None:
    loaded = prepare(recipe).resolved.loaded
    assert prepare(recipe, world_size=planned_world_size(loaded)).resolved.recipe.description


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_recipe_says_how_to_run_it(recipe: Path) -> None:
    text = recipe.read_text()
    assert text.startswith("# ")
    assert "make train" in text


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_the_generated_json_is_not_stale(recipe: Path) -> None:
    path = generated_path(recipe, Path("ds_configs"))
    assert path.read_text() == generated_text(recipe), "run `make configs`"


def test_no_generated_json_is_left_over() -> None:
    expected = {generated_path(recipe, Path("ds_configs")) for recipe in RECIPES}
    assert set(Path("ds_configs").rglob("*.json")) == expected


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_every_json_states_what_deepspeed_would_choose_otherwise(recipe: Path) -> None:
    config = json.loads(generated_path(recipe, Path("ds_configs")).read_text())
    assert config["gradient_clipping"] == 10.0  # DeepSpeed's own default is 1.0
    assert "comms_logger" not in config  # its presence alone turns it on
    if config["zero_optimization"]["stage"] > 0:
        assert config["zero_optimization"]["reduce_bucket_size"] < 1e7
