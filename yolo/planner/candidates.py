"""The strategies that a recipe could be trained with, as overrides, and how far each changes the gradients."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

from yolo.planner.cost.strategies import STRATEGY_COSTS, GradientFidelity
from yolo.planner.profile import ClusterProfile
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.distributed import Reducer
from yolo.recipe.schema.optimizer import ADAM_FAMILY, ONE_BIT
from yolo.recipe.schema.recipe import Recipe

SAME, ROUNDED, COMPRESSED, LOCAL, OTHER_OPTIMIZER = GradientFidelity


@dataclass(frozen=True, slots=True)
class Candidate:
    """One strategy."""

    label: str
    overrides: tuple[str, ...] = ()
    fidelity: GradientFidelity = SAME


AS_WRITTEN = Candidate("as written")
OVERLAPPED = "communication.reducer=overlapped"
BF16_WIRE = "communication.data_type=bf16"


def candidates(resolved: ResolvedRecipe, profile: ClusterProfile) -> list[Candidate]:
    """All strategies, the least far-reaching first; none for one rank."""
    if resolved.world_size == 1:
        return []
    return [
        Candidate(
            ", ".join(filter(None, (communication.label, precision.label, accumulation.label))),
            (*PLAIN, *precision.overrides, *accumulation.overrides, *communication.overrides),
            max(communication.fidelity, precision.fidelity),
        )
        for precision in _precisions(resolved, profile)
        for accumulation in _accumulations(resolved)
        for communication in _communications(resolved)
    ]


PLAIN = (
    *("zero.stage=0", "zero.offload_optimizer=none", "zero.overlap_comm=auto"),
    *("zero.reduce_bucket_size=auto", "zero.use_multi_rank_bucket_allreduce=true"),
    *("communication.reducer=deepspeed", "communication.data_type=auto"),
    *("communication.bucket_size=auto", "communication.sync_every=1"),
    "communication.outer_one_bit=false",
)
"""Undo the strategy that a recipe has chosen; its optimizer stays."""


def without_strategy(recipe: Recipe) -> tuple[str, ...]:
    """Undo the strategy that a recipe has chosen, a 1-bit optimizer included."""
    return (*PLAIN, *_uncompressed(recipe))


def _uncompressed(recipe: Recipe) -> tuple[str, ...]:
    return ("optimizer.type=AdamW",) if recipe.optimizer.type in ONE_BIT else ()


def _precisions(resolved: ResolvedRecipe, profile: ClusterProfile) -> Iterator[Candidate]:
    """Offer 16 bits if they compute faster."""
    yield Candidate("")
    if resolved.recipe.precision.dtype == "fp32" and profile.accelerator.fp32_factor > 1:
        yield Candidate("bf16 autocast", ("precision.dtype=bf16",), ROUNDED)


def _accumulations(resolved: ResolvedRecipe) -> Iterator[Candidate]:
    """Half the images per micro step need half the activations, but some strategies communicate in each micro step."""
    yield Candidate("")
    train = resolved.recipe.train
    images, steps = train.micro_batch, train.gradient_accumulation_steps
    if images > 1 and images % 2 == 0:
        halved = (
            f"train.micro_batch={images // 2}",
            f"train.gradient_accumulation_steps={steps * 2}",
        )
        yield Candidate(f"{steps * 2} micro steps", halved)


def _communications(resolved: ResolvedRecipe) -> Iterator[Candidate]:
    recipe = resolved.recipe
    optimizer = recipe.optimizer.type
    uncompressed = _uncompressed(recipe)
    bucket_size = recipe.communication.bucket_size

    def one(label: str, *overrides: str, fidelity: GradientFidelity = SAME) -> Candidate:
        return Candidate(label, (*uncompressed, *overrides), fidelity)

    yield one("stage 0")
    yield one("overlapped", OVERLAPPED)
    for share in (2, 4):
        size = max(1, bucket_size // share)
        label = f"overlapped, buckets of {size / 1e6:.2g} M"
        yield one(label, OVERLAPPED, f"communication.bucket_size={size}")
    yield one("ZeRO-1", "zero.stage=1")
    yield one("ZeRO-1, to owners", "zero.stage=1", "zero.use_multi_rank_bucket_allreduce=false")
    yield one("ZeRO-2", "zero.stage=2")
    yield one("ZeRO-3", "zero.stage=3")
    yield one("stage 0, bf16 wire", BF16_WIRE, fidelity=ROUNDED)
    yield one("overlapped, bf16 wire", OVERLAPPED, BF16_WIRE, fidelity=ROUNDED)
    for rank in (2, 4):
        powersgd = ("communication.reducer=powersgd", f"communication.powersgd_rank={rank}")
        yield one(f"PowerSGD rank {rank}", *powersgd, fidelity=COMPRESSED)
    for reducer in get_args(Reducer):
        if reducer not in ("deepspeed", "overlapped", "powersgd"):
            fidelity = STRATEGY_COSTS[reducer].fidelity
            yield one(reducer, f"communication.reducer={reducer}", fidelity=fidelity)
    if recipe.precision.dtype == "fp16":  # with a scaled loss, none of the following
        return
    is_adam = optimizer in ADAM_FAMILY
    compressed = COMPRESSED if is_adam else OTHER_OPTIMIZER
    if optimizer == "OneBitAdam":
        yield Candidate("1-bit Adam")
    else:
        yield Candidate("1-bit Adam", ("optimizer.type=OneBitAdam",), compressed)
    overrides = ("optimizer.type=OneBitAdam", BF16_WIRE)
    yield Candidate("1-bit Adam, bf16 before its freeze", overrides, compressed)
    if not recipe.model.sync_batchnorm:
        local = LOCAL if is_adam else OTHER_OPTIMIZER
        yield Candidate("0/1 Adam", ("optimizer.type=ZeroOneAdam",), local)
        every_8 = "communication.sync_every=8"
        yield one("local steps, every 8", every_8, fidelity=LOCAL)
        one_bit = "communication.outer_one_bit=true"
        yield one("local steps, every 8, 1 bit", every_8, one_bit, fidelity=LOCAL)
    yield Candidate("1-bit LAMB", ("optimizer.type=OneBitLamb",), OTHER_OPTIMIZER)
