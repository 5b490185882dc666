"""Names of tensors that only other networks have."""

from pathlib import Path

import pytest
import torch

from yolo.architecture import VARIANTS, tensor_shapes
from yolo.errors import WeightsError
from yolo.model.io.other_models import other_model
from yolo.model.io.ultralytics import read_published

V5_0 = ["model.0.conv.conv.weight", "model.0.conv.bn.weight", "model.2.cv3.conv.weight"]
V3_1 = ["model.0.conv.conv.weight", "model.2.cv4.conv.weight", "model.2.bn.weight"]
V8 = ["model.0.conv.weight", "model.2.m.0.cv1.conv.weight", "model.22.dfl.conv.weight"]


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (V5_0, r"YOLOv5 of release 5 or before \(its first layer is Focus\)"),
        (V3_1, r"YOLOv5 of release 3 or before \(BottleneckCSP\)"),
        (V8, "a network of YOLOv8 or later, or a YOLOv5u"),
        (["model.23.one2one_cv2.0.0.conv.weight"], "a network of YOLOv8 or later"),
        ([*V8, "model.22.proto.cv1.conv.weight"], "a network of YOLOv8 or later"),
        (["model.24.m.0.bias", "model.24.proto.cv1.conv.weight"], "a segmentation model"),
        (["model.9.conv.conv.weight", "model.9.linear.weight"], "a classification model"),
        (["model.0.conv.weight", "model.28.m.0.bias"], "a network of YOLOv3"),
        (["model.0.conv.weight", "model.20.m.0.bias"], "a network of YOLOv3"),
        (["module_list.0.Conv2d.weight", "module_list.0.BatchNorm2d.bias"], "a network of YOLOv3"),
        (["model.105.ia.0.implicit", "model.105.m.0.bias"], "a network of YOLOv7"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_other_networks_are_named(
    tmp_path: Path, names: list[str], what: str, wrapper: str
) -> None:
    state = {wrapper + name: torch.zeros(1) for name in names}
    torch.save({"model": state, "names": ["a"]}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=rf"x\.pt: is {what}.*; only YOLOv5's detectors of rel"):
        read_published(tmp_path / "x.pt")


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_variants_are_none_of_them(variant: str) -> None:
    assert other_model(tensor_shapes(variant, 80)) is None
