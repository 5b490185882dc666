import json
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


def test_another_number_of_classes_is_refused_unless_allowed(file: Path) -> None:
    other = YOLOv5("n", classes=5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(
        WeightsError, match=r"does not fit .*model\.24\.m\.0\.weight \(\(24, .* 2 more"
    ):
        load_weights(file, other, allow_mismatch=False)
    assert all(torch.equal(before[name], tensor) for name, tensor in other.state_dict().items())


def test_what_fits_is_taken_and_what_does_not_is_named(network: YOLOv5, file: Path) -> None:
    other = YOLOv5("n", classes=5)
    loaded = load_weights(file, other, allow_mismatch=True)
    heads = {f"model.24.m.{level}.{kind}" for level in range(3) for kind in ("weight", "bias")}
    assert {name for name, _ in loaded.skipped} == heads
    assert len(loaded.matched) == 349 - 6
    assert torch.equal(
        other.state_dict()["model.9.cv1.bn.bias"], network.state_dict()["model.9.cv1.bn.bias"]
    )
    assert loaded.summary().startswith("343 tensors loaded, 6 skipped: model.24.m.0.weight")


def test_anchors_chosen_for_the_data_survive_foreign_weights(file: Path) -> None:
    other = YOLOv5("n", 3, OTHER_ANCHORS)
    loaded = load_weights(file, other, allow_mismatch=True)
    assert loaded.skipped == (("model.24.anchors", "the network keeps its own anchors"),)
    torch.testing.assert_close(other.anchors, torch.tensor(OTHER_ANCHORS))


def test_missing_and_foreign_tensors_are_named(network: YOLOv5, tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    tensors["other.weight"] = tensors.pop("model.0.conv.weight")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        load_weights(tmp_path / "w.safetensors", network, allow_mismatch=False)
    assert "model.0.conv.weight (not in the file)" in str(caught.value)
    assert "other.weight (not in the network)" in str(caught.value)


def test_a_file_of_which_nothing_fits_is_refused_even_where_mismatch_is_allowed(
    network: YOLOv5, tmp_path: Path
) -> None:
    save_file({"layer.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="no tensor fits"):
        load_weights(tmp_path / "w.safetensors", network, allow_mismatch=True)


def test_a_missing_file_is_named(network: YOLOv5, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.safetensors: no such file"):
        load_weights(tmp_path / "gone.safetensors", network, allow_mismatch=True)


@pytest.mark.parametrize("keep", [0, 5, 4000, -10])
def test_a_torn_file_is_one_clear_line(network: YOLOv5, file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="not a valid safetensors file") as caught:
        load_weights(file, network, allow_mismatch=False)
    assert "\n" not in str(caught.value)


def test_a_file_without_metadata_does_not_build_a_network(network: YOLOv5, tmp_path: Path) -> None:
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="does not say which network it holds"):
        build_from_weights(tmp_path / "w.safetensors")
