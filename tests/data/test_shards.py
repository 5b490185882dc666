import functools
import operator
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import REPOSITORY
from yolo.data.dataset import DetectionDataset
from yolo.data.demo import DemoSettings, generate_demo
from yolo.data.loading import load_split
from yolo.data.samples import TrainingBatch
from yolo.data.sharding import shard_split
from yolo.data.shards import Shards, StoredSample, open_shards
from yolo.data.stream_order import ShuffleBuffer, Stretch, stretches_of
from yolo.data.streaming import StreamingLoader, training_loader
from yolo.data.unpacking import read_unpacked, unpack
from yolo.errors import DataError
from yolo.model.anchors import choose_anchors
from yolo.planner.data import data_of
from yolo.recipe import Recipe, prepare

DEMO = REPOSITORY / "recipes" / "demo.yaml"
IMAGES = 23
SHARDS = 6


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(path, DemoSettings(train_images=IMAGES, val_images=5, size=96))
    return path


@pytest.fixture(scope="module")
def source(demo: Path) -> DetectionDataset:
    return load_split(prepare(DEMO, [f"data.root={demo}"], 1).resolved.recipe.data, "train")


@pytest.fixture(scope="module")
def written(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    write(demo, out, "train", SHARDS)
    write(demo, out, "val", 2)
    return out


def write(demo: Path, out: Path, split: str, shards: int, *overrides: str) -> list[str]:
    recipe = prepare(DEMO, [f"data.root={demo}", *overrides], 1).resolved.recipe
    return shard_split(recipe, split, out, 256, shards)[1]


def recipe_for(root: object, *overrides: str, world_size: int = 1) -> Recipe:
    shards = ("data.format=shards", f"data.root={root}", "data.train=train", "data.val=val")
    sizes = ("model.image_size=64", "train.global_batch=4", "data.shuffle_buffer=5")
    augmented = ("data.augmentation.mosaic=0.7", "data.augmentation.mixup=0.5")
    common = (*shards, *sizes, *augmented, "data.workers=0")
    return prepare(DEMO, [*common, *overrides], world_size).resolved.recipe


def loader_for(
    root: object, *overrides: str, rank: int = 0, world_size: int = 1
) -> StreamingLoader:
    recipe = recipe_for(root, *overrides, world_size=world_size)
    loader = training_loader(open_shards(recipe.data, "train"), recipe, rank, world_size)
    assert isinstance(loader, StreamingLoader)
    return loader


def opened(root: object) -> Shards:
    return open_shards(recipe_for(root).data, "train")


def all_samples(shards: Shards) -> list[StoredSample]:
    numbers = range(len(shards.index.shards))
    return functools.reduce(operator.iadd, (list(shards.samples(n)) for n in numbers), [])


def assert_same(one: list[list[TrainingBatch]], two: list[list[TrainingBatch]]) -> None:
    assert len(one) == len(two)
    for step, other in zip(one, two, strict=True):
        for batch, same in zip(step, other, strict=True):
            assert torch.equal(batch.images, same.images)
            assert torch.equal(batch.targets, same.targets)


# --- writing ------------------------------------------------------------------------------------------------------


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


# --- order --------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    streams=st.integers(1, 9),
    more=st.integers(0, 20),
    size=st.integers(1, 12),
    epoch=st.integers(0, 5),
)
def test_each_sample_is_in_one_stream_and_streams_are_equally_long(
    streams: int, more: int, size: int, epoch: int
) -> None:
    samples = [size + (number % 2) for number in range(streams + more)]
    parts = [stretches_of(samples, stream, streams, 3, epoch) for stream in range(streams)]
    found = [(s.shard, n) for part in parts for s in part for n in range(s.first, s.stop)]
    assert sorted(found) == [(k, n) for k, count in enumerate(samples) for n in range(count)]
    lengths = [sum(stretch.stop - stretch.first for stretch in part) for part in parts]
    whole = -(-len(samples) // streams)
    assert max(lengths) - min(lengths) <= whole + 2  # shards differ by one, and cuts are rounded
    if len(samples) % streams == 0:  # shards are not shared
        assert all(s == Stretch(s.shard, 0, samples[s.shard]) for part in parts for s in part)


@given(count=st.integers(1, 80), capacity=st.integers(1, 30), seed=st.integers(0, 99))
def test_the_shuffle_buffer_gives_each_number_once_and_none_early(
    count: int, capacity: int, seed: int
) -> None:
    buffer = ShuffleBuffer(count, capacity)
    drawn = []
    for share in np.random.default_rng(seed).random(count):
        slot = buffer.slot(share)
        drawn.append(buffer.numbers[slot])
        buffer.replace(slot)
        assert len(buffer.numbers) == min(count, capacity)  # partners for a mosaic to the end
    assert sorted(drawn) == list(range(count))
    assert all(number < turn + capacity for turn, number in enumerate(drawn))


# --- reading ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_depends_on_seed_and_epoch_and_can_be_entered_anywhere(
    written: Path, workers: int
) -> None:
    loader = loader_for(written, f"data.workers={workers}")
    epochs = [list(loader.epoch(epoch)) for epoch in range(2)]
    assert [len(steps) for steps in epochs] == [len(loader)] * 2 == [6, 6]
    assert not torch.equal(epochs[0][0][0].images, epochs[1][0][0].images)
    again = loader_for(written, f"data.workers={workers}")
    for first_step in (0, 1, 4, 5):
        assert_same(list(again.epoch(1, first_step)), epochs[1][first_step:])
    other = loader_for(written, f"data.workers={workers}", "train.seed=1")
    assert not torch.equal(next(other.epoch(0))[0].images, epochs[0][0][0].images)


