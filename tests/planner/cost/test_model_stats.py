import json

import pytest
import torch

from yolo.architecture import VARIANTS, parameter_count
from yolo.bench.model_stats import measure
from yolo.model import YOLOv5
from yolo.planner.cost.model_stats import SNAPSHOT, yolov5


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_snapshot_is_what_the_network_says_today(variant: str) -> None:
    kept = json.loads(SNAPSHOT.read_text())[variant]
    assert kept == json.loads(json.dumps(measure(variant))), (
        "run `python -m yolo.bench.model_stats`"
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("classes", [1, 3, 80])
def test_tensors_have_the_sizes_of_the_real_ones(variant: str, classes: int) -> None:
    network = yolov5(variant, classes)
    assert network.elements == parameter_count(variant, classes)
    with torch.device("meta"):
        shapes = [tuple(p.shape) for p in YOLOv5(variant, classes).parameters()]
    assert [tensor.shape for tensor in network.tensors] == shapes


@pytest.mark.parametrize(("pixels", "images"), [(64, 1), (128, 3)])
def test_backward_keeps_the_bytes_that_a_fake_device_counted(pixels: int, images: int) -> None:
    model = YOLOv5("n", 80)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(torch.rand(images, 3, pixels, pixels))
    assert len(outputs) == 3
    real = sum(storage.nbytes() for storage in kept.values())
    # Mean and inverse deviation of each normalised channel are kept once, for all images together.
    channels = sum(m.num_features for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d))
    real -= 2 * 4 * channels
    assert yolov5("n", 80, pixels).kept_bytes["fp32"] * images == pytest.approx(real, rel=1e-6)


def test_gradients_are_complete_in_the_order_of_a_real_backward() -> None:
    model = YOLOv5("n", 80)
    order: list[int] = []
    for index, parameter in enumerate(model.parameters()):
        parameter.register_post_accumulate_grad_hook(lambda _, index=index: order.append(index))
    torch.stack([level.sum() for level in model(torch.rand(1, 3, 64, 64))]).sum().backward()
    assert tuple(order) == yolov5("n").ready_order
