"""For each rule on what DeepSpeed, torch or an exchange does: evidence, by name of the rule."""

from dataclasses import replace

from tests.recipe.rules.against_deepspeed.case import Case
from tests.recipe.rules.against_deepspeed.evidence import (
    Evidence,
    hangs,
    ignored,
    refused,
    shown,
    zero_setting,
)
from tests.recipe.rules.against_deepspeed.observed import (
    CLIPPED,
    LOCAL_STEPS,
    NO_REDUCE_SCATTER,
    ONE_BIT_ADAM,
    OVERLAPPED,
    PARAMETERS,
    POWERSGD,
    SGD,
    a_factor_of_nothing,
    a_nan_ruins_what_nobody_looks_at,
    autocast_decides,
    buckets_that_fill_late,
    compresses_alone,
    every_micro_batch,
    fp16_overflows_on_the_way,
    lower_bound_above_upper,
    offload_is_ignored_at_stage_0,
    one_rank_leaves_its_step_out,
    our_bucket,
    passed,
    predivide,
    rounded_though_nothing_is_sent,
    sgd_steps_by_torch,
    stage,
    stage_3_gathers_in_each_micro_step,
    stage_3_keeps_shards,
    waits,
    zero_bucket,
)

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
        ignored("stage_3_has_its_own_reduction", zero_setting(key, value), stage(3), works)
        for key, value, works in (
            ("use_multi_rank_bucket_allreduce", False, stage(1)),
            ("round_robin_gradients", True, None),
        )
    ),
    *(
        ignored("stage_3_keys_need_stage_3", zero_setting(key, value), stage(2), works=stage(3))
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
        "offloading_needs_a_stage", ("zero.offload_optimizer=cpu",), offload_is_ignored_at_stage_0
    ),
    shown(
        "offloading_is_fast_with_adamw_only",
        (*SGD, *stage(1), "zero.offload_optimizer=cpu"),
        sgd_steps_by_torch,
    ),
    # --- precision and what is on the wire
    shown(
        "autocast_sets_the_data_type_under_zero",
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
    shown("fp16_gradients_overflow", ("communication.data_type=fp16",), fp16_overflows_on_the_way),
    # --- the optimizer
    refused(
        "nesterov_needs_momentum",
        (*SGD, "optimizer.momentum=0.0"),
        "Nesterov momentum requires a momentum",
    ),
    shown(
        "unclipped_gradients_are_not_checked",
        ("train.gradient_clipping=0",),
        a_nan_ruins_what_nobody_looks_at,
    ),
    # --- communication
    *(
        refused("one_bit_needs_stage_0", (*stage(number), f"optimizer.type={kind}"), ".")
        for number, kind in ((1, "OneBitAdam"), (2, "OneBitLamb"), (3, "ZeroOneAdam"))
    ),
    hangs(
        "one_bit_needs_an_unscaled_loss",
        (*ONE_BIT_ADAM, "precision.dtype=fp16"),
        Case((*ONE_BIT_ADAM, "precision.dtype=fp16", CLIPPED), steps=4, factors=((1, 3, 1e9),)),
    ),
    shown(
        "local_steps_need_stage_0",
        (*LOCAL_STEPS, "precision.dtype=fp16"),
        one_rank_leaves_its_step_out,
    ),
    *(
        refused("local_steps_need_stage_0", (*stage(number), *LOCAL_STEPS), ".")
        for number in (1, 2, 3)
    ),
    ignored("local_steps_need_stage_0", OVERLAPPED, LOCAL_STEPS, works=()),
    *(
        refused("reducers_need_stage_0", (*stage(number), *reducer), ".")
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
    ignored("one_bit_excludes_other_strategies", LOCAL_STEPS, ONE_BIT_ADAM, works=()),
    ignored("one_bit_excludes_other_strategies", OVERLAPPED, ONE_BIT_ADAM, works=()),
    *(
        ignored(
            "settings_need_their_strategy", (f"communication.{setting}",), where, works, steps=4
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
        ignored("one_rank_has_nothing_to_synchronise", setting, ranks=1)
        for setting in (OVERLAPPED, POWERSGD[:1], LOCAL_STEPS)
    ),
    replace(shown("one_rank_has_nothing_to_synchronise", ONE_BIT_ADAM, compresses_alone), ranks=1),
    shown(
        "stage_3_has_no_full_weights_to_compare",
        (*stage(3), "communication.check_weights_every=1"),
        stage_3_keeps_shards,
    ),
    # --- keys handed through
    *(
        ignored("prescaling_excludes_reduce_scatter", setting, stage(1), works)
        for setting, works in ((passed("prescale_gradients", True), None), (predivide(3), ()))
    ),
    *(
        refused(
            "prescaling_excludes_reduce_scatter",
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
        ignored("zero_keys_need_a_stage", passed(f"zero_optimization.{key}", value), works=works)
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
            "quantised_communication_needs_stage_3",
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
        shown("breakdowns_synchronise_the_device", setting.recipe, waits(setting))
        for setting in (
            passed("wall_clock_breakdown", True),
            passed("flops_profiler.enabled", True),
        )
    ),
]
