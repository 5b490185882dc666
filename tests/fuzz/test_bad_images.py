"""One data set of a hundred bad images: each is left out and counted, or can be decoded; no decoder ends the program."""

import json
from collections import Counter
from functools import partial
from pathlib import Path
from random import Random

import cv2
import pytest

from tests.fuzz.attempt import MEGABYTES, SECONDS, attempt_apart, measured, refusal
from tests.fuzz.case import HEADING, Tally, Verdict
from tests.fuzz.coco_files import counts_of
from tests.fuzz.images import HEIGHT, WIDTH, image_files, sound
from tests.fuzz.recipes import SOUND
from yolo.data.formats.coco import read_coco
from yolo.data.image.decode import UnusableImage, image_size, read_image

LEAST = 100


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A data set's folder, and what is wrong with each of its images; the last two are sound."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "images").mkdir()
    wrongs = list(image_files(folder / "images", Random(5)))
    for name in ("sound0.jpg", "sound1.jpg"):
        (folder / "images" / name).write_bytes(sound("JPEG"))
        wrongs.append(("nothing", name))
    size = {"width": WIDTH, "height": HEIGHT}
    content = {
        "images": [{"id": n, "file_name": name, **size} for n, (_, name) in enumerate(wrongs)],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": [],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder, [what for what, _ in wrongs]


def test_each_bad_image_is_refused_by_name_and_in_time(named: tuple[Path, list[str]]) -> None:
    folder, wrongs = named
    tally = Tally("images")
    records = read_coco(folder / "instances.json", folder / "images").records
    assert len(records) == len(wrongs)
    for what, record in zip(wrongs, records, strict=True):
        with measured() as took:
            unread = refusal(partial(read_image, record.path, WIDTH, HEIGHT, 32), UnusableImage)
            unknown = refusal(partial(image_size, record.path), UnusableImage)
        for said in (unread, unknown):
            assert said is None or str(record.path) in said
        verdict = Verdict.HARMLESS if unread is None else Verdict.QUARANTINED
        if took.seconds > SECONDS or took.megabytes > MEGABYTES:
            verdict = Verdict.FAILED
            tally.failures.append(f"{what}: {took.seconds:.1f} s, {took.megabytes:.0f} MB")
        tally.counts[verdict] += 1
    print(f"\n{HEADING}\n{tally.row()}")
    assert not tally.failures
    assert tally.stopped >= LEAST


def test_a_program_that_meets_them_all_lives_and_counts_them(
    named: tuple[Path, list[str]], tmp_path: Path
) -> None:
    folder, wrongs = named
    recipe = tmp_path / "sound.yaml"
    recipe.write_text(SOUND)
    where = (f"data.root={folder}", "data.train=instances.json", "data.max_bad_share=1.0")
    ended = attempt_apart(
        ("shard", str(recipe), "out", "--split", "train", "--shards", "1", *where), 120, tmp_path
    )
    assert ended.code == 0, ended.stderr[-2000:]
    counts = counts_of(ended)
    left_out = sum((counts - Counter(images=9999)).values())
    assert counts["images"] + left_out == len(wrongs)
    assert left_out >= LEAST
    # What was taken can be decoded by whoever streams it.
    for place in (tmp_path / "out" / "train").glob("*.tar"):
        assert place.stat().st_size > counts["images"] * 512
    assert cv2.imread(str(folder / "images" / "sound0.jpg")) is not None
