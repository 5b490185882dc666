import subprocess
import sys

import pytest
import torch

from yolo.architecture import (
    VARIANTS,
    is_learned,
    layer_parameter_counts,
    layers,
    parameter_count,
    strides,
    tensor_shapes,
)
from yolo.model import YOLOv5

PUBLIC_COUNTS = {  # for 80, 1, 3 and 20 classes
    "n": (1_872_157, 1_765_270, 1_767_976, 1_790_977),
    "s": (7_235_389, 7_022_326, 7_027_720, 7_073_569),
    "m": (21_190_557, 20_871_318, 20_879_400, 20_948_097),
    "l": (46_563_709, 46_138_294, 46_149_064, 46_240_609),
    "x": (86_749_405, 86_217_814, 86_231_272, 86_345_665),
    "n6": (3_246_940, 3_094_312, 3_098_176, 3_131_020),
    "s6": (12_626_620, 12_322_312, 12_330_016, 12_395_500),
    "m6": (35_731_932, 35_275_944, 35_287_488, 35_385_612),
    "l6": (76_770_172, 76_162_504, 76_177_888, 76_308_652),
    "x6": (140_794_780, 140_035_432, 140_054_656, 140_218_060),
}
N_LAYERS = """1760 4672 4800 18560 29184 73984 156928 295424 296448 164608 33024 0 0 90880 8320 0 0 22912
36992 0 74496 147712 0 296448 115005"""
X_LAYERS = """8800 115520 309120 461440 2259200 1844480 13125120 7375360 19676160 4099840 820480 0 0
5332480 205440 0 0 1335040 922240 0 4922880 3687680 0 19676160 571965"""
M_LAYERS = """5280 41664 65280 166272 444672 664320 2512896 2655744 4134912 1476864 295680 0 0 1182720
74112 0 0 296448 332160 0 1035264 1327872 0 4134912 343485"""

N6_LAYERS = """1760 4672 4800 18560 29184 73984 156928 221568 167040 442880 296448 164608 49536 0 0
203904 24832 0 0 90880 8320 0 0 22912 36992 0 74496 147712 0 179328 332160 0 329216 164220"""
X6_LAYERS = """8800 115520 309120 461440 2259200 1844480 13125120 5531520 11070720 11061760 19676160
4099840 1230720 0 0 11992320 615680 0 0 5332480 205440 0 0 1335040 922240 0 4922880 3687680 0 11377920
8296320 0 20495360 817020"""


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameter_counts_equal_the_public_ones(variant: str) -> None:
    counted = tuple(parameter_count(variant, classes) for classes in (80, 1, 3, 20))
    assert counted == PUBLIC_COUNTS[variant]


@pytest.mark.parametrize(
    ("variant", "counts"),
    [("n", N_LAYERS), ("m", M_LAYERS), ("x", X_LAYERS), ("n6", N6_LAYERS), ("x6", X6_LAYERS)],
)
def test_each_layer_counts_as_many_parameters_as_the_public_one(variant: str, counts: str) -> None:
    assert layer_parameter_counts(variant, 80) == tuple(int(count) for count in counts.split())


def test_detect_reads_three_levels_or_four_of_the_public_strides() -> None:
    assert strides("n") == (8, 16, 32)
    assert layers("s")[-1].in_channels == (128, 256, 512)
    assert strides("n6") == (8, 16, 32, 64)
    assert layers("s6")[-1].in_channels == (128, 256, 384, 512)


def test_an_unknown_variant_is_named_beside_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'tiny'.*n, s, m, l, x"):
        parameter_count("tiny", 80)


@pytest.mark.parametrize("variant", ["n", "m", "x6"])
def test_the_tensors_listed_are_those_of_the_network(variant: str) -> None:
    with torch.device("meta"):
        state = YOLOv5(variant, 3).state_dict()
    assert tensor_shapes(variant, 3) == {name: tuple(t.shape) for name, t in state.items()}
    learned = {name for name, _ in YOLOv5("n", 3).named_parameters()}
    assert {name for name in tensor_shapes("n", 3) if is_learned(name)} == learned


def test_counting_parameters_does_not_import_torch() -> None:
    program = "import sys, yolo.architecture; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
