"""What cases show of DeepSpeed, torch and the exchanges, where it takes more words than `refused` or `ignored`."""

import math
from collections.abc import Callable

import pytest

from tests.recipe.rules.against_deepspeed.case import Case, Observation
from tests.recipe.rules.against_deepspeed.evidence import (
    Evidence,
    Setting,
    Settings,
    sent,
    shown,
)
from tests.recipe.rules.against_deepspeed.pair import RanksOfTest
from yolo.architecture import parameter_count

PARAMETERS = parameter_count("n", 3)
CLIPPED = "train.gradient_clipping=1000"
SGD = ("optimizer.type=SGD", "optimizer.lr=0.1")
FREEZES_AT_ONCE = "optimizer.freeze_step=1"
ONE_BIT_ADAM = ("optimizer.type=OneBitAdam", FREEZES_AT_ONCE)
OVERLAPPED = ("communication.reducer=overlapped",)
POWERSGD = ("communication.reducer=powersgd", "communication.powersgd_start_step=2")
LOCAL_STEPS = ("communication.sync_every=2",)
NO_REDUCE_SCATTER = ("deepspeed.zero_optimization.reduce_scatter=false",)


def passed(key: str, value: object) -> Setting:
    """A key of the recipe's `deepspeed` section."""
    said = str(value).lower() if isinstance(value, bool) else str(value)
    return Setting((f"deepspeed.{key}={said}",))


def stage(number: int) -> Settings:
    return (f"zero.stage={number}",)


