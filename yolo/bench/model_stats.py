"""Write down what the planner must know of each network and cannot read off its table: measured on a fake device.

The order in which backward completes gradients, the bytes that autograd keeps for it, and the work of a forward pass.
Nothing is computed: tensors have shapes and types only, so yolov5x at 16 images needs no memory.

Run `python -m yolo.bench.model_stats` after a change to the network; a test fails while the snapshot is out of date.
"""

import json
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from yolo.architecture import VARIANTS
from yolo.model import YOLOv5
from yolo.planner.cost.model_stats import CLASSES, IMAGE_SIZE, SNAPSHOT
from yolo.training.engine.build import parameter_groups

IMAGES = 2
"""BatchNorm's statistics are kept once a batch, whatever its size: two batches tell them from what grows with the images."""


def measure(variant: str) -> dict[str, Any]:
    """The facts of one variant, as they stand in the snapshot."""
    with FakeTensorMode():
        model = YOLOv5(variant, CLASSES)
        names = [name for name, _ in model.named_parameters()]
        group_of = {
            id(parameter): group["name"]
            for group in parameter_groups(model)
            for parameter in group["params"]
        }
        outputs = _output_elements(model)
        tensors = [
            [list(p.shape), group_of[id(p)], outputs.get(id(p), 0)] for p in model.parameters()
        ]
        order = _ready_order(model, names)
        kept = {
            dtype: [_kept_bytes(model, images, dtype) for images in (1, IMAGES)]
            for dtype in ("fp32", "bf16")
        }
        with FlopCounterMode(display=False) as counter:
            model(_images(1))
    return {
        "tensors": tensors,
        "ready_order": order,
        "kept_bytes_per_image": {
            name: (two - one) // (IMAGES - 1) for name, (one, two) in kept.items()
        },
        "forward_flops_per_image": counter.get_total_flops(),
    }


def _images(images: int) -> torch.Tensor:
    return torch.empty(images, 3, IMAGE_SIZE, IMAGE_SIZE)


def _output_elements(model: nn.Module) -> dict[int, int]:
    """What each convolution writes for one image, by the identity of its weight."""
    written: dict[int, int] = {}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        written[id(module.weight)] = output.numel()

    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(note) for module in convolutions]
    model(_images(1))
    for hook in hooks:
        hook.remove()
    return written


def _ready_order(model: nn.Module, names: list[str]) -> list[int]:
    """Indices of the parameters in the order in which their gradients are complete."""
    order: list[int] = []
    hooks = [
        parameter.register_post_accumulate_grad_hook(lambda _, index=index: order.append(index))
        for index, parameter in enumerate(model.parameters())
    ]
    torch.stack([level.sum() for level in model(_images(1))]).sum().backward()
    for hook in hooks:
        hook.remove()
    model.zero_grad()
    assert sorted(order) == list(range(len(names)))
    return order


def _kept_bytes(model: nn.Module, images: int, dtype: str) -> int:
    """Bytes that autograd keeps between forward and backward, the network's own tensors left out.

    On a processor's autocast, whose types are those of a GPU's for all that YOLOv5 consists of.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # held, so that no other takes its address
        return tensor

    is_autocast = dtype != "fp32"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_autocast, cache_enabled=False),
    ):
        outputs = model(_images(images))
    del outputs
    return sum(storage.nbytes() for storage in kept.values())


def main() -> None:
    """Write the snapshot."""
    facts = {variant: measure(variant) for variant in VARIANTS}
    lines = [f'"{variant}": {json.dumps(found)}' for variant, found in facts.items()]
    SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(SNAPSHOT)


if __name__ == "__main__":
    main()
