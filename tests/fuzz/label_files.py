"""YOLO's data.yaml and label files."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import cv2
import numpy as np

from tests.fuzz.attempt import Ended
from tests.fuzz.case import Case, Oracle, Verdict
from tests.fuzz.coco_files import DROPS_BOX, DROPS_IMAGE, counts_of
from tests.fuzz.mutations import ENCODINGS, damaged, odd_files
from tests.fuzz.recipes import CANARY, LAUGHS, SOUND

IMAGES = 3
DATA = "train: images\nval: images\nnames: [cat, dog]\n"
LABELS = "0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.1 0.25\n1 0.7 0.2 0.2 0.2\n"
LINES = (
    *("0 0.5 0.5 0.2", "0 0.5 0.5 0.2 0.2 0.9", "cat 0.5 0.5 0.2 0.2", "2 0.5 0.5 0.2 0.2"),
    *("-1 0.5 0.5 0.2 0.2", "0.5 0.5 0.5 0.2 0.2", "nan 0.5 0.5 0.2 0.2", "0 inf 0.5 0.2 0.2"),
    *("0 nan 0.5 0.2 0.2", "0 1e300 0.5 0.2 0.2", "0 0.5 0.5 -0.2 0.2", "0 0.5 0.5 0 0.2"),
    *("0 0.5 0.5 1e-300 0.2", "0,0.5,0.5,0.2,0.2", "0 0.5 0.5 0.2 0.2 # one", "0 5 5 0.2 0.2"),
    *("1e400 0.5 0.5 0.2 0.2", "9" * 5000 + " 0.5 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2\x00"),
    *(
        "\ufeff0 0.5 0.5 0.2 0.2",
        "0\u2028 0.5 0.5 0.2",
        "0 0.95 0.5 0.5 0.2",
        "[0, 0.5, 0.5, 0.2, 0.2]",
    ),
    *("0 0.1 0.1 0.5 0.1 0.5 0.5", "0 0.1 0.1 0.5 0.1 0.5 nan", "0 10 10 50 10 50 50"),
    *("0 " * 50_000, "x" * 100_000, "0 0x1 0.5 0.2 0.2", "0 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2 0.2"),
)
YAMLS = {
    "a billion laughs": LAUGHS + "\ntrain: *i\nnames: [a]",
    "a Python object": f"train: !!python/object/apply:os.system ['touch {CANARY}']\nnames: [a, b]",
    "no names": "train: images",
    "names of lists": "train: images\nnames: [[0], 1]",
    "names of nothing": "train: images\nnames: []",
    "names with a gap": "train: images\nnames: {0: a, 2: b}",
    "names with a NUL": 'train: images\nnames: ["a\\0", b]',
    "names of half characters": 'train: images\nnames: ["\\ud800", b]',
    "names with an escape": 'train: images\nnames: ["\\e[2J", b]',
    "nc that is another": "train: images\nnames: [a, b]\nnc: 3",
    "nc of words": "train: images\nnames: [a, b]\nnc: two",
    "no train": "names: [a, b]",
    "a train of numbers": "train: 3\nnames: [a, b]",
    "a train of nothing": "train:\nnames: [a, b]",
    "a train of lists": "train: [[images]]\nnames: [a, b]",
    "a train that is nowhere": "train: nowhere\nnames: [a, b]",
    "a train that is /dev/zero": "train: /dev/zero\nnames: [a, b]",
    "a train with a NUL": 'train: "a\\0b"\nnames: [a, b]',
    "a train of 5,000 letters": f"train: {'x' * 5000}\nnames: [a, b]",
    "a list that is a FIFO": "train: fifo.txt\nnames: [a, b]",
    "a list of what is no text": "train: noise.txt\nnames: [a, b]",
    "a list of nothing": "train: empty.txt\nnames: [a, b]",
    "a list of what is not there": "train: gone.txt\nnames: [a, b]",
    "a list of odd things": "train: odd.txt\nnames: [a, b]",
    "a path with a NUL": 'path: "a\\0b"\ntrain: images\nnames: [a, b]',
    "a path of lists": "path: [a]\ntrain: images\nnames: [a, b]",
    "a key twice": "train: images\ntrain: others\nnames: [a, b]",
}


def label_files(folder: Path, random: Random) -> Iterator[Case]:
    """A data.yaml or one label file of every kind of wrong, the rest of the set sound."""
    recipe, path = folder / "sound.yaml", folder / "data.yaml"
    recipe.write_text(SOUND)
    _write_set(folder)
    label = folder / "labels" / "0.txt"
    numbers = iter(range(10_000))

    def case(name: str, named: Path, oracle: Oracle) -> Case:
        out = f"shards-{next(numbers)}"
        arguments = ("shard", str(recipe), out, "--split", "train", "--shards", "1")
        where = (f"data.root={folder}", "data.train=data.yaml", "data.max_bad_share=1.0")
        return Case(name, (*arguments, *where, "data.format=yolo"), str(named), oracle)

    for line in LINES:
        label.write_text(f"{LABELS}{line}\n", "utf-8")
        yield case(f"a line {line[:40]!r}", label, _nothing_lost(label))
    for name, encode in ENCODINGS.items():
        label.write_bytes(encode(LABELS))
        yield case(f"labels, {name}", label, _nothing_lost(label))
    for name, content in damaged(LABELS.encode(), random, 21):
        label.write_bytes(content)
        yield case(f"labels, {name}", label, _nothing_lost(label))
    label.unlink()
    for name in odd_files(label):
        yield case(f"{name} for labels", label, _nothing_lost(label))
    label.write_text(LABELS)
    for name, text in YAMLS.items():
        path.write_text(text)
        yield case(name, path, _is_quarantined)
    for name, encode in ENCODINGS.items():
        path.write_bytes(encode(DATA))
        yield case(f"data.yaml, {name}", path, _nothing_lost(label))
    path.unlink()
    for name in odd_files(path):
        yield case(f"{name} for data.yaml", path, _is_quarantined)


def _write_set(folder: Path) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    noise = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = noise.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels)
        (folder / "labels" / f"{number}.txt").write_text(LABELS)
    (folder / "data.yaml").write_text(DATA)
    os.mkfifo(folder / "fifo.txt")
    (folder / "noise.txt").write_bytes(bytes(range(256)))
    (folder / "empty.txt").touch()
    (folder / "odd.txt").write_text(
        "images/0.png\nfifo.txt\n/dev/zero\nimages\na\0b\n" + "x" * 5000
    )


def _is_quarantined(ended: Ended) -> Verdict:
    counts = counts_of(ended)
    assert any(counts[problem] for problem in DROPS_IMAGE), ended.stdout
    return Verdict.QUARANTINED


def _nothing_lost(label: Path) -> Oracle:
    """Each line with anything in it is a box that was written or counted; an image is written or counted."""

    def count(ended: Ended) -> Verdict:
        counts = counts_of(ended)
        dropped = sum(counts[problem] for problem in DROPS_IMAGE)
        assert counts["images"] + dropped == IMAGES, ended.stdout
        others = (IMAGES - 1) * len(LABELS.splitlines())
        is_read = label.is_file() and not dropped
        lines = label.read_text("utf-8-sig").splitlines() if is_read else []
        stated = sum(1 for line in lines if line.strip()) + others
        told = sum(counts[problem] for problem in DROPS_BOX)
        assert counts["boxes"] + told == stated, (counts, stated)
        has_problems = sum(counts.values()) > counts["images"] + counts["boxes"]
        return Verdict.QUARANTINED if has_problems else Verdict.HARMLESS

    return count
