import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

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


def test_figures_are_not_written_over_an_input(demo: Path, tmp_path: Path) -> None:
    network, annotations = weights(tmp_path, CLASSES), demo / "annotations" / "instances_val.json"
    for given in (network, annotations):
        before = given.read_bytes()
        with pytest.raises(DataError, match="is an input; name another file"):
            list(evaluate_weights(network, annotations, given, batch=4))
        assert given.read_bytes() == before


def test_a_data_sets_folder_is_evaluated_on_its_validation_split(
    demo: Path, tmp_path: Path
) -> None:
    lines = list(evaluate_weights(weights(tmp_path, CLASSES), demo, None, batch=4))
    assert lines[0].startswith("4 images, ")


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


def lively_weights(folder: Path) -> Path:
    """Of an untrained network that detects something in most images."""
    torch.manual_seed(3)
    model = YOLOv5("n", len(CLASSES))
    for convolution in model.model[-1].m:
        torch.nn.init.normal_(convolution.weight, std=1.0)
        torch.nn.init.normal_(convolution.bias)
    path = folder / "lively.safetensors"
    save_weights(path, model, {"class_names": json.dumps(CLASSES), "image_size": "96"})
    return path


def photographs(folder: Path, count: int) -> Path:
    """Images of all shapes with a COCO file that has no boxes; some turned by EXIF, some far above 96 pixels."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images = []
    for number in range(count):
        width, height = (int(side) for side in random.integers(20, 700, 2))
        pixels = cv2.resize(random.integers(0, 255, (5, 5, 3), np.uint8), (width, height))
        name = f"{number}.{('jpg', 'png', 'webp')[number % 3]}"
        exif = Image.Exif()
        if is_turned := number % 6 == 0:  # a JPEG
            exif[0x0112] = 6
        Image.fromarray(pixels).save(folder / "images" / name, exif=exif)
        shown = (height, width) if is_turned else (width, height)
        images.append({"id": number, "file_name": name, "width": shown[0], "height": shown[1]})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": [], "categories": categories}
    (folder / "truth.json").write_text(json.dumps(content))
    return folder


def test_detect_and_eval_count_the_same_objects_in_images_of_all_shapes(tmp_path: Path) -> None:
    data, network = photographs(tmp_path / "data", 100), lively_weights(tmp_path)
    out = tmp_path / "out"
    list(detect_and_draw(network, [data / "images"], out, 0.3, 0.45))
    rows = json.loads((out / "detections.json").read_text())
    detected = sum(len(row["detections"]) for row in rows)
    assert len(rows) == 100
    assert sum(bool(row["detections"]) for row in rows) > 50
    lines = evaluate_weights(network, data / "truth.json", None, 8, confidence=0.3)
    assert next(line for line in lines if "detections" in line).endswith(f" {detected} detections")


def test_detecting_into_the_folder_of_the_images_leaves_them_alone(tmp_path: Path) -> None:
    images, network = tmp_path / "X", lively_weights(tmp_path)
    images.mkdir()
    for name in ("a.png", "b.jpg", "b.png"):
        cv2.imwrite(str(images / name), np.full((40, 60, 3), 90, np.uint8))
    before = {path: path.read_bytes() for path in images.iterdir()}
    for _ in range(2):  # the second time it finds its own drawings there
        lines = list(detect_and_draw(network, [images], images, 0.25, 0.45))
        assert lines[-1].startswith("3 images")
        assert {path: path.read_bytes() for path in before} == before
        assert {path.name for path in images.iterdir()} - {path.name for path in before} == {
            *("a-2.png", "b-2.png", "b-3.png", "detections.json")
        }


def test_a_detections_json_of_somebody_else_is_kept(tmp_path: Path) -> None:
    image, listing = tmp_path / "a.png", tmp_path / "detections.json"
    cv2.imwrite(str(image), np.zeros((40, 60, 3), np.uint8))
    listing.write_text('{"mine": 1}')
    with pytest.raises(DataError, match=r"detections\.json: exists, .* choose another folder"):
        list(detect_and_draw(lively_weights(tmp_path), [image], tmp_path, 0.25, 0.45))
    assert listing.read_text() == '{"mine": 1}'


def test_file_names_that_are_no_utf8_are_detected_in(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    image = Path(os.fsdecode(bytes(folder) + b"/caf\xe9.png"))
    image.write_bytes(cv2.imencode(".png", np.zeros((40, 60, 3), np.uint8))[1].tobytes())
    list(detect_and_draw(lively_weights(tmp_path), [folder], tmp_path / "out", 0.25, 0.45))
    drawn = [path for path in os.listdir(bytes(tmp_path / "out")) if path.endswith(b".png")]
    assert drawn == [b"caf\xe9.png"]
    (row,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert row["image"] == str(image)
