"""For each rule on what DeepSpeed, torch or an exchange does: evidence, by name of the rule."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.rules.case import Case, Observation
from tests.rules.evidence import (
    Evidence,
    Setting,
    Settings,
    hangs,
    ignored,
    refused,
    sent,
    shown,
    zero_setting,
)
from tests.rules.pair import RanksOfTest
from yolo.recipe.architecture import parameter_count

PARAMETERS = parameter_count("n", 3)
CLIPPED = "train.gradient_clipping=1000"
SGD = ("optimizer.type=SGD", "optimizer.lr=0.1")
FREEZES_AT_ONCE = "optimizer.freeze_step=1"
ONE_BIT_ADAM = ("optimizer.type=OneBitAdam", FREEZES_AT_ONCE)
OVERLAPPED = ("communication.reducer=overlapped",)
POWERSGD = ("communication.reducer=powersgd", "communication.powersgd_start_step=2")
LOCAL_STEPS = ("communication.sync_every=2",)


def passed(key: str, value: object) -> Setting:
    """A key of the recipe's `deepspeed` section."""
    said = str(value).lower() if isinstance(value, bool) else str(value)
    return Setting((f"deepspeed.{key}={said}",))


def stage(number: int) -> Settings:
    return (f"zero.stage={number}",)


# --- what a case shows ------------------------------------------------------------------------------------------


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

    return shown("stages_2_and_3_exchange_every_micro_batch", (*stage(number), *four), holds)


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


NO_REDUCE_SCATTER = ("deepspeed.zero_optimization.reduce_scatter=false",)
QUANTISED = ("zero_quantized_weights", "zero_quantized_gradients")

