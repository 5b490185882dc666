import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.data.shards.sharded import DEMO, IMAGES, SHARDS, write
from yolo.data.dataset import DetectionDataset
from yolo.data.demo import DemoSettings, generate_demo
from yolo.data.open import load_split
from yolo.recipe import prepare

BCCD = Path(__file__).parents[2].parent / "shared" / "data" / "bccd"


@pytest.fixture
def bccd() -> Path:
    if not BCCD.is_dir():
        pytest.skip(f"the BCCD photographs are not at {BCCD}")
    return BCCD


@pytest.fixture
def picture(tmp_path: Path) -> Callable[..., Path]:
    """Write an image of 60 x 40 pixels whose left half is red."""

    def write(name: str = "a.png") -> Path:
        image = np.zeros((40, 60, 3), dtype=np.uint8)
        image[:, :30] = (0, 0, 255)
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)
        return path

    return write


@pytest.fixture
def coco(tmp_path: Path, picture: Callable[..., Path]) -> Callable[..., Path]:
    """Write a COCO file of one sound image and box; keywords replace its lists."""

    def write(**lists: Any) -> Path:
        picture("a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [5, 5, 20, 10]}],
        }
        path = tmp_path / "annotations.json"
        path.write_text(json.dumps(content | lists))
        return path

    return write


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "demo"
    generate_demo(path, DemoSettings(train_images=IMAGES, val_images=5, size=96))
    return path


@pytest.fixture(scope="session")
def source(demo: Path) -> DetectionDataset:
    return load_split(prepare(DEMO, [f"data.root={demo}"], 1).resolved.recipe.data, "train")


@pytest.fixture(scope="session")
def written(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    write(demo, out, "train", SHARDS)
    write(demo, out, "val", 2)
    return out
