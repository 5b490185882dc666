"""The strategies that a recipe could be trained under, as overrides, and what each changes about what is learnt."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from yolo.planner.profile import ClusterProfile
from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.schema.optimizer import ADAM_FAMILY, ONE_BIT


class GradientFidelity(IntEnum):
    """How far a strategy is from averaging whole gradients in each step."""

    SAME = 0
    """The same gradients, but for the order of sums."""
    ROUNDED = 1
    """Gradients or arithmetic in 16 bits."""
    COMPRESSED = 2
    """What compression leaves out is sent later."""
    LOCAL = 3
    """Ranks take steps by themselves."""
    OTHER_OPTIMIZER = 4
    """Another optimizer, whose learning rate is to be found anew."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One strategy."""

    label: str
    overrides: tuple[str, ...]
    learns: GradientFidelity


AS_WRITTEN = Candidate("as written", (), GradientFidelity.SAME)


def candidates(resolved: ResolvedRecipe, profile: ClusterProfile) -> list[Candidate]:
    """From the plainest to the boldest; none where there is one rank."""
    found: list[Candidate] = []
    if resolved.world_size == 1:
        return found
    for precision in _precisions(resolved, profile):
        for accumulation in _accumulations(resolved):
            frame = (*precision.overrides, *accumulation.overrides)
            frame_learns = max(precision.learns, accumulation.learns)
            for each in _exchanges(resolved):
                label = ", ".join(filter(None, (each.label, precision.label, accumulation.label)))
                learns = max(each.learns, frame_learns)
                found.append(Candidate(label, (*PLAIN, *frame, *each.overrides), learns))
    return found


PLAIN = (
    *("zero.stage=0", "zero.offload_optimizer=none", "zero.overlap_comm=auto"),
    *("zero.reduce_bucket_size=auto", "zero.use_multi_rank_bucket_allreduce=true"),
    *("communication.reducer=deepspeed", "communication.data_type=auto"),
    *("communication.bucket_size=auto", "communication.sync_every=1"),
)
"""Whatever a recipe has chosen among strategies, undone."""


def _precisions(resolved: ResolvedRecipe, profile: ClusterProfile) -> Sequence[Candidate]:
    """16 bits are offered where they compute faster."""
    identity_collate = Candidate("", (), GradientFidelity.SAME)
    if resolved.recipe.precision.dtype != "fp32" or profile.accelerator.fp32_factor <= 1:
        return (identity_collate,)
    return (
        identity_collate,
        Candidate("bf16 autocast", ("precision.dtype=bf16",), GradientFidelity.ROUNDED),
    )


def _accumulations(resolved: ResolvedRecipe) -> Iterator[Candidate]:
    """Half the images at once take half the activations, and cost an exchange more wherever each micro step has one."""
    yield Candidate("", (), GradientFidelity.SAME)
    images, steps = (
        resolved.recipe.train.micro_batch,
        resolved.recipe.train.gradient_accumulation_steps,
    )
    if images > 1 and images % 2 == 0:
        halved = (
            f"train.micro_batch={images // 2}",
            f"train.gradient_accumulation_steps={steps * 2}",
        )
        yield Candidate(f"{steps * 2} micro steps", halved, GradientFidelity.SAME)


def _exchanges(resolved: ResolvedRecipe) -> Iterator[Candidate]:
    recipe = resolved.recipe
    is_scaled = recipe.precision.dtype == "fp16"
    optimizer = recipe.optimizer.type
    plain = () if optimizer not in ONE_BIT else ("optimizer.type=AdamW",)

    def one(
        label: str, *overrides: str, learns: GradientFidelity = GradientFidelity.SAME
    ) -> Candidate:
        return Candidate(label, (*plain, *overrides), learns)

    bf16 = "communication.data_type=bf16"
    yield one("stage 0")
    yield one("overlapped", "communication.reducer=overlapped")
    for share in (2, 4):
        size = _part_of_bucket(resolved, share)
        yield one(
            f"overlapped, buckets of {size / 1e6:.2g} M",
            *("communication.reducer=overlapped", f"communication.bucket_size={size}"),
        )
    yield one("ZeRO-1", "zero.stage=1")
    yield one("ZeRO-1, to owners", "zero.stage=1", "zero.use_multi_rank_bucket_allreduce=false")
    yield one("ZeRO-2", "zero.stage=2")
    yield one("ZeRO-3", "zero.stage=3")
    yield one("stage 0, bf16 wire", bf16, learns=GradientFidelity.ROUNDED)
    yield one(
        "overlapped, bf16 wire",
        "communication.reducer=overlapped",
        bf16,
        learns=GradientFidelity.ROUNDED,
    )
    for rank in (2, 4):
        yield one(
            f"PowerSGD rank {rank}",
            *("communication.reducer=powersgd", f"communication.powersgd_rank={rank}"),
            learns=GradientFidelity.COMPRESSED,
        )
    if is_scaled:
        return
    is_adam = optimizer in ADAM_FAMILY
    compressed = GradientFidelity.COMPRESSED if is_adam else GradientFidelity.OTHER_OPTIMIZER
    local = GradientFidelity.LOCAL if is_adam else GradientFidelity.OTHER_OPTIMIZER
    if optimizer == "OneBitAdam":
        yield Candidate("1-bit Adam", (), GradientFidelity.SAME)
    else:
        yield Candidate("1-bit Adam", ("optimizer.type=OneBitAdam",), compressed)
    yield Candidate(
        "1-bit Adam, bf16 before its freeze", ("optimizer.type=OneBitAdam", bf16), compressed
    )
    if not recipe.model.sync_batchnorm:
        yield Candidate("0/1 Adam", ("optimizer.type=ZeroOneAdam",), local)
        yield one(
            "local steps, every 8", "communication.sync_every=8", learns=GradientFidelity.LOCAL
        )
        yield one(
            "local steps, every 8, 1 bit",
            *("communication.sync_every=8", "communication.outer_one_bit=true"),
            learns=GradientFidelity.LOCAL,
        )
    yield Candidate("1-bit LAMB", ("optimizer.type=OneBitLamb",), GradientFidelity.OTHER_OPTIMIZER)


def _part_of_bucket(resolved: ResolvedRecipe, share: int) -> int:
    """A part of the automatic bucket, for networks that want more of them."""
    size = resolved.recipe.communication.bucket_size
    return max(1, size // share)
