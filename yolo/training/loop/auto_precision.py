"""`precision.dtype: auto`: the precision in which this machine trains fastest, by a short measurement."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from yolo.data.loader.samples import to_network
from yolo.model import YOLOv5
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object

IMAGES = {"cpu": 4, "cuda": 32}
"""Images measured at once, at most: enough to fill the device, and about a second for the small networks."""
REPEATS = 3
CLASSES = 80
"""COCO's number; the data set is not known yet, and the head is a twentieth of the work."""
LEAST_GAIN = 1.05
"""The speed-up at which 16 bits are worth their rounding."""
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision to train in, and why."""

    dtype: str
    reason: str
    """One line for the log."""


def measure_precision(
    recipe: Recipe, context: DistributedContext, is_allowed: Callable[[str], bool]
) -> PrecisionChoice:
    """bf16 if the slowest rank computes forward and backward faster in it, else fp32; collective.

    All ranks measure at once, as they will train. `is_allowed`: whether the recipe can work in a precision.
    """
    if not is_allowed("bf16"):
        return PrecisionChoice(
            "fp32", "precision auto: fp32, required by the recipe's other settings"
        )
    if not all(all_gather_object(context, _has_bf16(context.device))):
        return PrecisionChoice("fp32", f"precision auto: fp32, not every {_kind(context)} has bf16")
    mine = {dtype: _seconds(recipe, context.device, dtype) for dtype in ("fp32", "bf16")}
    measured = all_gather_object(context, mine)
    fp32, bf16 = (max(seconds[dtype] for seconds in measured) for dtype in ("fp32", "bf16"))
    dtype = "bf16" if fp32 > LEAST_GAIN * bf16 else "fp32"
    images, size = _images(recipe, context.device), recipe.model.image_size
    return PrecisionChoice(
        dtype,
        f"precision auto: {dtype}; {images} images of {size} pixels take {1e3 * bf16:.0f} ms in bf16 and "
        f"{1e3 * fp32:.0f} ms in fp32, forward and backward (set precision.dtype={dtype} to skip this measurement)",
    )


def _images(recipe: Recipe, device: torch.device) -> int:
    return min(IMAGES[device.type], recipe.train.micro_batch)


def _has_bf16(device: torch.device) -> bool:
    """In hardware: CPUs without bf16 instructions emulate it, up to 50 times slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"))


def _kind(context: DistributedContext) -> str:
    return "GPU" if context.device.type == "cuda" else "CPU"


def _seconds(recipe: Recipe, device: torch.device, dtype: str) -> float:
    """Seconds of one forward and backward: the fastest of a few, after one warm-up."""
    model = YOLOv5(recipe.model.variant, CLASSES).to(device)
    size, images = recipe.model.image_size, _images(recipe, device)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)

    def once(count: int) -> float:
        _finish(device)
        started = time.perf_counter()
        inputs = to_network(pixels[:count], device, TORCH_DTYPES[dtype])
        with torch.autocast(device.type, TORCH_DTYPES[dtype], enabled=dtype != "fp32"):
            raw_levels = model(inputs)
        sum(level.float().square().mean() for level in raw_levels).backward()
        model.zero_grad()
        _finish(device)
        return time.perf_counter() - started

    once(images)
    return min(once(images) for _ in range(REPEATS))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
