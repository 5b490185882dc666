"""`precision.dtype: auto`: what this machine computes the network in fastest, by a short measurement."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from yolo.data.samples import to_network
from yolo.model import YOLOv5
from yolo.recipe.schema import Recipe
from yolo.training.ranks import Ranks, from_all

IMAGES = {"cpu": 4, "cuda": 32}
"""At most, computed at once: enough to fill the device, and a matter of a second for the small networks."""
REPEATS = 3
TOO_SLOW = 4.0
"""Times fp32's, for a single image: a whole batch will not make up for it."""
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
    recipe: Recipe, ranks: Ranks, is_allowed: Callable[[str], bool]
) -> PrecisionChoice:
    """bf16 where the slowest rank computes forward and backward faster in it, else fp32; collective.

    All ranks measure at once, as they will compute. `is_allowed` says whether the recipe can work in a precision.
    """
    if not is_allowed("bf16"):
        return PrecisionChoice("fp32", "precision auto: fp32, the recipe's other settings want it")
    mine = {"fp32": _seconds(recipe, ranks.device, "fp32")}
    if ranks.device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False):
        mine["bf16"] = _seconds(recipe, ranks.device, "bf16", limit=TOO_SLOW * mine["fp32"])
    measured = from_all(ranks, mine)
    if not all("bf16" in seconds for seconds in measured):
        return PrecisionChoice("fp32", "precision auto: fp32, these GPUs have no bf16")
    fp32, bf16 = (max(seconds[dtype] for seconds in measured) for dtype in ("fp32", "bf16"))
    dtype = "bf16" if fp32 > LEAST_GAIN * bf16 else "fp32"
    images, size = _images(recipe, ranks.device), recipe.model.image_size
    return PrecisionChoice(
        dtype,
        f"precision auto: {dtype}; {images} images of {size} pixels take {1e3 * bf16:.0f} ms in bf16 and "
        f"{1e3 * fp32:.0f} ms in fp32, forward and backward (precision.dtype={dtype} spares this measurement)",
    )


def _images(recipe: Recipe, device: torch.device) -> int:
    assert recipe.train.micro_batch != "auto"
    return min(IMAGES[device.type], recipe.train.micro_batch)


def _seconds(
    recipe: Recipe, device: torch.device, dtype: str, limit: float = float("inf")
) -> float:
    """Of one forward and backward, the fastest of a few after one that warms up.

    Where a processor takes so long for a single image that all would take more than `limit`, that is the answer: those
    without bf16 emulate it, up to fifty times as slowly. A GPU takes no longer for several than for one.
    """
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

    if device.type == "cpu":
        once(1)
        if (at_a_glance := images * once(1)) > limit:
            return at_a_glance
    once(images)
    return min(once(images) for _ in range(REPEATS))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
