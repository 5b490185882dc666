"""Bad shards are told by name when they are opened or read, whether they are streamed or fetched."""

from functools import partial
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.attempt import MEGABYTES, SECONDS, measured, refusal
from tests.fuzz.case import HEADING, Tally, Verdict
from tests.fuzz.shard_files import SAMPLES, shard_files
from yolo.data.image.decode import decode_image
from yolo.data.shards.reader import open_shards, read_unpacked, unpack
from yolo.errors import DataError
from yolo.recipe.schema.data import DataSection

LEAST = 40


def read_in_both_ways(root: Path, fetched: Path) -> None:
    """As training streams them, and as validation fetches them. Raises DataError."""
    section = DataSection(format="shards", root=str(root), train="train", val="train")
    shards = open_shards(section, "train")
    for shard in range(len(shards.index.shards)):
        for sample in shards.samples(shard):
            record = sample.record
            image = decode_image(sample.content, str(record.path), record.width, record.height)
            assert image.shape == (record.height, record.width, 3)
    unpack(shards, fetched)
    assert len(read_unpacked(fetched, shards)) == len(shards) == SAMPLES


def test_bad_shards_are_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    monkeypatch.chdir(tmp_path)
    tally = Tally("shards")
    for number, (what, root) in enumerate(shard_files(tmp_path / "root", Random(5))):
        with measured() as took:
            said = refusal(
                partial(read_in_both_ways, root, tmp_path / f"fetched{number}"), DataError
            )
        verdict = Verdict.HARMLESS if said is None else Verdict.REFUSED
        if said is not None:
            assert str(root / "train") in said and "\n" not in said, (what, said)
        if took.seconds > SECONDS or took.megabytes > MEGABYTES:
            verdict = Verdict.FAILED
            tally.failures.append(f"{what}: {took.seconds:.1f} s, {took.megabytes:.0f} MB")
        tally.counts[verdict] += 1
        assert not list(tmp_path.rglob("canary*")), what
    print(f"\n{HEADING}\n{tally.row()}")
    assert not tally.failures
    assert tally.stopped >= LEAST
