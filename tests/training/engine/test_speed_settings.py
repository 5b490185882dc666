"""What makes training fast, through the launcher."""

from collections.abc import Callable
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.training.checkpointing.test_resume import roll_back
from tests.training.conftest import Ended
from yolo.recipe import prepare
from yolo.training.loop.multi_scale import ImageSizes

Run = Callable[..., Ended]
DEMO = "recipes/demo.yaml"


@pytest.mark.slow
def test_precision_is_measured_once_and_images_are_found_on_disk_by_the_resumed_run(
    run: Run, tmp_path: Path
) -> None:
    cache = tmp_path / "kept"
    settings = ("precision.dtype=auto", "train.multi_scale=0.5", "data.cache=disk")
    settings += (f"data.cache_folder={cache}", "data.augmentation.mosaic_from=batch")
    first = run(DEMO, *settings, "data.augmentation.mosaic=1.0")
    assert "times as fast as fp32" in first.output or "not every CPU has bf16" in first.output
    written_down = YAML(typ="safe").load(first.folder / "recipe.yaml")
    dtype = written_down["precision"]["dtype"]
    assert dtype in ("fp32", "bf16")
    assert f"precision auto: {dtype}" in first.output
    train, val = sorted(cache.glob("*.images"), key=lambda file: -file.stat().st_size)
    assert train.stat().st_blocks > val.stat().st_blocks > 0

    written = train.stat().st_mtime_ns
    roll_back(first, "epoch-0001")
    again = (*settings, "data.augmentation.mosaic=1.0", "checkpoint.resume=auto")
    resumed = run(DEMO, *again)
    assert f"precision auto: {dtype}, as in the checkpoint" in resumed.output
    assert train.stat().st_mtime_ns == written


def test_sizes_are_multiples_of_the_stride_around_the_recipes() -> None:
    def sizes(*overrides: str) -> list[int]:
        recipe = prepare(DEMO, ["model.image_size=320", *overrides], 1).resolved.recipe
        chosen = ImageSizes(recipe, 32)
        return [chosen.at(step) for step in range(300)]

    scaled = sizes("train.multi_scale=0.5")
    assert set(scaled) == set(range(160, 481, 32))
    assert scaled == sizes("train.multi_scale=0.5")
    assert scaled != sizes("train.multi_scale=0.5", "train.seed=1")
    assert set(sizes()) == {320}


def test_a_size_leaves_each_stripe_the_columns_that_a_layer_reads_beside_it() -> None:
    overrides = ("model.image_size=256", "sharding.columns=4", "train.multi_scale=0.5")
    recipe = prepare(DEMO, overrides, 4).resolved.recipe
    chosen = ImageSizes(recipe, 32 * 4)
    assert {chosen.at(step) for step in range(100)} == {256, 384}
