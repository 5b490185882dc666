import json
from pathlib import Path

from jsonschema import Draft202012Validator

from yolo.recipe.render.reference import json_schema, reference_page
from yolo.recipe.render.resolved_yaml import flatten
from yolo.recipe.schema.recipe import UnresolvedRecipe

RECIPES = Path(__file__).parents[3] / "recipes"


def test_the_schema_beside_the_recipes_is_fresh() -> None:
    assert json.loads((RECIPES / "schema.json").read_text()) == json_schema(), "run `make configs`"


def test_every_key_is_on_the_reference_page_with_its_meaning() -> None:
    rows = [line for line in reference_page().splitlines() if line.startswith("| `")]
    documented = {row.split("`")[1] for row in rows}
    recipe = UnresolvedRecipe(description="x").model_dump(mode="json")
    assert {".".join(key) for key, _ in flatten(recipe)} <= documented
    assert all(len(row.rsplit("|", 2)[1].strip()) > 10 for row in rows)


def test_the_json_schema_accepts_a_recipe_and_refuses_a_misspelt_key() -> None:
    validator = Draft202012Validator(json_schema())
    assert validator.is_valid({"extends": "demo.yaml", "train": {"epochs": 3}})
    assert not validator.is_valid({"train": {"epoch": 3}})
    assert not validator.is_valid({"zero": {"stage": 7}})
    json.dumps(json_schema())
