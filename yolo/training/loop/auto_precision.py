"""`precision.dtype: auto`: bf16 if the hardware has it, unless a short measurement shows that it clearly loses."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from yolo.data.loader.samples import to_network
from yolo.model import YOLOv5
from yolo.recipe.schema.recipe import Recipe
from yolo.training.engine.distributed import DistributedContext, all_gather_object

IMAGES = {"cpu": 4, "cuda": 32}
"""Images measured at once, at most: enough to fill the device, and about a second for the small networks."""
CLOCKS = {"cpu": time.process_time, "cuda": time.perf_counter}
"""A process's CPU time, of all its threads, does not run while other work has the core; a GPU is waited for."""
PAIRS = 7
"""Per rank, at least: a median outlives three that other work disturbed."""
SECONDS = 1.0
"""For as long, at least, a rank measures."""
MOST_SECONDS = 10.0
"""Fewer pairs are enough once they took this long: large networks on processors."""
CLASSES = 80
"""COCO's number; the data set is not known yet, and the head is a twentieth of the work."""
CLEARLY_LOSES = 0.8
"""fp32 is taken if bf16 is at most this many times as fast.

On a processor with AVX-512 BF16 it was measured 1.29 to 1.45 times as fast, beside up to 20 busy processes, and fp32
against itself 0.94 to 1.04 times: so equals stay above the bound, and emulated bf16, 0.02 times as fast, below.
"""
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
    """bf16 if every rank's hardware has it and it does not clearly lose against fp32, else fp32; collective.

    All ranks measure at once, as they will train. `is_allowed`: whether the recipe can work in a precision.
    """
    if not is_allowed("bf16"):
        return PrecisionChoice(
            "fp32", "precision auto: fp32, required by the recipe's other settings"
        )
    if not all(all_gather_object(context, _has_bf16(context.device))):
        return PrecisionChoice("fp32", f"precision auto: fp32, not every {_kind(context)} has bf16")
    mine = measure_in_turns(_forward_and_backward(recipe, context.device))
    of_ranks = all_gather_object(context, mine)
    dtype, speedup = choose_dtype(of_ranks)
    pairs = [pair for of_rank in of_ranks for pair in of_rank]
    fp32, bf16 = (1e3 * median(seconds) for seconds in zip(*pairs, strict=True))
    images, size = _images(recipe, context.device), recipe.model.image_size
    return PrecisionChoice(
        dtype,
        f"precision auto: {dtype}; bf16 is {speedup:.2f} times as fast as fp32, and fp32 is taken up to {CLEARLY_LOSES}: "
        f"{images} images of {size} pixels take {bf16:.0f} ms of {_kind(context)} time in bf16 and {fp32:.0f} ms in fp32, "
        f"forward and backward, medians of {len(pairs)} pairs (set precision.dtype={dtype} to skip this measurement)",
    )


def measure_in_turns(seconds_in: Callable[[str], float]) -> list[tuple[float, float]]:
    """Pairs of seconds in fp32 and in bf16, one directly after the other, so that other work disturbs both alike.

    `seconds_in`: computes once in a precision, and returns the seconds that it took.
    """
    for dtype in ("fp32", "bf16"):  # warm-up
        seconds_in(dtype)
    pairs: list[tuple[float, float]] = []
    while (taken := sum(map(sum, pairs))) < SECONDS or (
        len(pairs) < PAIRS and taken < MOST_SECONDS
    ):
        pairs.append((seconds_in("fp32"), seconds_in("bf16")))
    return pairs


def choose_dtype(of_ranks: Sequence[Sequence[tuple[float, float]]]) -> tuple[str, float]:
    """The precision to train in, and how many times as fast as fp32 bf16 is on the rank where it gains least.

    Of each rank's pairs the median counts.
    """
    speedup = min(median(fp32 / bf16 for fp32, bf16 in pairs) for pairs in of_ranks)
    return "fp32" if speedup <= CLEARLY_LOSES else "bf16", speedup


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


def _forward_and_backward(recipe: Recipe, device: torch.device) -> Callable[[str], float]:
    """A function that computes forward and backward once in a precision, and returns the seconds."""
    model = YOLOv5(recipe.model.variant, CLASSES).to(device)
    clock = CLOCKS[device.type]
    size, images = recipe.model.image_size, _images(recipe, device)
    pixels = torch.randint(0, 256, (images, 3, size, size), dtype=torch.uint8)

    def seconds_in(dtype: str) -> float:
        _finish(device)
        started = clock()
        inputs = to_network(pixels, device, TORCH_DTYPES[dtype])
        with torch.autocast(device.type, TORCH_DTYPES[dtype], enabled=dtype != "fp32"):
            raw_levels = model(inputs)
        sum(level.float().square().mean() for level in raw_levels).backward()
        model.zero_grad()
        _finish(device)
        return clock() - started

    return seconds_in


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
