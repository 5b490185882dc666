"""A copy of the repository as a reader has it who has followed the pages so far: small data, a run that has ended."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np

from tests.conftest import REPOSITORY
from yolo.data.demo import SHAPES, DemoSettings, draw_image, generate_demo

STAND_INS = Path(__file__).parent / "stand_ins"
STAND_IN_NETWORK = REPOSITORY / "tests/model/io/stand_in"
COPIED = (
    "recipes",
    "ds_configs",
    "Makefile",
    "requirements.txt",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
IMAGES = {"train": 24, "val": 9}
SIDE = 96
"""Pixels of a drawn image."""
PUBLISHED = """
import make, pathlib, sys
make.CLASSES, make.TEXTS = 80, [f"thing {number}" for number in range(80)]
network = make.network("n", make.TEXTS)
make.save(pathlib.Path(sys.argv[1]), network, None)
"""


def make_tree(folder: Path) -> Path:
    """The repository's files that commands name, an environment of stand-ins, and data."""
    tree = folder / "yolov5-deepspeed"
    tree.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, tree / name)
    (tree / "yolo").symlink_to(REPOSITORY / "yolo")
    environment = tree / ".venv" / "bin"
    environment.mkdir(parents=True)
    for program in ("python", "yolo", "deepspeed", "pytest"):
        (environment / program).symlink_to(STAND_INS / "fork")
    (environment / "activate").write_text('PATH="$PWD/.venv/bin:$PATH"\n')
    (tree / ".venv" / "ready").touch()
    generate_demo(tree / "data/demo", DemoSettings(IMAGES["train"], IMAGES["val"], SIDE))
    subprocess.run(
        [sys.executable, "-c", PUBLISHED, str(tree / "yolov5n.pt")],
        env=os.environ | {"PYTHONPATH": str(STAND_IN_NETWORK)},
        check=True,
    )
    return tree


def make_readers_data(folder: Path) -> None:
    """What pages mean by /path/to: `mine` in YOLO's format, `coco` as it is published, `bccd` as its recipe wants it."""
    _write_yolo(folder / "mine")
    generate_demo(folder / "bccd", DemoSettings(IMAGES["train"], IMAGES["val"], SIDE))
    _write_coco(folder / "coco")


def _write_yolo(root: Path) -> None:
    for number, (split, count) in enumerate(IMAGES.items()):
        for what in ("images", "labels"):
            (root / what / split).mkdir(parents=True)
        for index in range(count):
            image, shapes = draw_image(SIDE, np.random.default_rng((1, number, index)))
            cv2.imwrite(str(root / "images" / split / f"{index}.jpg"), image)
            lines = [
                f"{kind} {(left + right) / 2 / SIDE} {(top + bottom) / 2 / SIDE} "
                f"{(right - left) / SIDE} {(bottom - top) / SIDE}\n"
                for kind, (left, top, right, bottom) in shapes
            ]
            (root / "labels" / split / f"{index}.txt").write_text("".join(lines))
    names = "\n".join(f"  {number}: {name}" for number, name in enumerate(SHAPES))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}\n")


def _write_coco(root: Path) -> None:
    """80 categories under their published numbers, which have gaps."""
    drawn = root.with_name("drawn")
    generate_demo(drawn, DemoSettings(IMAGES["train"], IMAGES["val"], SIDE))
    (root / "annotations").mkdir(parents=True)
    numbers = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    for split in IMAGES:
        content = json.loads((drawn / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [{"id": n, "name": f"category {n}"} for n in numbers]
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        (root / f"{split}2017").mkdir()
        for image in content["images"]:
            source = drawn / "images" / image["file_name"]
            shutil.copy(source, root / f"{split}2017" / image["file_name"])
    shutil.rmtree(drawn)
