"""`precision.dtype: auto`: what this machine computes the network in fastest, by a short measurement."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from yolo.data.loader.samples import to_network
from yolo.model import YOLOv5
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object

IMAGES = {"cpu": 4, "cuda": 32}
"""At most, computed at once: enough to fill the device, and a matter of a second for the small networks."""
REPEATS = 3
CLASSES = 80
"""As many as COCO has; the data is not known yet, and the head is a twentieth of the work."""
LEAST_GAIN = 1.05
"""By which 16 bits must be faster to be worth their rounding."""
TORCH_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """The precision to train in, and why."""

    dtype: str
    reason: str
    """One line for the log."""


def measure_precision(
    recipe: Recipe, ranks: DistributedContext, is_allowed: Callable[[str], bool]
) -> PrecisionChoice:
    """bf16 where the slowest rank computes forward and backward faster in it, else fp32; collective.

    All ranks measure at once, as they will compute. `is_allowed` says whether the recipe can work in a precision.
    """
    if not is_allowed("bf16"):
        return PrecisionChoice("fp32", "precision auto: fp32, the recipe's other settings want it")
    if not all(all_gather_object(ranks, _has_bf16(ranks.device))):
        return PrecisionChoice("fp32", f"precision auto: fp32, not every {_kind(ranks)} has bf16")
    mine = {dtype: _seconds(recipe, ranks.device, dtype) for dtype in ("fp32", "bf16")}
    measured = all_gather_object(ranks, mine)
    fp32, bf16 = (max(seconds[dtype] for seconds in measured) for dtype in ("fp32", "bf16"))
    dtype = "bf16" if fp32 > LEAST_GAIN * bf16 else "fp32"
    images, size = _images(recipe, ranks.device), recipe.model.image_size
    return PrecisionChoice(
        dtype,
        f"precision auto: {dtype}; {images} images of {size} pixels take {1e3 * bf16:.0f} ms in bf16 and "
        f"{1e3 * fp32:.0f} ms in fp32, forward and backward (precision.dtype={dtype} spares this measurement)",
    )


def _images(recipe: Recipe, device: torch.device) -> int:
    return min(IMAGES[device.type], recipe.train.micro_batch)


def _has_bf16(device: torch.device) -> bool:
    """In its own instructions: processors without them emulate bf16, up to fifty times as slowly as fp32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    has = torch.cpu.get_capabilities()
    return any(has.get(name) for name in ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"))


def _kind(ranks: DistributedContext) -> str:
    return "GPU" if ranks.device.type == "cuda" else "processor"


def _seconds(recipe: Recipe, device: torch.device, dtype: str) -> float:
    """Of one forward and backward, the fastest of a few after one that warms up."""
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
