"""The strategies that the benchmarks compare, each as overrides of a recipe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from yolo.errors import BenchError
from yolo.planner.cost.strategies import STRATEGY_COSTS
from yolo.recipe.schema.distributed import Reducer

Workload = tuple[int, int]
"""Images per step per rank, and their size in pixels."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to synchronise the ranks."""

    name: str
    label: str
    """For tables and figures."""
    overrides: tuple[str, ...] = ()
    settle_steps: int = 3
    """Steps before timing: memory is touched first, and buckets and error feedback become steady."""
    period: int = 1
    """Steps after which its traffic repeats."""
    exchanges: bool = True
    """False to measure computing only."""
    ddp_bucket_mb: float | None = None
    """MiB per bucket, to use torch's DistributedDataParallel instead of DeepSpeed."""


COMPUTE = Strategy("compute", "computing only", exchanges=False)
LOCAL = 16
"""Steps between exchanges, for strategies with local steps."""
LOCAL_STEPS = f"communication.sync_every={LOCAL}"
OVERLAPPED = "communication.reducer=overlapped"
BF16_WIRE = "communication.data_type=bf16"
REDUCE_TO_OWNER = "zero.use_multi_rank_bucket_allreduce=false"


def _one_bit(kind: str, *settings: str) -> tuple[str, ...]:
    return (f"optimizer.type={kind}", *(f"optimizer.{setting}" for setting in settings))


_LISTED = (
    Strategy("zero0", "DeepSpeed stage 0"),
    Strategy("zero0_bf16", "stage 0, bf16 wire", (BF16_WIRE,)),
    Strategy("zero1", "ZeRO-1", ("zero.stage=1",)),
    Strategy("zero1_reduce", "ZeRO-1, reduce to owner", ("zero.stage=1", REDUCE_TO_OWNER)),
    Strategy("zero2", "ZeRO-2", ("zero.stage=2",)),
    Strategy("zero2_reduce", "ZeRO-2, reduce to owner", ("zero.stage=2", REDUCE_TO_OWNER)),
    Strategy("zero3", "ZeRO-3", ("zero.stage=3", "zero.stage3_param_persistence_threshold=0")),
    Strategy("zero3_persistent", "ZeRO-3, small tensors kept", ("zero.stage=3",)),
    Strategy("ddp", "torch DDP", ddp_bucket_mb=25.0),  # its default
    Strategy("ddp_small_buckets", "torch DDP, overlapped's buckets", ddp_bucket_mb=0.9),
    Strategy("overlapped", "overlapped", (OVERLAPPED,)),
    Strategy("overlapped_bf16", "overlapped, bf16 wire", (OVERLAPPED, BF16_WIRE)),
    Strategy(
        "powersgd",
        "PowerSGD rank 2",
        ("communication.reducer=powersgd", "communication.powersgd_start_step=2"),
        settle_steps=6,
    ),
    Strategy(
        "onebit_adam_warmup",
        "1-bit Adam, before freeze",
        _one_bit("OneBitAdam", "freeze_step=1000000"),
    ),
    Strategy("onebit_adam", "1-bit Adam, after freeze", _one_bit("OneBitAdam", "freeze_step=1")),
    Strategy(
        "zero_one_adam",
        "0/1 Adam, every step",
        _one_bit("ZeroOneAdam", "var_freeze_step=1", "local_step_clipper=1"),
    ),
    Strategy(
        "zero_one_adam_local",
        f"0/1 Adam, every {LOCAL} steps",
        _one_bit(
            "ZeroOneAdam",
            *("var_freeze_step=1", "local_step_scaler=1", f"local_step_clipper={LOCAL}"),
        ),
        settle_steps=12,  # its intervals are 1, 2, 8, then LOCAL
        period=LOCAL,
    ),
    Strategy("onebit_lamb", "1-bit LAMB, after freeze", _one_bit("OneBitLamb", "freeze_step=1")),
    Strategy("local_steps", f"local steps, every {LOCAL}", (LOCAL_STEPS,), period=LOCAL),
    Strategy(
        "local_steps_one_bit",
        f"local steps, every {LOCAL}, 1 bit",
        (LOCAL_STEPS, "communication.outer_one_bit=true"),
        period=LOCAL,
    ),
)


def _unlisted_reducers() -> Iterator[Strategy]:
    """The schema's reducers that are timed with their default settings."""
    listed = {override for strategy in _LISTED for override in strategy.overrides}
    for reducer in get_args(Reducer):
        choice = f"communication.reducer={reducer}"
        if reducer != "deepspeed" and choice not in listed:
            yield Strategy(reducer, reducer, (choice,), period=STRATEGY_COSTS[reducer].period)


STRATEGIES = {strategy.name: strategy for strategy in (*_LISTED, *_unlisted_reducers())}
CALIBRATED = tuple(
    name
    for name in STRATEGIES
    if name
    not in ("zero1_reduce", "zero2_reduce", "zero3", "ddp_small_buckets", "onebit_adam_warmup")
)
"""What a profile measures; the others do the same local work as one of these."""

VARIANTS = tuple(
    Strategy(
        f"{name}_{size}",
        f"{STRATEGIES[name].label}, buckets of {size:,}",
        (*STRATEGIES[name].overrides, f"{key}={size}"),
    )
    for size in (100_000, 900_000)
    for name, key in (
        ("overlapped", "communication.bucket_size"),
        ("zero1", "zero.reduce_bucket_size"),
    )
)
"""Bucket sizes that are never calibrated, only predicted."""


def chosen(names: str, among: Sequence[str] = tuple(STRATEGIES)) -> list[Strategy]:
    """The strategies of a list such as `zero0,ddp`: some of `among`, or variants; `all` for all of `among`.

    Raises BenchError for an unknown name.
    """
    variants = {strategy.name: strategy for strategy in VARIANTS}
    wanted = among if names == "all" else names.split(",")
    if unknown := [name for name in wanted if name not in (*among, *variants)]:
        raise BenchError(
            f"{', '.join(unknown)}: no such strategy; expected some of {', '.join(among)}, or all"
        )
    return [(STRATEGIES | variants)[name] for name in wanted]
