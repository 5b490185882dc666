from pathlib import Path

import numpy as np
import torch
from PIL import Image

from yolo.architecture import COCO_ANCHORS
from yolo.data.dataset import DataReport, DetectionDataset, ImageRecord
from yolo.data.image.resized import ResizedImages
from yolo.model import YOLOv5
from yolo.recipe import prepare
from yolo.training.checkpointing.run_directory import RunDirectory
from yolo.training.engine.distributed import DistributedContext
from yolo.training.loop.datasets import Datasets
from yolo.training.loop.validator import Validator


def test_samples_are_shown_in_the_frame_of_their_boxes(tmp_path: Path) -> None:
    """A turned photograph whose boxes were drawn before turning: the boxes would lie beside their objects."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "a.jpg", exif=exif)
    box = np.array([[5, 5, 55, 35]], dtype=np.float32)
    kind, crowd = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool)
    record = ImageRecord(1, tmp_path / "a.jpg", 60, 40, box, kind, crowd, np.array([1500.0]))
    dataset = DetectionDataset("x", ("thing",), (1,), (record,), DataReport("x"))
    recipe = prepare("recipes/demo.yaml", ["data.workers=0"], 1).resolved.recipe
    images = ResizedImages(dataset.records, recipe.model.image_size, None)
    judge = Validator(
        Datasets(dataset, dataset, images, images, COCO_ANCHORS),
        recipe,
        DistributedContext(0, 0, 1, 1, torch.device("cpu")),
        RunDirectory(tmp_path / "run"),
    )
    (sample,) = judge._samples(YOLOv5("n", 1))
    assert sample.image.shape == (40, 60, 3)
    assert [(b.left, b.top, b.right, b.bottom) for b in sample.true] == [(5, 5, 55, 35)]
