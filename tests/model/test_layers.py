import torch
from torch import nn

from yolo.model.layers import C3, SPPF, Concat, Conv
from yolo.model.network import YOLOv5


def test_the_first_convolution_halves_an_image_exactly() -> None:
    assert Conv(3, 16, kernel=6, stride=2)(torch.zeros(1, 3, 64, 96)).shape == (1, 16, 32, 48)


def test_batchnorm_has_the_public_epsilon_and_momentum_everywhere() -> None:
    with torch.device("meta"):
        modules = list(YOLOv5("n").modules())
    settings = {(m.eps, m.momentum) for m in modules if isinstance(m, nn.BatchNorm2d)}
    assert settings == {(1e-3, 0.03)}


def test_no_activation_overwrites_its_input() -> None:
    with torch.device("meta"):
        modules = list(YOLOv5("n").modules())
    assert not any(getattr(module, "inplace", False) for module in modules)


def test_only_a_shortcut_adds_the_input_of_a_bottleneck() -> None:
    torch.manual_seed(0)
    features = torch.rand(1, 8, 4, 4)
    with_shortcut, without = (C3(8, 8, 1, has_shortcut).eval() for has_shortcut in (True, False))
    without.load_state_dict(with_shortcut.state_dict())
    inner = with_shortcut.cv1(features)
    added, plain = with_shortcut.m(inner), without.m(inner)
    torch.testing.assert_close(added, plain + inner)


def test_sppf_sees_5_9_and_13_cells() -> None:
    torch.manual_seed(0)
    block = SPPF(8, 8, 5).eval()
    features = torch.rand(1, 8, 16, 16)
    seen = block.cv1(features)
    pooled = [nn.functional.max_pool2d(seen, k, 1, k // 2) for k in (5, 9, 13)]
    torch.testing.assert_close(block(features), block.cv2(torch.cat([seen, *pooled], 1)))


def test_concat_keeps_the_order_of_its_inputs() -> None:
    joined = Concat()(torch.zeros(1, 1, 2, 2), torch.ones(1, 2, 2, 2))
    assert joined[0, :, 0, 0].tolist() == [0, 1, 1]
