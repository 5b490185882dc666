from pathlib import Path

import pytest

from yolo.errors import RecipeError
from yolo.recipe.load.merge import load_recipe

LEGACY = "0123456789abcdef0123456789abcdef01234567"
NEW = "wandb_v1_" + "aB3_" * 19
OWN = "a-key-of-an-own-server"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", OWN)


@pytest.mark.parametrize("key", [LEGACY, f"local-{LEGACY}", NEW, OWN])
def test_a_key_in_a_recipe_is_refused_by_its_line_and_not_repeated(
    tmp_path: Path, key: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"description: a test\ntracking:\n  wandb: {{entity: {key}}}\n")
    with pytest.raises(RecipeError, match=r"x\.yaml:3: .*set WANDB_API_KEY") as caught:
        load_recipe(path)
    assert key not in str(caught.value)


@pytest.mark.parametrize("override", ["tracking.wandb.api_key={}", "{}=3", "description={}"])
@pytest.mark.parametrize("key", [LEGACY, NEW])
def test_a_key_in_an_override_is_refused_and_not_repeated(
    tmp_path: Path, override: str, key: str
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("description: a test\n")
    with pytest.raises(RecipeError, match="looks like a key of W&B") as caught:
        load_recipe(path, [override.format(key)])
    assert key not in str(caught.value)


def test_a_commit_in_a_path_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"description: a test\ndata: {{root: hub/snapshots/{LEGACY}}}\n")
    assert load_recipe(path).recipe.data.root.endswith(LEGACY)
