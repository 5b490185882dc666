"""Measure what the planner needs to know of each network and cannot read off its table, on a fake device.

These are the order in which backward completes gradients, the bytes that autograd keeps for it, and the work of a forward
pass. Nothing is computed: tensors have shapes and types only, so yolov5x at 16 images needs no memory.

Run `python -m yolo.bench.model_stats` after a change to the network; a test fails while the snapshot is out of date.
"""

import json
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode

from yolo.architecture import VARIANTS
from yolo.model import YOLOv5
from yolo.planner.cost.model_stats import CLASSES, IMAGE_SIZE, SNAPSHOT
from yolo.training.engine.build import parameter_groups


def measure(variant: str) -> dict[str, Any]:
    """The statistics of one variant, with the snapshot's keys."""
    with FakeTensorMode():
        model = YOLOv5(variant, CLASSES)
        groups = parameter_groups(model)
        group_of = {id(p): group["name"] for group in groups for p in group["params"]}
        outputs = _output_elements(model)
        tensors = [
            [list(p.shape), group_of[id(p)], outputs.get(id(p), 0)] for p in model.parameters()
        ]
        order = _ready_order(model)
        # BatchNorm keeps its statistics once per batch of any size: two batches separate them from bytes per image.
        kept = {
            dtype: _kept_bytes(model, 2, dtype) - _kept_bytes(model, 1, dtype)
            for dtype in ("fp32", "bf16")
        }
        with FlopCounterMode(display=False) as counter:
            model(_images(1))
    return {
        "tensors": tensors,
        "ready_order": order,
        "kept_bytes_per_image": kept,
        "forward_flops_per_image": counter.get_total_flops(),
    }


def _images(images: int) -> torch.Tensor:
    return torch.empty(images, 3, IMAGE_SIZE, IMAGE_SIZE)


def _output_elements(model: nn.Module) -> dict[int, int]:
    """Elements of each convolution's output for one image, by the identity of its weight."""
    elements: dict[int, int] = {}

    def note(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            elements[id(module.weight)] = output.numel()

    with register_module_forward_hook(note):
        model(_images(1))
    return elements


def _ready_order(model: nn.Module) -> list[int]:
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
    assert sorted(order) == list(range(len(hooks)))
    return order


def _kept_bytes(model: nn.Module, images: int, dtype: str) -> int:
    """Bytes that autograd keeps between forward and backward, without the network's own tensors.

    Uses the CPU's autocast: its types are those of the GPU's for every layer of YOLOv5.
    """
    own = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage  # keeps it alive, so that no other takes its address
        return tensor

    is_autocast = dtype != "fp32"
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=is_autocast, cache_enabled=False),
    ):
        model(_images(images))
    return sum(storage.nbytes() for storage in kept.values())


def main() -> None:
    """Write the snapshot."""
    lines = [f'"{variant}": {json.dumps(measure(variant))}' for variant in VARIANTS]
    SNAPSHOT.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(SNAPSHOT)


if __name__ == "__main__":
    main()
