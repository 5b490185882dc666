from collections.abc import Callable
from pathlib import Path

import pytest

from yolo.errors import RecipeError
from yolo.recipe import load_recipe

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe into a file; the description that every recipe needs is added."""

    def write_recipe(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("description: a test\n" + text)
        return path

    return write_recipe


@pytest.fixture
def refusal(write: Callable[..., Path]) -> Callable[..., str]:
    """The message with which a recipe is refused."""

    def message_of(text: str, *overrides: str) -> str:
        with pytest.raises(RecipeError) as caught:
            load_recipe(write(text), overrides)
        return str(caught.value)

    return message_of