def test_each_rank_reads_its_own_shards_and_together_they_read_all(written: Path) -> None:
    ranks = [
        loader_for(written, "data.workers=1", "train.global_batch=6", rank=rank, world_size=3)
        for rank in range(3)
    ]
    for loader in ranks:
        assert sum(1 for _ in loader.epoch(0)) == 4
    shards = opened(written)
    size = sum(int(offsets[-1]) for offsets in shards.offsets)
    assert sum(loader.bytes_read for loader in ranks) == pytest.approx(size, rel=0.15)
    for loader in ranks:
        assert loader.bytes_read == pytest.approx(size / 3, rel=0.3)


def test_without_augmentation_an_epoch_holds_every_image(
    written: Path, source: DetectionDataset
) -> None:
    """In one stream of a batch that fills no last step, each image comes, and one of them twice."""
    plain = ("data.augmentation.preset=none", "data.augmentation.mosaic=0.0")
    still = ("data.augmentation.scale=0.0", "data.augmentation.mixup=0.0")
    seen: Counter[bytes] = Counter()
    for [batch] in loader_for(written, *plain, *still).epoch(3):
        for number in range(len(batch.images)):
            rows = batch.targets[batch.targets[:, 0] == number][:, 1:]
            seen[rows.numpy().round(3).tobytes()] += 1
    expected = set()
    for record in source.records:
        boxes = record.boxes / 96
        middle, side = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
        rows = np.column_stack([record.classes, middle, side]).astype(np.float32)
        expected.add(rows.round(3).tobytes())
    assert set(seen) == expected
    assert sum(seen.values()) == 24


def test_what_comes_before_a_resume_is_not_read_again(written: Path) -> None:
    whole, rest = loader_for(written), loader_for(written)
    for _ in whole.epoch(0):
        pass
    for _ in rest.epoch(0, first_step=5):
        pass
    assert 0 < rest.bytes_read < 0.8 * whole.bytes_read


