"""Rules for the recipe's `deepspeed:` section: keys that DeepSpeed reads, and that have no effect or do harm here.

`yolo.recipe.deepspeed.passthrough` knows which keys exist, and their types.
"""

from collections.abc import Iterator

from yolo.recipe.resolve.resolve import ResolvedRecipe
from yolo.recipe.rules.engine import Finding, error, no_effect, on, rule, warning
from yolo.recipe.schema.recipe import Recipe

ZERO = "deepspeed.zero_optimization"


def _passed(recipe: Recipe, *words: str) -> object:
    found: object = recipe.deepspeed
    for word in words:
        found = found.get(word) if isinstance(found, dict) else None
    return found


def _zero(recipe: Recipe, word: str) -> object:
    return _passed(recipe, "zero_optimization", word)


def _divides_before_the_sum(recipe: Recipe) -> bool:
    """Whether DeepSpeed divides gradients before their sum; its default `reduce_scatter: true` prevents it."""
    return recipe.zero.stage > 0 and _zero(recipe, "reduce_scatter") is False


@rule
def prescaling_excludes_reduce_scatter(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    stage = recipe.zero.stage
    if stage == 0 or _divides_before_the_sum(recipe):
        return
    requested = {
        "prescale_gradients": _passed(recipe, "prescale_gradients") is True,
        "gradient_predivide_factor": _passed(recipe, "gradient_predivide_factor")
        not in (None, 1.0),
    }
    for word in (word for word, is_requested in requested.items() if is_requested):
        key = f"deepspeed.{word}"
        if stage == 1:
            yield no_effect("stage 1 divides by the world size first", key=key)
        else:
            yield error(f"DeepSpeed refuses it at stage {stage}; remove it", key=key)


@on(error, "deepspeed.gradient_predivide_factor")
def a_predivide_factor_divides(recipe: Recipe) -> Iterator[str]:
    is_used = recipe.zero.stage == 0 or _divides_before_the_sum(recipe)
    if is_used and _passed(recipe, "gradient_predivide_factor") == 0:
        yield "gradients are divided by it; remove it"


@rule
def zero_keys_need_a_stage(resolved: ResolvedRecipe) -> Iterator[Finding]:
    keys = _passed(resolved.recipe, "zero_optimization")
    if resolved.recipe.zero.stage == 0 and isinstance(keys, dict):
        for word in keys:
            yield no_effect("zero.stage is 0", key=f"{ZERO}.{word}")


@rule
def dead_zero_keys(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage in (1, 2):
        reasons = {
            "allgather_bucket_size": "parameters are gathered by one call, without buckets",
            "allgather_partitions": "nothing in DeepSpeed reads it",
            "reduce_scatter": "stages 1 and 2 reduce-scatter nothing; see zero.use_multi_rank_bucket_allreduce",
        }
        for word, why in reasons.items():
            if _zero(resolved.recipe, word) is not None:
                yield no_effect(why, key=f"{ZERO}.{word}")


@on(error, f"{ZERO}.compute_grad_norm")
def gradient_norm_is_needed_for_clipping(recipe: Recipe) -> Iterator[str]:
    if _zero(recipe, "compute_grad_norm") is False:
        if recipe.train.gradient_clipping > 0:
            yield "clipping needs the norm; set train.gradient_clipping to 0 or remove this"
        elif recipe.zero.stage not in (1, 2):
            yield "DeepSpeed allows it at stages 1 and 2 only; remove it"


@rule
def quantised_communication_needs_stage_3(resolved: ResolvedRecipe) -> Iterator[Finding]:
    stage = resolved.recipe.zero.stage
    for word in ("zero_quantized_weights", "zero_quantized_gradients", "zero_hpz_partition_size"):
        if 0 < stage < 3 and _zero(resolved.recipe, word):
            yield no_effect(f"zero.stage is {stage}", key=f"{ZERO}.{word}")


@on(error, f"{ZERO}.zero_quantized_weights")
def quantised_weights_exclude_autocast(recipe: Recipe) -> Iterator[str]:
    dtype = recipe.precision.dtype
    is_requested = _zero(recipe, "zero_quantized_weights") is True
    if is_requested and recipe.zero.stage == 3 and dtype != "fp32":
        yield f"DeepSpeed refuses it with torch_autocast, and precision.dtype is {dtype}; remove it"


@on(warning, "deepspeed.comms_logger")
def the_comms_logger_blocks(recipe: Recipe) -> Iterator[str]:
    if _passed(recipe, "comms_logger") is not None:
        yield "makes every collective wait for its end, so nothing overlaps; bytes and seconds are measured without it"


@rule
def breakdowns_synchronise_the_device(resolved: ResolvedRecipe) -> Iterator[Finding]:
    for words in (("wall_clock_breakdown",), ("flops_profiler", "enabled")):
        if _passed(resolved.recipe, *words) is True:
            text = "waits for the device at every step of the run, which slows all of it"
            yield warning(text, key=".".join(("deepspeed", *words)))
