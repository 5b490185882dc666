import json
from pathlib import Path

import pytest
import torch

from yolo.data.demo import DemoSettings, generate_demo
from yolo.errors import DataError, WeightsError
from yolo.evaluation.commands import detect_and_draw, evaluate_weights
from yolo.model import YOLOv5
from yolo.model.io.weights import save_weights

CLASSES = ["circle", "square", "triangle", "star"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    generate_demo(root, DemoSettings(train_images=1, val_images=4, size=96))
    return root


def weights(folder: Path, class_names: list[str]) -> Path:
    torch.manual_seed(0)
    path = folder / "w.safetensors"
    model = YOLOv5("n", len(class_names))
    save_weights(path, model, {"class_names": json.dumps(class_names), "image_size": "64"})
    return path


def test_untrained_weights_are_measured_and_written_as_json(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "metrics.json"
    annotations = demo / "annotations" / "instances_val.json"
    lines = list(evaluate_weights(weights(tmp_path, CLASSES), annotations, out, batch=3))
    written = json.loads(out.read_text())
    assert 0 <= written["ap"] < 0.1
    assert [row["name"] for row in written["per_class"]] == CLASSES
    assert len(written["pr_curve"]["recall"]) == 101
    assert len(written["confusion_matrix"]["counts"]) == 5
    assert lines[0].startswith("4 images, ")
    assert lines[-1].startswith("star")


def test_weights_of_other_classes_are_refused(demo: Path, tmp_path: Path) -> None:
    annotations = demo / "annotations" / "instances_val.json"
    with pytest.raises(DataError, match=r"are not those of .*\['cat', 'dog'\]"):
        list(evaluate_weights(weights(tmp_path, ["cat", "dog"]), annotations, None, batch=4))


def test_weights_that_do_not_name_their_classes_are_refused(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "bare.safetensors"
    save_weights(path, YOLOv5("n", 2), {})
    with pytest.raises(WeightsError, match="lack class_names or image_size"):
        list(evaluate_weights(path, demo, None, batch=4))


def test_detecting_writes_images_and_a_listing(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    images = sorted((demo / "images").rglob("*val*")) or sorted((demo / "images").iterdir())
    lines = list(detect_and_draw(weights(tmp_path, CLASSES), images[:2], out, 0.25, 0.45))
    assert len(list(out.glob("*.png"))) == 2
    assert len(json.loads((out / "detections.json").read_text())) == 2
    assert lines[-1].startswith("2 images")
