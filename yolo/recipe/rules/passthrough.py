"""Rules on the recipe's `deepspeed:` section: keys that DeepSpeed reads, and that here do nothing or harm.

Written as those in rules.py; which keys there are, and of what type, stands in passthrough.py.
"""

from collections.abc import Iterator

from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Finding, error, rule, warning


def _passed(resolved: ResolvedRecipe, *words: str) -> object:
    found: object = resolved.recipe.deepspeed
    for word in words:
        found = found.get(word) if isinstance(found, dict) else None
    return found


def _divides_before_the_sum(resolved: ResolvedRecipe) -> bool:
    """DeepSpeed's path for that, which its default of `reduce_scatter` shuts."""
    is_opened = _passed(resolved, "zero_optimization", "reduce_scatter") is False
    return resolved.recipe.zero.stage > 0 and is_opened


@rule
def prescaling_wants_no_reduce_scatter(resolved: ResolvedRecipe) -> Iterator[Finding]:
    stage = resolved.recipe.zero.stage
    factor = _passed(resolved, "gradient_predivide_factor")
    asked = {
        "prescale_gradients": _passed(resolved, "prescale_gradients") is True,
        "gradient_predivide_factor": factor is not None and factor != 1.0,
    }
    for key in (key for key, is_asked in asked.items() if is_asked):
        if stage == 1 and not _divides_before_the_sum(resolved):
            yield warning(
                f"deepspeed.{key}", "has no effect: stage 1 divides by the world size first"
            )
        if stage >= 2 and not _divides_before_the_sum(resolved):
            yield error(f"deepspeed.{key}", f"DeepSpeed refuses it at stage {stage}; remove it")


@rule
def a_predivide_factor_divides(resolved: ResolvedRecipe) -> Iterator[Finding]:
    is_used = resolved.recipe.zero.stage == 0 or _divides_before_the_sum(resolved)
    if _passed(resolved, "gradient_predivide_factor") == 0 and is_used:
        yield error("deepspeed.gradient_predivide_factor", "gradients are divided by it; remove it")


@rule
def zero_keys_want_a_stage(resolved: ResolvedRecipe) -> Iterator[Finding]:
    keys = _passed(resolved, "zero_optimization")
    if resolved.recipe.zero.stage == 0 and isinstance(keys, dict):
        for word in keys:
            yield warning(f"deepspeed.zero_optimization.{word}", "has no effect: zero.stage is 0")


@rule
def dead_zero_keys(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage in (1, 2):
        why = {
            "allgather_bucket_size": "parameters are gathered by one call, without buckets",
            "allgather_partitions": "nothing in DeepSpeed reads it",
            "reduce_scatter": "stages 1 and 2 reduce-scatter nothing; see zero.use_multi_rank_bucket_allreduce",
        }
        for word, reason in why.items():
            if _passed(resolved, "zero_optimization", word) is not None:
                yield warning(f"deepspeed.zero_optimization.{word}", f"has no effect: {reason}")


@rule
def gradient_norm_is_needed_for_clipping(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if _passed(resolved, "zero_optimization", "compute_grad_norm") is False:
        key = "deepspeed.zero_optimization.compute_grad_norm"
        if resolved.recipe.train.gradient_clipping > 0:
            yield error(
                key, "clipping needs the norm; set train.gradient_clipping to 0 or remove this"
            )
        elif resolved.recipe.zero.stage not in (1, 2):
            yield error(key, "DeepSpeed allows it at stages 1 and 2 only; remove it")


@rule
def quantised_exchange_wants_stage_3(resolved: ResolvedRecipe) -> Iterator[Finding]:
    stage = resolved.recipe.zero.stage
    for word in ("zero_quantized_weights", "zero_quantized_gradients", "zero_hpz_partition_size"):
        if 0 < stage < 3 and _passed(resolved, "zero_optimization", word):
            yield warning(
                f"deepspeed.zero_optimization.{word}", f"has no effect: zero.stage is {stage}"
            )


@rule
def quantised_weights_exclude_autocast(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    is_asked = _passed(resolved, "zero_optimization", "zero_quantized_weights") is True
    if is_asked and recipe.zero.stage == 3 and recipe.precision.dtype != "fp32":
        yield error(
            "deepspeed.zero_optimization.zero_quantized_weights",
            f"DeepSpeed refuses it with torch_autocast, and precision.dtype is {recipe.precision.dtype}; remove it",
        )


@rule
def the_comms_logger_blocks(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if _passed(resolved, "comms_logger") is not None:
        yield warning(
            "deepspeed.comms_logger",
            "makes every collective wait for its end, so nothing overlaps; bytes and seconds are measured without it",
        )


@rule
def breakdowns_wait_for_the_device(resolved: ResolvedRecipe) -> Iterator[Finding]:
    for words in (("wall_clock_breakdown",), ("flops_profiler", "enabled")):
        if _passed(resolved, *words) is True:
            yield warning(
                ".".join(("deepspeed", *words)),
                "waits for the device at every step of the run: slower throughout",
            )
