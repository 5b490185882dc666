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

from tests.data.shards.sharded import assert_same, loader_for, opened
from yolo.data.dataset import DetectionDataset
from yolo.data.shards import store as shard_store
from yolo.data.shards.stream import ShardSlice, ShuffleBuffer, slices_of_stream
from yolo.errors import DataError


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
    parts = [slices_of_stream(samples, stream, streams, 3, epoch) for stream in range(streams)]
    found = [(s.shard, n) for part in parts for s in part for n in range(s.first, s.stop)]
    assert sorted(found) == [(k, n) for k, count in enumerate(samples) for n in range(count)]
    lengths = [sum(stretch.stop - stretch.first for stretch in part) for part in parts]
    whole = -(-len(samples) // streams)
    assert max(lengths) - min(lengths) <= whole + 2  # shards differ by one, and cuts are rounded
    if len(samples) % streams == 0:  # shards are not shared
        assert all(s == ShardSlice(s.shard, 0, samples[s.shard]) for part in parts for s in part)


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


def test_a_command_gives_the_same_batches_as_the_folder(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_store, "TRIES", 1)
    expected = list(loader_for(written).epoch(0, 3))
    command = f"pipe:cat {written}/{{}}"
    assert_same(list(loader_for(command).epoch(0, 3)), expected)
    assert_same(list(loader_for(f"file:{written}").epoch(0, 3)), expected)
    with pytest.raises(DataError, match=r"cat .*/gone/index.json: .* exit code 1: cat: .*No such"):
        loader_for(command, "data.train=gone")
