import math

import pytest
import torch
from torch import Tensor

from yolo.architecture import (
    COCO_ANCHORS,
    COCO_ANCHORS_P6,
    VARIANTS,
    layer_parameter_counts,
    parameter_count,
)
from yolo.model import YOLOv5

KEYS = {
    **{"n": 349, "s": 349, "m": 481, "l": 613, "x": 745},
    **{"n6": 459, "s6": 459, "m6": 627, "l6": 795, "x6": 963},
}


@pytest.fixture(scope="module")
def network() -> YOLOv5:
    torch.manual_seed(0)
    return YOLOv5("n", classes=3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_network_has_the_counted_parameters_in_every_layer(variant: str) -> None:
    with torch.device("meta"):
        network = YOLOv5(variant, classes=80)
    built = tuple(sum(p.numel() for p in layer.parameters()) for layer in network.model)
    assert built == layer_parameter_counts(variant, 80)
    assert sum(built) == parameter_count(variant, 80)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_state_dict_has_as_many_keys_as_the_public_one(variant: str) -> None:
    with torch.device("meta"):
        assert len(YOLOv5(variant).state_dict()) == KEYS[variant]


def test_the_state_dict_has_the_public_names_and_shapes() -> None:
    with torch.device("meta"):
        state = YOLOv5("n").state_dict()
    shapes = {
        "model.0.conv.weight": (16, 3, 6, 6),
        "model.0.bn.running_var": (16,),
        "model.0.bn.num_batches_tracked": (),
        "model.2.cv1.conv.weight": (16, 32, 1, 1),
        "model.2.m.0.cv2.conv.weight": (16, 16, 3, 3),
        "model.6.m.2.cv1.bn.bias": (64,),
        "model.9.cv2.conv.weight": (256, 512, 1, 1),
        "model.23.cv3.bn.weight": (256,),
        "model.24.anchors": (3, 3, 2),
        "model.24.m.2.weight": (255, 256, 1, 1),
        "model.24.m.2.bias": (255,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes
    assert {name.split(".")[0] for name in state} == {"model"}


def test_the_state_dict_of_the_p6_family_has_the_public_names_and_shapes() -> None:
    with torch.device("meta"):
        state = YOLOv5("n6").state_dict()
    shapes = {
        "model.8.cv3.conv.weight": (192, 192, 1, 1),
        "model.11.cv2.conv.weight": (256, 512, 1, 1),
        "model.29.m.0.cv2.conv.weight": (96, 96, 3, 3),
        "model.33.anchors": (4, 3, 2),
        "model.33.m.2.weight": (255, 192, 1, 1),
        "model.33.m.3.bias": (255,),
    }
    assert {name: tuple(state[name].shape) for name in shapes} == shapes


def test_anchors_are_kept_in_grid_units_and_shown_in_pixels(network: YOLOv5) -> None:
    assert network.state_dict()["model.24.anchors"][0, 0].tolist() == [10 / 8, 13 / 8]
    torch.testing.assert_close(network.anchors, torch.tensor(COCO_ANCHORS))
    p6 = YOLOv5("n6", 1)
    assert p6.state_dict()["model.33.anchors"][3, 0].tolist() == [436 / 64, 615 / 64]
    torch.testing.assert_close(p6.anchors, torch.tensor(COCO_ANCHORS_P6))


def test_the_score_biases_start_from_rare_objects() -> None:
    torch.manual_seed(0)
    bias = torch.stack([head.bias.view(3, -1).mean(0) for head in YOLOv5("s6", 20).model[-1].m])
    expected = torch.tensor([-6.6846, -5.2983, -3.9120, -2.5257])
    torch.testing.assert_close(bias[:, 4], expected, atol=0.1, rtol=0)
    assert bias[:, 5:].mean().item() == pytest.approx(-3.4553, abs=0.05)


def test_one_class_scores_1_so_that_objectness_decides(network: YOLOv5) -> None:
    torch.manual_seed(0)
    scores = YOLOv5("n", classes=1).eval()(torch.rand(1, 3, 64, 64))[..., 5]
    assert scores.min() > 0.999


def test_training_gives_raw_logits_of_three_levels(network: YOLOv5) -> None:
    raw = network.train()(torch.rand(2, 3, 64, 96))
    assert [tuple(level.shape) for level in raw] == [
        (2, 3, 8, 12, 8),
        (2, 3, 4, 6, 8),
        (2, 3, 2, 3, 8),
    ]


def test_the_p6_family_has_a_fourth_level() -> None:
    torch.manual_seed(0)
    network = YOLOv5("n6", classes=3)
    raw = network(torch.rand(2, 3, 128, 192))
    assert [tuple(level.shape) for level in raw] == [
        (2, 3, 128 // stride, 192 // stride, 8) for stride in (8, 16, 32, 64)
    ]
    cells = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3
    assert network.eval()(torch.rand(1, 3, 128, 192)).shape == (1, 3 * cells, 8)
    with pytest.raises(ValueError, match=r"96 x 128 pixels .* multiples of 64"):
        network(torch.rand(1, 3, 96, 128))


def test_decoding_a_rectangle_equals_a_slow_loop(network: YOLOv5) -> None:
    torch.manual_seed(1)
    raw = [torch.randn(2, 3, 64 // stride, 96 // stride, 8) * 3 for stride in (8, 16, 32)]
    torch.testing.assert_close(network.decode(raw), _slowly_decoded(raw))


def test_evaluation_decodes_what_training_would_return(network: YOLOv5) -> None:
    images = torch.rand(1, 3, 96, 64)
    network.eval()
    with torch.no_grad():
        decoded = network(images)
        network.train()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()  # the same statistics
        torch.testing.assert_close(network.decode(network(images)), decoded)


def test_decoding_half_precision_gives_fp32(network: YOLOv5) -> None:
    raw = [torch.zeros(1, 3, 4, 4, 8, dtype=torch.bfloat16)] * 3
    assert network.decode(raw).dtype == torch.float32


def test_a_channels_last_input_gives_the_same_output(network: YOLOv5) -> None:
    images = torch.rand(2, 3, 64, 64)
    network.eval()
    with torch.no_grad():
        expected = network(images)
        given = network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_the_variant_and_strides_are_known_without_a_forward_pass() -> None:
    with torch.device("meta"):
        network = YOLOv5("m", classes=7)
    assert (network.variant, network.classes, network.stride) == ("m", 7, (8, 16, 32))


def test_a_size_that_the_coarsest_stride_does_not_divide_is_named(network: YOLOv5) -> None:
    with pytest.raises(ValueError, match=r"100 x 64 pixels .* multiples of 32"):
        network(torch.rand(1, 3, 100, 64))


def test_images_without_three_channels_are_refused(network: YOLOv5) -> None:
    with pytest.raises(ValueError, match=r"\(1, 4, 64, 64\): expected \(B, 3, H, W\)"):
        network(torch.rand(1, 4, 64, 64))


def test_anchors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 1, 2\): expected \(3, 3, 2\)"):
        YOLOv5("n", 80, (((1.0, 2.0),),))
    with pytest.raises(ValueError, match=r"expected \(4, 3, 2\).* yolov5n6's 4 levels"):
        YOLOv5("n6", 80, COCO_ANCHORS)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="0 classes"):
        YOLOv5("n", 0)


def _slowly_decoded(raw_levels: list[Tensor]) -> Tensor:
    images = []
    for image in range(raw_levels[0].shape[0]):
        rows = []
        for raw, stride, anchors in zip(raw_levels, (8, 16, 32), COCO_ANCHORS, strict=True):
            _, _, height, width, _ = raw.shape
            for anchor in range(3):
                for row in range(height):
                    for column in range(width):
                        s = [
                            1 / (1 + math.exp(-v)) for v in raw[image, anchor, row, column].tolist()
                        ]
                        x = (2 * s[0] - 0.5 + column) * stride
                        y = (2 * s[1] - 0.5 + row) * stride
                        w = (2 * s[2]) ** 2 * anchors[anchor][0]
                        h = (2 * s[3]) ** 2 * anchors[anchor][1]
                        rows.append([x, y, w, h, *s[4:]])
        images.append(rows)
    return torch.tensor(images)
