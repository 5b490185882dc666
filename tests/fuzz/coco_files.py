"""Annotation files in COCO's format, and worse."""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files
from tests.fuzz.nested import Entries, entries, places, with_value
from tests.fuzz.recipes import SOUND
from yolo.data.dataset import Problem

IMAGES, BOXES = 4, 3
"""Of the sound file, and of each of its images."""
DROPS_IMAGE = (
    Problem.MISSING_IMAGE,
    Problem.CORRUPT_IMAGE,
    Problem.SIZE_MISMATCH,
    Problem.MALFORMED_IMAGE,
    Problem.MALFORMED_LABELS,
)
DROPS_BOX = (
    *(Problem.MALFORMED_BOX, Problem.UNKNOWN_CLASS, Problem.UNKNOWN_IMAGE),
    *(Problem.DEGENERATE_BOX, Problem.DUPLICATE_BOX),
)
COUNTED = re.compile(r": (\d+) x (.*?), such as ")
WRITTEN = re.compile(r": (\d+) images, (\d+) boxes of ")
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 0.5, 10**10, 10**30, 10**400, math.inf, -math.inf, math.nan, 1e308),
    *("", "1", "text", [], {}, [[]], [1, 2, 3], [1, 2, 3, "4"]),
)
NAMES = (
    *("../../../etc/passwd", "/etc/passwd", "/dev/zero", "../images/0.png", "a/../../x.png"),
    *("a\0.png", "\ud800.png", "", ".", "..", "/", "x" * 300 + ".png", "x/" * 3000 + "a.png"),
    *("nowhere.png", "\x1b[2J.png", "images", "0.png/", "fifo.png", "loop.png", "CON", "~/a.png"),
)
TEXTS = {
    "nested 100,000 deep": "[" * 100_000,
    "objects nested 50,000 deep": '{"a":' * 50_000,
    "a number of 5,000 digits": '{"images": [' + "9" * 5_000 + "]}",
    "a key twice": '{"images": [], "images": [], "annotations": [], "categories": []}',
    "a list": "[]",
    "a word": '"images"',
    "YAML": "images: []",
    "a comment": "// none\n{}",
    "single quotes": "{'images': []}",
    "lists of nothing": '{"images": [], "annotations": [], "categories": []}',
    "lists that are objects": '{"images": {}, "annotations": {}, "categories": {}}',
    "half of it": '{"images": []}',
    "something behind it": '{"images": [], "annotations": [], "categories": []} {}',
    "an escaped half of a character": '{"\\ud800": 1}',
}


def coco_files(folder: Path, random: Random) -> Iterator[Case]:
    """Annotation files of every kind of wrong, each beside sound images."""
    recipe = folder / "sound.yaml"
    recipe.write_text(SOUND)
    images, path = folder / "images", folder / "instances.json"
    sound = _written(images)
    numbers = iter(range(10_000))
    common = (f"data.root={folder}", f"data.train={path.name}", "data.max_bad_share=1.0")

    def case(name: str, content: bytes) -> Case:
        path.write_bytes(content)
        out = f"shards-{next(numbers)}"
        arguments = ("shard", str(recipe), out, "--split", "train", "--shards", "1", *common)
        return Case(name, arguments, str(path), _nothing_lost(content))

    text = json.dumps(sound)
    for name, bad in TEXTS.items():
        yield case(name, bad.encode())
    for name, encode in ENCODINGS.items():
        yield case(name, encode(text))
    yield case("a byte order mark", b"\xef\xbb\xbf" + text.encode())
    for name, content in damaged(text.encode(), random, 35):
        yield case(name, content)
    for place in places(sound, _first_entries):
        value = random.choice(ODD)
        changed = with_value(sound, place, value)
        yield case(f"{'.'.join(map(str, place))}: {value!r:.30}", json.dumps(changed).encode())
    for file_name in NAMES:
        changed = with_value(sound, ("images", 0, "file_name"), file_name)
        yield case(f"an image named {file_name!r:.30}", json.dumps(changed).encode())
    path.unlink()
    for name in odd_files(path):
        arguments = ("shard", str(recipe), "out", "--split", "train", *common)
        yield Case(f"{name} for a file", arguments, str(path))


def _written(images: Path) -> dict[str, Any]:
    images.mkdir()
    (images / "loop.png").symlink_to("loop.png")
    os.mkfifo(images / "fifo.png")
    noise = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = noise.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{number}.png"), pixels)
    return {
        "images": [
            {"id": n, "file_name": f"{n}.png", "width": 60, "height": 40} for n in range(IMAGES)
        ],
        "categories": [{"id": 3, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {
                **{"id": n * BOXES + b, "image_id": n, "category_id": (3, 7)[b % 2]},
                **{"bbox": [2 + b * 3, 3, 10 + n, 9], "area": 50.5, "iscrowd": 0},
            }
            for n in range(IMAGES)
            for b in range(BOXES)
        ],
    }


def counts_of(ended: Ended) -> Counter[str]:
    """The problems that a command told of, and `images` and `boxes` that it wrote."""
    counts: Counter[str] = Counter()
    for line in ended.stdout.splitlines():
        if line.startswith("warning: ") and (found := COUNTED.search(line)):
            counts[found[2]] += int(found[1])
        elif written := WRITTEN.search(line):
            counts["images"], counts["boxes"] = int(written[1]), int(written[2])
    return counts


def _nothing_lost(content: bytes) -> Oracle:
    """What was written and what was counted as dropped are together what the file holds, as Python's reader has it."""

    def count(ended: Ended) -> Verdict:
        stated = json.loads(content.decode("utf-8-sig"))
        counts = counts_of(ended)
        dropped = sum(counts[problem] for problem in DROPS_IMAGE)
        assert counts["images"] + dropped == len(stated["images"]), (counts, ended.stdout)
        annotations = stated.get("annotations") or []
        boxes = len(annotations)
        singles = boxes - sum(
            isinstance(each, dict) and each.get("iscrowd") == 1 for each in annotations
        )
        told = sum(counts[problem] for problem in DROPS_BOX)
        with_their_image = dropped * BOXES
        assert counts["boxes"] + told <= boxes, (counts, boxes)
        assert counts["boxes"] + told + with_their_image >= singles, (counts, boxes)
        return (
            Verdict.QUARANTINED if counts - Counter(images=9999, boxes=9999) else Verdict.HARMLESS
        )

    return count


def _first_entries(value: Any) -> Entries:
    """Of a list the first two are as good as all."""
    return list(entries(value))[: 6 if isinstance(value, dict) else 2]
