import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.data.shards.sharded import DEMO, IMAGES, SHARDS, all_samples, opened, write
from yolo.data.dataset import DetectionDataset
from yolo.data.shards.writer import shard_split
from yolo.errors import DataError
from yolo.model.anchors import choose_anchors
from yolo.planner.dataset_size import data_of
from yolo.recipe import prepare


def test_shards_hold_each_image_as_it_was_with_the_same_boxes(
    written: Path, source: DetectionDataset
) -> None:
    shards = opened(written)
    samples = all_samples(shards)
    assert sorted(sample.position for sample in samples) == list(range(IMAGES))
    for sample in samples:
        record = source.records[sample.position]
        assert sample.content == record.path.read_bytes()
        assert sample.record.path.name == record.path.name
        for name in ("image_id", "width", "height"):
            assert getattr(sample.record, name) == getattr(record, name)
        for name in ("boxes", "classes", "crowd", "areas"):
            ours, theirs = getattr(sample.record, name), getattr(record, name)
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
    assert shards.class_names == source.class_names
    assert shards.box_count == source.box_count
    assert shards.fingerprint == source.fingerprint
    assert len(shards) == IMAGES


def test_shards_are_random_parts_of_one_size(written: Path) -> None:
    shards = opened(written)
    assert sorted(shard.samples for shard in shards.index.shards) == [3, 4, 4, 4, 4, 4]
    positions = [sample.position for sample in all_samples(shards)]
    assert positions != sorted(positions)


def test_the_same_data_and_seed_give_the_same_shards(
    demo: Path, written: Path, tmp_path: Path
) -> None:
    write(demo, tmp_path / "same", "train", SHARDS)
    write(demo, tmp_path / "other", "train", SHARDS, "train.seed=1")
    for file in (written / "train").iterdir():
        assert (tmp_path / "same/train" / file.name).read_bytes() == file.read_bytes()
    one, other = (all_samples(opened(root)) for root in (written, tmp_path / "other"))
    assert [s.position for s in one] != [s.position for s in other]


def test_a_shards_size_may_be_given_in_megabytes(demo: Path, tmp_path: Path) -> None:
    recipe = prepare(DEMO, [f"data.root={demo}"], 1).resolved.recipe
    index, _ = shard_split(recipe, "train", tmp_path, shard_mb=0.02)
    images = sum(path.stat().st_size for path in (demo / "images").glob("train-*"))
    assert len(index.shards) == -(-images // 20_000) > 1


def test_anchors_follow_from_shards_as_from_the_files(
    written: Path, source: DetectionDataset
) -> None:
    chosen = [
        choose_anchors(split.box_shapes(64), "n", 64, 4.0, 0).anchors
        for split in (source, opened(written))
    ]
    np.testing.assert_allclose(chosen[1], chosen[0], rtol=1e-4)


def test_images_that_cannot_be_read_are_left_out_and_named(demo: Path, tmp_path: Path) -> None:
    broken = tmp_path / "demo"
    shutil.copytree(demo, broken)
    image = broken / "images" / "train-0005.jpg"
    image.write_bytes(image.read_bytes()[:300])
    with pytest.raises(DataError, match=r"1 of 23 images cannot be used \(4.3%"):
        write(broken, tmp_path / "out", "train", 2)
    assert not (tmp_path / "out").exists()
    [line] = write(broken, tmp_path / "out", "train", 2, "data.max_bad_share=0.1")
    assert "train-0005.jpg: is cut off" in line
    assert {s.record.path.name for s in all_samples(opened(tmp_path / "out"))} == {
        path.name for path in (demo / "images").glob("train-*") if path.name != image.name
    }


def test_shards_are_written_whole_or_not_at_all(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(np, "savez_compressed", full)
        with pytest.raises(OSError, match="No space left"):
            write(demo, tmp_path, "train", 2)
    assert not list(tmp_path.iterdir())
    write(demo, tmp_path, "train", 2)
    with pytest.raises(DataError, match="train: is there already; remove it"):
        write(demo, tmp_path, "train", 2)
    with pytest.raises(DataError, match="23 images do not fill 24 shards"):
        write(demo, tmp_path / "more", "train", 24)


def yolo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "yolo", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
    )


def test_the_command_writes_both_splits_and_check_knows_them(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "shards"
    ran = yolo("shard", "recipes/demo.yaml", str(out), "--shards", "3", f"data.root={demo}")
    assert ran.returncode == 0, ran.stderr
    train, val = ran.stdout.splitlines()
    assert train.startswith(f"{out}/train: 23 images, ")
    assert " in 3 shards, " in train
    assert val.startswith(f"{out}/val: 5 images, ")
    data = ("data.format=shards", f"data.root={out}", "data.train=train", "data.val=val")
    checked = yolo("check", "recipes/demo.yaml", *data, "--world-size", "2", "data.workers=1")
    assert checked.returncode == 0
    backends, said = checked.stdout.splitlines()
    assert backends.startswith("backends: gloo")
    assert said == "recipes/demo.yaml: OK for 2 ranks"
    few = ("data.workers=2", "cluster.processes_per_node=2")
    for command in ("check", "train"):
        refused = yolo(command, "recipes/demo.yaml", *data, *few)
        assert refused.returncode == 2
        assert "3 shards are too few: 2 ranks x 2 data.workers" in refused.stderr
        assert "rewrite them with `yolo shard --shards 16`" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    found = data_of(prepare(DEMO, data, 2).resolved.recipe)
    assert (found.images, found.classes) == (23, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("shard", "recipes/demo.yaml"), "expected a recipe and the folder to write to, found"),
        (("shard", "recipes/demo.yaml", "x", "data.root=gone"), "data.root: gone: no such folder"),
        (("shard", "recipes/demo.yaml", "x", "data.format=shards"), "is shards already"),
        (("check", "recipes/demo.yaml", "data.root=s3://b"), '"s3://b" cannot be opened'),
        (("check", "recipes/demo.yaml", "data.root=pipe:cat x"), "without a place for a file's"),
        (("train", "recipes/demo.yaml", "data.format=shards", "data.train=t"), "t/index.json: no"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], message: str) -> None:
    ran = yolo(*words)
    assert ran.returncode == 2
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
