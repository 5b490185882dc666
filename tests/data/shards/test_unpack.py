import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data.shards.sharded import DEMO, recipe_for
from yolo.data.open import load_split
from yolo.data.shards.reader import open_shards, read_unpacked, unpack
from yolo.errors import DataError
from yolo.recipe import prepare


def test_a_validation_split_is_fetched_once_and_equals_the_source(
    demo: Path, written: Path, tmp_path: Path
) -> None:
    shards = open_shards(recipe_for(written).data, "val")
    folder = tmp_path / "cache" / "val"
    unpack(shards, folder)
    dataset = read_unpacked(folder, shards)
    source = load_split(prepare(DEMO, [f"data.root={demo}"], 1).resolved.recipe.data, "val")
    for ours, theirs in zip(dataset.records, source.records, strict=True):
        assert ours.path.read_bytes() == theirs.path.read_bytes()
        assert ours.image_id == theirs.image_id
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
    before = folder.stat().st_mtime_ns
    unpack(shards, folder)
    assert folder.stat().st_mtime_ns == before


def test_a_validation_split_that_cannot_be_fetched_leaves_nothing(
    written: Path, tmp_path: Path
) -> None:
    shutil.copytree(written, tmp_path / "copy")
    (tmp_path / "copy/val/val-000001.tar").unlink()
    with pytest.raises(DataError, match="val-000001.tar: no such file"):
        unpack(open_shards(recipe_for(tmp_path / "copy").data, "val"), tmp_path / "cache/val")
    assert not list((tmp_path / "cache").iterdir())