def buckets_that_fill_late(case: Callable[[int], Settings]) -> Callable[[RanksOfTest], None]:
    """A bucket of more than half of the network is sent early once at most, and the whole network never."""

    def holds(ranks: RanksOfTest) -> None:
        half = ranks(Case(case(PARAMETERS // 2 + 60_000)))
        whole = ranks(Case(case(2 * PARAMETERS)))
        small = ranks(Case(case(PARAMETERS // 8)))
        assert half.early.get("all_reduce", (0, 0))[0] <= 1
        assert whole.early.get("all_reduce", (0, 0))[0] == 0
        assert small.early["all_reduce"][0] >= 4
        assert small.early["all_reduce"][1] > half.early.get("all_reduce", (0, 0))[1]

    return holds


def zero_bucket(elements: int) -> Settings:
    return (*stage(1), "zero.overlap_comm=true", f"zero.reduce_bucket_size={elements}")


def our_bucket(elements: int) -> Settings:
    return (*OVERLAPPED, f"communication.bucket_size={elements}")


def every_micro_batch(number: int) -> Evidence:
    four = ("train.micro_batch=1", "train.gradient_accumulation_steps=4", "train.global_batch=8")
    one = ("train.micro_batch=2",)

    def holds(ranks: RanksOfTest) -> None:
        gradients = ("all_reduce", "reduce", "reduce_scatter")
        of_four = sent(ranks(Case((*stage(number), *four))), *gradients)
        of_one = sent(ranks(Case((*stage(number), *one))), *gradients)
        assert of_four == pytest.approx(4 * of_one, rel=0.01)
        at_stage_1 = sent(ranks(Case((*stage(1), *four))), *gradients)
        assert at_stage_1 == pytest.approx(sent(ranks(Case((*stage(1), *one))), *gradients))

    return shown("stages_2_and_3_reduce_every_micro_batch", (*stage(number), *four), holds)


def stage_3_gathers_in_each_micro_step(ranks: RanksOfTest) -> None:
    four = ("train.micro_batch=1", "train.gradient_accumulation_steps=4", "train.global_batch=8")
    one, accumulated = ranks(Case(stage(3))), ranks(Case((*stage(3), *four)))
    assert sent(one, "all_gather") == pytest.approx(4 * PARAMETERS, rel=0.02)
    assert sent(accumulated, "all_gather") > 3.5 * sent(one, "all_gather")
    assert one.traffic["all_gather"][0] > 100  # small ones, after the step
    assert ranks(Case(stage(1))).traffic["all_gather"][0] == 3


def stage_3_keeps_shards(ranks: RanksOfTest) -> None:
    sharded = ranks(Case((*stage(3), "zero.stage3_param_persistence_threshold=0")))
    assert sharded.kept_elements < PARAMETERS / 100
    assert ranks(Case(stage(1))).kept_elements == PARAMETERS


def offload_is_ignored_at_stage_0(ranks: RanksOfTest) -> None:
    asked = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
    with_it, without = ranks(Case(json=asked)), ranks(Case())
    assert with_it.weights == without.weights
    assert with_it.optimizer == without.optimizer


def autocast_decides(ranks: RanksOfTest) -> None:
    bf16 = (*stage(1), "precision.dtype=bf16")
    told = ranks(Case(bf16, {"communication_data_type": "fp32"}))
    untold = ranks(Case(bf16))
    assert told.traffic == untold.traffic
    whole = sent(ranks(Case(stage(1))), "all_reduce")
    assert sent(told, "all_reduce") < 0.6 * whole


def fp16_overflows_on_the_way(ranks: RanksOfTest) -> None:
    huge = tuple((rank, 1, 1e9) for rank in (0, 1))
    fp16 = ranks(Case(("communication.data_type=fp16", CLIPPED), factors=huge))
    bf16 = ranks(Case(("communication.data_type=bf16", CLIPPED), factors=huge))
    assert fp16.taken == [True, False]
    assert bf16.taken == [True, True]
    assert bf16.is_finite


def a_nan_ruins_what_nobody_looks_at(ranks: RanksOfTest) -> None:
    on_one_rank = ((1, 0, math.nan),)
    unclipped = ranks(Case(("train.gradient_clipping=0",), factors=on_one_rank))
    assert not unclipped.is_finite
    clipped = ranks(Case((CLIPPED,), factors=on_one_rank))
    assert clipped.is_finite
    assert clipped.taken == [False, True]


def one_rank_leaves_its_step_out(ranks: RanksOfTest) -> None:
    on_one_rank = ((1, 1, 1e9),)
    alone = ("communication.sync_every=5", "precision.dtype=fp16", CLIPPED)
    first, second = ranks.every(Case(alone, factors=on_one_rank))
    assert isinstance(first, Observation)
    assert isinstance(second, Observation)
    assert first.taken[1]
    assert not second.taken[1]
    assert first.scale > second.scale


def sgd_steps_by_torch(ranks: RanksOfTest) -> None:
    offloaded = (*stage(1), "zero.offload_optimizer=cpu")
    assert ranks(Case((*SGD, *offloaded))).basic_optimizer == "SGD"
    assert ranks(Case(offloaded)).basic_optimizer == "DeepSpeedCPUAdam"


def rounded_though_nothing_is_sent(ranks: RanksOfTest) -> None:
    bf16, fp32 = ranks(Case(("communication.data_type=bf16",))), ranks(Case())
    assert bf16.wire_bytes == fp32.wire_bytes == 0
    assert bf16.weights != fp32.weights
    assert bf16.moved == pytest.approx(fp32.moved, rel=1e-3)


def lower_bound_above_upper(low: str, high: str) -> Callable[[RanksOfTest], None]:
    """The upper one alone is at work: as if both were the same."""

    def holds(ranks: RanksOfTest) -> None:
        lamb = ("optimizer.type=OneBitLamb", FREEZES_AT_ONCE, f"optimizer.{high}=0.5")
        crossed = ranks(Case((*lamb, f"optimizer.{low}=2.0"), steps=4))
        equal = ranks(Case((*lamb, f"optimizer.{low}=0.5"), steps=4))
        assert crossed.weights == equal.weights

    return holds


def a_factor_of_nothing(number: int) -> Callable[[RanksOfTest], None]:
    """It divides there: 3 changes roundings, and 0 makes every gradient infinite or an error."""

    def holds(ranks: RanksOfTest) -> None:
        path = (*stage(number), *(NO_REDUCE_SCATTER if number else ()))
        for seen in ranks.every(Case((*path, *predivide(0).recipe))):
            if isinstance(seen, Observation):
                assert not any(seen.taken)
            else:
                assert "ZeroDivisionError" in seen
        assert ranks(Case((*path, *predivide(3).recipe))).weights != ranks(Case(path)).weights

    return holds


def predivide(factor: float) -> Setting:
    return passed("gradient_predivide_factor", factor)


def waits(setting: Setting) -> Callable[[RanksOfTest], None]:
    def holds(ranks: RanksOfTest) -> None:
        with_it, without = ranks(Case(setting.recipe)), ranks(Case())
        each_step = len(with_it.taken)
        assert with_it.waits_for_the_device >= without.waits_for_the_device + each_step

    return holds


def compresses_alone(ranks: RanksOfTest) -> None:
    one_bit, plain = ranks(Case(ONE_BIT_ADAM, steps=3)), ranks(Case(steps=3))
    assert one_bit.weights != plain.weights
    assert one_bit.wire_bytes == plain.wire_bytes == 0