OF_DEEPSPEED: list[Evidence] = [
    # --- ZeRO
    *(
        ignored("stage_0_has_no_buckets", zero_setting(key, value), works=works)
        for key, value, works in (
            ("overlap_comm", True, None),
            ("reduce_bucket_size", 100_000, stage(1)),
            ("contiguous_gradients", False, None),
            ("use_multi_rank_bucket_allreduce", False, stage(1)),
            ("round_robin_gradients", True, None),
        )
    ),
    *(
        ignored("stage_3_has_its_own_exchange", zero_setting(key, value), stage(3), works)
        for key, value, works in (
            ("use_multi_rank_bucket_allreduce", False, stage(1)),
            ("round_robin_gradients", True, None),
        )
    ),
    *(
        ignored("stage_3_keys_want_stage_3", zero_setting(key, value), stage(2), works=stage(3))
        for key, value in (
            ("stage3_param_persistence_threshold", 0),
            ("stage3_prefetch_bucket_size", 0),
        )
    ),
    shown(
        "a_bucket_must_fill_to_overlap",
        zero_bucket(2 * PARAMETERS),
        buckets_that_fill_late(zero_bucket),
    ),
    every_micro_batch(2),
    every_micro_batch(3),
    shown("stage_3_gathers_parameters", stage(3), stage_3_gathers_in_each_micro_step),
    shown(
        "offloading_wants_a_stage", ("zero.offload_optimizer=cpu",), offload_is_ignored_at_stage_0
    ),
    shown(
        "offloading_is_made_for_adamw",
        (*SGD, *stage(1), "zero.offload_optimizer=cpu"),
        sgd_steps_by_torch,
    ),
    # --- precision and what is on the wire
    shown(
        "autocast_decides_the_wire_under_zero",
        (*stage(1), "precision.dtype=bf16", "communication.data_type=fp32"),
        autocast_decides,
    ),
    replace(
        shown(
            "one_rank_sends_nothing",
            ("communication.data_type=bf16",),
            rounded_though_nothing_is_sent,
        ),
        ranks=1,
    ),
    shown(
        "fp16_on_the_wire_overflows", ("communication.data_type=fp16",), fp16_overflows_on_the_way
    ),
    refused("sync_batchnorm_wants_gpus", ("model.sync_batchnorm=true",), "SyncBatchNorm.*GPU"),
    # --- the optimizer
    refused(
        "nesterov_wants_momentum",
        (*SGD, "optimizer.momentum=0.0"),
        "Nesterov momentum requires a momentum",
    ),
    shown(
        "unclipped_gradients_are_not_looked_at",
        ("train.gradient_clipping=0",),
        a_nan_ruins_what_nobody_looks_at,
    ),
    # --- communication
    *(
        refused("one_bit_wants_stage_0", (*stage(number), f"optimizer.type={kind}"), ".")
        for number, kind in ((1, "OneBitAdam"), (2, "OneBitLamb"), (3, "ZeroOneAdam"))
    ),
    hangs(
        "one_bit_wants_a_loss_that_is_not_scaled",
        (*ONE_BIT_ADAM, "precision.dtype=fp16"),
        Case((*ONE_BIT_ADAM, "precision.dtype=fp16", CLIPPED), steps=4, factors=((1, 3, 1e9),)),
    ),
    shown(
        "local_steps_want_stage_0",
        (*LOCAL_STEPS, "precision.dtype=fp16"),
        one_rank_leaves_its_step_out,
    ),
    *(
        refused("local_steps_want_stage_0", (*stage(number), *LOCAL_STEPS), ".")
        for number in (1, 2, 3)
    ),
    ignored("local_steps_want_stage_0", OVERLAPPED, LOCAL_STEPS, works=()),
    *(
        refused("reducers_want_stage_0", (*stage(number), *reducer), ".")
        for number in (1, 2, 3)
        for reducer in (OVERLAPPED, POWERSGD)
    ),
    shown(
        "lamb_bounds_are_in_order",
        ("optimizer.type=OneBitLamb", "optimizer.min_coeff=2.0", "optimizer.max_coeff=0.5"),
        lower_bound_above_upper("min_coeff", "max_coeff"),
    ),
    shown(
        "lamb_bounds_are_in_order",
        ("optimizer.type=OneBitLamb", "optimizer.factor_min=2.0", "optimizer.factor_max=0.5"),
        lower_bound_above_upper("factor_min", "factor_max"),
    ),
    ignored("one_bit_leaves_no_other_exchange", LOCAL_STEPS, ONE_BIT_ADAM, works=()),
    ignored("one_bit_leaves_no_other_exchange", OVERLAPPED, ONE_BIT_ADAM, works=()),
    *(
        ignored(
            "settings_want_their_strategy", (f"communication.{setting}",), where, works, steps=4
        )
        for setting, where, works in (
            ("bucket_size=100000", (), OVERLAPPED),
            ("bucket_size=100000", ONE_BIT_ADAM, OVERLAPPED),
            ("powersgd_rank=8", OVERLAPPED, POWERSGD),
            ("powersgd_start_step=3", (), POWERSGD[:1]),
            ("outer_lr=0.5", (), LOCAL_STEPS),
            ("outer_momentum=0.5", POWERSGD, LOCAL_STEPS),
            ("outer_one_bit=true", OVERLAPPED, LOCAL_STEPS),
            ("data_type=bf16", POWERSGD, OVERLAPPED),
            ("data_type=bf16", (*LOCAL_STEPS, "communication.outer_one_bit=true"), LOCAL_STEPS),
        )
    ),
    *(
        ignored("our_reducers_do_not_prescale", setting, where, works, steps=3)
        for setting, works in ((passed("prescale_gradients", True), None), (predivide(3), ()))
        for where in (OVERLAPPED, POWERSGD, LOCAL_STEPS)
    ),
    shown(
        "an_overlapped_bucket_must_fill_early",
        our_bucket(2 * PARAMETERS),
        buckets_that_fill_late(our_bucket),
    ),
    *(
        ignored("one_rank_has_nobody_to_exchange_with", setting, ranks=1)
        for setting in (OVERLAPPED, POWERSGD[:1], LOCAL_STEPS)
    ),
    replace(shown("one_rank_has_nobody_to_exchange_with", ONE_BIT_ADAM, compresses_alone), ranks=1),
    shown(
        "stage_3_has_no_whole_weights_to_compare",
        (*stage(3), "communication.check_weights_every=1"),
        stage_3_keeps_shards,
    ),
    # --- keys handed through
    *(
        ignored("prescaling_wants_no_reduce_scatter", setting, stage(1), works)
        for setting, works in ((passed("prescale_gradients", True), None), (predivide(3), ()))
    ),
    *(
        refused(
            "prescaling_wants_no_reduce_scatter",
            (*stage(number), *setting.recipe),
            "not yet supported with ZeRO-. with reduce scatter enabled",
        )
        for number in (2, 3)
        for setting in (passed("prescale_gradients", True), predivide(3))
    ),
    *(
        shown(
            "a_predivide_factor_divides",
            (*stage(number), *(NO_REDUCE_SCATTER if number else ()), *predivide(0).recipe),
            a_factor_of_nothing(number),
        )
        for number in (0, 1, 2, 3)
    ),
    *(
        ignored("zero_keys_want_a_stage", passed(f"zero_optimization.{key}", value), works=works)
        for key, value, works in (
            ("sub_group_size", 100_000, None),
            ("allgather_bucket_size", 100_000, None),
            ("stage3_max_live_parameters", 0, stage(3)),
        )
    ),
    *(
        ignored("dead_zero_keys", passed(f"zero_optimization.{key}", value), stage(number))
        for key, value in (
            ("allgather_bucket_size", 100_000),
            ("allgather_partitions", False),
            ("reduce_scatter", False),
        )
        for number in (1, 2)
    ),
    refused(
        "gradient_norm_is_needed_for_clipping",
        (*stage(1), *passed("zero_optimization.compute_grad_norm", False).recipe),
        "compute_grad_norm",
    ),
    *(
        refused(
            "gradient_norm_is_needed_for_clipping",
            (
                *stage(number),
                "train.gradient_clipping=0",
                *passed("zero_optimization.compute_grad_norm", False).recipe,
            ),
            "compute_grad_norm",
        )
        for number in (0, 3)
    ),
    *(
        ignored(
            "quantised_exchange_wants_stage_3",
            passed(f"zero_optimization.{key}", value),
            stage(number),
        )
        for key, value in (*((key, True) for key in QUANTISED), ("zero_hpz_partition_size", 2))
        for number in (1, 2)
    ),
    refused(
        "quantised_weights_exclude_autocast",
        (
            *(*stage(3), "precision.dtype=bf16"),
            *passed("zero_optimization.zero_quantized_weights", True).recipe,
        ),
        "torch autocast and zero quantized weights",
    ),
    shown(
        "the_comms_logger_blocks",
        passed("comms_logger.enabled", True).recipe,
        waits(passed("comms_logger.enabled", True)),
    ),
    *(
        shown("breakdowns_wait_for_the_device", setting.recipe, waits(setting))
        for setting in (
            passed("wall_clock_breakdown", True),
            passed("flops_profiler.enabled", True),
        )
    ),
]
