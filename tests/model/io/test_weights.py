import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from yolo.errors import WeightsError
from yolo.model import YOLOv5
from yolo.model.io.weights import build_from_weights, load_weights, save_weights

OTHER_ANCHORS = (((8.0, 8.0),) * 3, ((16.0, 16.0),) * 3, ((32.0, 32.0),) * 3)


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    network = YOLOv5("n", classes=3)
    network(torch.rand(2, 3, 64, 64))  # moves BatchNorm's statistics away from where they start
    return network


@pytest.fixture
def file(network: YOLOv5, tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_weights(path, network, {"class_names": json.dumps(["a", "b", "c"]), "image_size": "64"})
    return path


def test_weights_come_back_bit_for_bit(network: YOLOv5, file: Path) -> None:
    loaded, _ = build_from_weights(file)
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_the_metadata_describe_the_network(file: Path) -> None:
    _, metadata = build_from_weights(file)
    assert (metadata["variant"], metadata["classes"], metadata["image_size"]) == ("n", "3", "64")
    assert json.loads(metadata["class_names"]) == ["a", "b", "c"]
    assert json.loads(metadata["anchors"])[0][0] == [10, 13]


def test_a_file_of_other_anchors_builds_a_network_with_them(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, YOLOv5("n", 1, OTHER_ANCHORS), {})
    torch.testing.assert_close(build_from_weights(path)[0].anchors, torch.tensor(OTHER_ANCHORS))


def test_channels_last_weights_can_be_saved(tmp_path: Path) -> None:
    network = YOLOv5("n", 1).to(memory_format=torch.channels_last)
    save_weights(tmp_path / "w.safetensors", network, {})
    saved = load_file(tmp_path / "w.safetensors")["model.1.conv.weight"]
    assert torch.equal(saved, network.state_dict()["model.1.conv.weight"])


def test_nothing_but_the_file_is_left_behind(file: Path) -> None:
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_failed_save_keeps_the_old_file(network: YOLOv5, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises((WeightsError, TypeError)):
        save_weights(file, network, {"image_size": 64})  # type: ignore[dict-item]
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_folder_that_does_not_exist_is_named(network: YOLOv5, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "w.safetensors"
    with pytest.raises(WeightsError, match=rf"{path}: cannot be written"):
        save_weights(path, network, {})


def test_what_fits_is_taken_and_what_does_not_is_named(network: YOLOv5, file: Path) -> None:
    other = YOLOv5("n", classes=5)
    loaded = load_weights(file, other)
    heads = {f"model.24.m.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert {name for name, _ in loaded.skipped} == heads
    assert len(loaded.matched) == 349 - 6
    assert torch.equal(
        other.state_dict()["model.9.cv1.bn.bias"], network.state_dict()["model.9.cv1.bn.bias"]
    )
    assert loaded.summary().startswith("343 tensors loaded, 6 skipped: model.24.m.0.weight")


def test_anchors_chosen_for_the_data_survive_foreign_weights(file: Path) -> None:
    other = YOLOv5("n", 3, OTHER_ANCHORS)
    loaded = load_weights(file, other)
    assert loaded.skipped == (("model.24.anchors", "the network keeps its own anchors"),)
    torch.testing.assert_close(other.anchors, torch.tensor(OTHER_ANCHORS))


def test_missing_and_foreign_tensors_are_named(network: YOLOv5, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["other.weight"] = tensors.pop("model.0.conv.weight")
    save_file(tensors, tmp_path / "w.safetensors", {"variant": "n", "classes": "3"})
    with pytest.raises(WeightsError, match=r"not those of yolov5n with 3 classes") as caught:
        build_from_weights(tmp_path / "w.safetensors")
    assert "model.0.conv.weight (not in the file)" in str(caught.value)
    assert "other.weight (not in the network)" in str(caught.value)


def test_a_file_of_which_nothing_fits_is_refused(network: YOLOv5, tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"0 of 171 learned tensors of .* fit \(model\.0\.conv"):
        load_weights(tmp_path / "w.safetensors", network)


def test_weights_of_another_variant_are_refused_if_none_of_them_is_learned(file: Path) -> None:
    """BatchNorm's counters and the last biases have the same shapes in each."""
    other = YOLOv5("s", 3)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    message = "weights are yolov5n, the recipe's network is yolov5s: 0 of 171 learned tensors of"
    with pytest.raises(WeightsError, match=f"{message} .*; set model.variant=n, or use"):
        load_weights(file, other)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_weights_of_which_few_fit_are_a_concern_with_its_likely_cause(file: Path) -> None:
    """n and n6 begin alike."""
    (concern,) = load_weights(file, YOLOv5("n6", 3)).concerns
    pair = "weights are yolov5n, the recipe's network is yolov5n6: only"
    assert re.match(
        rf"{pair} 75 of 225 learned tensors of .* loaded, the others start at random", concern
    )


def test_a_part_of_the_right_variant_is_a_concern_too(network: YOLOv5, tmp_path: Path) -> None:
    tensors = network.state_dict()
    del tensors["model.9.cv1.conv.weight"]
    save_file(tensors, tmp_path / "w.safetensors")
    (concern,) = load_weights(tmp_path / "w.safetensors", YOLOv5("n", 3)).concerns
    assert concern.startswith("only 170 of 171 learned tensors of")


def test_weights_of_other_classes_are_no_concern(file: Path) -> None:
    assert load_weights(file, YOLOv5("n", 5), list("vwxyz")).concerns == ()
    assert load_weights(file, YOLOv5("n", 3), ("a", "b", "c")).concerns == ()


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (("b", "a", "c"), "are in another order (class 0 is 'a' in the weights, and 'b' in"),
        (("a", "b", "x"), "differ (class 2 is 'c' in the weights, and 'x' in the data)"),
    ],
)
def test_other_class_names_are_a_concern_if_the_head_is_loaded(
    file: Path, names: tuple[str, ...], what: str
) -> None:
    (concern,) = load_weights(file, YOLOv5("n", 3), names).concerns
    assert f"class names of weights and data {what}" in concern


def test_a_missing_file_is_named(network: YOLOv5, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors: no such file"):
        load_weights(tmp_path / "gone.safetensors", network)


@pytest.mark.parametrize("keep", [0, 5, 9, 4000, -10])
def test_a_torn_file_is_one_clear_line(network: YOLOv5, file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        WeightsError, match="not a valid safetensors|no file of weights|is empty"
    ) as caught:
        load_weights(file, network)
    assert "\n" not in str(caught.value)


def test_a_file_without_metadata_does_not_build_a_network(network: YOLOv5, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="does not say which network it holds"):
        build_from_weights(tmp_path / "w.safetensors")
