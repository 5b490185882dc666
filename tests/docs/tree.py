"""A copy of the repository as a reader has it who has followed the pages so far: small data, a run that has ended."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY, as_yolo
from yolo.data.demo import DemoSettings, generate_demo

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
SMALL_DEMO = DemoSettings(train_images=24, val_images=9, size=96)
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
    generate_demo(tree / "data/demo", SMALL_DEMO)
    subprocess.run(
        [sys.executable, "-c", PUBLISHED, str(tree / "yolov5n.pt")],
        env=os.environ | {"PYTHONPATH": str(STAND_IN_NETWORK)},
        check=True,
    )
    return tree


def make_readers_data(folder: Path) -> None:
    """What pages mean by /path/to: `bccd` and `large` as their recipes want them, `mine` in YOLO's format, `voc` in Pascal's,
    `coco` as it is published."""
    bccd = folder / "bccd"
    generate_demo(bccd, SMALL_DEMO)
    generate_demo(folder / "large", SMALL_DEMO)
    as_yolo(bccd, folder / "mine")
    _write_voc(bccd, folder / "voc")
    _write_coco(bccd, folder / "coco")


def _write_coco(demo: Path, root: Path) -> None:
    """80 categories under their published numbers, which have gaps."""
    (root / "annotations").mkdir(parents=True)
    numbers = [n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    for split in ("train", "val"):
        content = json.loads((demo / f"annotations/instances_{split}.json").read_text())
        content["categories"] = [{"id": n, "name": f"category {n}"} for n in numbers]
        (root / f"annotations/instances_{split}2017.json").write_text(json.dumps(content))
        (root / f"{split}2017").mkdir()
        for image in content["images"]:
            name = image["file_name"]
            shutil.copy(demo / "images" / name, root / f"{split}2017" / name)


def _write_voc(demo: Path, root: Path) -> None:
    for part in ("Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    shutil.copytree(demo / "images", root / "JPEGImages")
    for split in ("train", "val"):
        content = json.loads((demo / f"annotations/instances_{split}.json").read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        stems = []
        for image in content["images"]:
            stems.append(Path(image["file_name"]).stem)
            objects = "".join(
                f"<object><name>{names[each['category_id']]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
                f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                for each in content["annotations"]
                if each["image_id"] == image["id"]
                for x, y, w, h in [each["bbox"]]
            )
            text = f"<annotation>{objects}</annotation>"
            (root / "Annotations" / f"{stems[-1]}.xml").write_text(text)
        (root / "ImageSets/Main" / f"{split}.txt").write_text("\n".join(stems))
