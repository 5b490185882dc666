from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.same_bits import RECIPE, RUNS, compare, hash_of
from yolo.recipe import prepare


def test_a_hash_tells_one_bit_a_name_and_a_shape_apart(tmp_path: Path) -> None:
    def of(**tensors: np.ndarray) -> str:
        save_file(tensors, tmp_path / "weights.safetensors")
        return hash_of(tmp_path / "weights.safetensors")

    plain = np.arange(6, dtype=np.float32)
    other = plain.copy()
    other[3] = np.nextafter(other[3], np.float32(9))
    hashes = [of(a=plain), of(a=other), of(b=plain), of(a=plain.reshape(2, 3)), of(a=-plain)]
    assert len(set(hashes)) == len(hashes)
    assert of(a=plain, b=other) == of(b=other, a=plain)


def test_a_run_that_ends_elsewhere_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare({"SGD": "1", "AdamW": "2"}, {"SGD": "1", "AdamW": "2"}, "base") == 0
    assert compare({"SGD": "1", "AdamW": "2"}, {"SGD": "1", "AdamW": "3"}, "base") == 1
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0].startswith("AdamW") and said[0].endswith("NOT 3")
    assert said[1] == "1 of 2 runs end with the bits of base"


@pytest.mark.parametrize("run", RUNS)
def test_each_run_is_a_recipe_whose_settings_count(tmp_path: Path, run: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE % tmp_path)
    warnings = prepare(recipe, RUNS[run], world_size=2).warnings
    assert not [line for line in warnings if "has no effect" in line]