class Ranges(SimpleHTTPRequestHandler):
    """As object storage does: gives the bytes that are asked for. Can fail, and break off."""

    directory_served = ""
    failures = 0
    breaks = 0

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, directory=self.directory_served, **keywords)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(503)
            return
        wanted = self.headers["Range"]
        path = Path(self.translate_path(self.path))
        if wanted is None or not path.is_file():
            super().do_GET()
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        content = path.read_bytes()[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if type(self).breaks > 0:
            type(self).breaks -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)


class WholeFiles(Ranges):
    """As Python's own server does: gives the file from its beginning, whatever is asked for."""

    def do_GET(self) -> None:
        del self.headers["Range"]
        super().do_GET()


@pytest.fixture(params=[Ranges, WholeFiles])
def server(request: pytest.FixtureRequest, written: Path) -> Iterator[str]:
    handler = type("Handler", (request.param,), {"directory_served": str(written)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        handler.failures = handler.breaks = 1
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        serving.shutdown()
        thread.join()


def test_a_web_server_that_stumbles_gives_the_same_batches_as_the_folder(
    server: str, written: Path
) -> None:
    expected = list(loader_for(written).epoch(0, 3))
    loader = loader_for(server, "data.workers=1")
    assert_same(list(loader.epoch(0, 3)), expected)
    with pytest.raises(DataError, match=rf"^{server}/gone/index.json: HTTP Error 404[^\n]*$"):
        loader_for(server, "data.train=gone")


def test_a_command_gives_the_same_batches_as_the_folder(written: Path) -> None:
    expected = list(loader_for(written).epoch(0, 3))
    command = f"pipe:cat {written}/{{}}"
    assert_same(list(loader_for(command).epoch(0, 3)), expected)
    assert_same(list(loader_for(f"file:{written}").epoch(0, 3)), expected)
    with pytest.raises(DataError, match="cat .*/gone/index.json: "):
        loader_for(command, "data.train=gone")


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "workers"),
    [("cut off", 0), ("gone", 0), ("overwritten", 0), ("image", 0), ("gone", 1)],
)
def test_a_damaged_shard_is_named(written: Path, tmp_path: Path, workers: int, damage: str) -> None:
    shutil.copytree(written, tmp_path / "copy")
    path = tmp_path / "copy" / "train" / "train-000003.tar"
    content = path.read_bytes()
    start = content.index(b"\xff\xd8")
    changed = {
        "cut off": content[: len(content) // 3],
        "overwritten": b"\1" * len(content),
        "image": content[: start + 500] + bytes(2500) + content[start + 3000 :],
    }
    path.unlink()
    if damage in changed:
        path.write_bytes(changed[damage])
    with pytest.raises(DataError, match=r"^[^\n]*train-000003.tar[^\n]*$") as raised:
        list(loader_for(tmp_path / "copy", f"data.workers={workers}").epoch(0))
    assert "object at" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", b"{", "index.json: is no index of shards: it: "),
        ("index.json", b'{"version": 2}', "index.json: is no index of shards: version: "),
        ("index.npz", b"PK", "index.npz: cannot be read: "),
    ],
)
def test_a_damaged_index_is_named(
    written: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    shutil.copytree(written, tmp_path / "copy")
    (tmp_path / "copy/train" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "copy")


def test_an_index_of_other_shards_is_refused(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written, tmp_path / "copy")
    shutil.copy(written / "val/index.npz", tmp_path / "copy/train/index.npz")
    with pytest.raises(DataError, match="does not belong to the index.json beside it"):
        opened(tmp_path / "copy")


# --- the validation split -----------------------------------------------------------------------------------------


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


# --- commands -----------------------------------------------------------------------------------------------------


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
    assert checked.stdout == "recipes/demo.yaml: good for 2 ranks\n"
    few = ("data.workers=2", "cluster.processes_per_node=2")
    for command in ("check", "train"):
        refused = yolo(command, "recipes/demo.yaml", *data, *few)
        assert refused.returncode == 2
        assert "3 shards are too few: 2 ranks x 2 data.workers" in refused.stderr
        assert "write them anew with `python -m yolo shard --shards 16`" in refused.stderr
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
