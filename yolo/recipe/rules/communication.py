"""Rules for gradient and weight synchronisation: strategies that exclude each other, and settings of one not chosen."""

from collections.abc import Iterator
from typing import Any, cast

from yolo.architecture import parameter_count
from yolo.recipe.resolve.resolve import ResolvedRecipe, takes_local_steps
from yolo.recipe.rules.engine import Finding, error, no_effect, on, rule, warning, without_effect
from yolo.recipe.schema.distributed import CommunicationSection
from yolo.recipe.schema.optimizer import ONE_BIT
from yolo.recipe.schema.recipe import Recipe


@on(error, "optimizer.type")
def one_bit_needs_stage_0(recipe: Recipe) -> Iterator[str]:
    if recipe.optimizer.type in ONE_BIT and recipe.zero.stage > 0:
        yield (
            f"{recipe.optimizer.type} synchronises full momenta itself, and zero.stage {recipe.zero.stage} shards the "
            "gradients they are computed from; set zero.stage to 0, or optimizer.type to AdamW"
        )


@on(error, "precision.dtype")
def one_bit_needs_an_unscaled_loss(recipe: Recipe) -> Iterator[str]:
    if recipe.optimizer.type in ONE_BIT and recipe.precision.dtype == "fp16":
        yield (
            "once gradients are no longer averaged, fp16 scales the loss on each rank by its own gradients, and ranks would "
            f"diverge; set bf16 or fp32 for {recipe.optimizer.type}"
        )


@on(error, "model.sync_batchnorm")
def local_steps_exclude_sync_batchnorm(recipe: Recipe) -> Iterator[str]:
    if recipe.model.sync_batchnorm and takes_local_steps(recipe):
        yield "it synchronises in every layer, also in local steps (communication.sync_every, ZeroOneAdam); set false"


@rule
def lamb_bounds_are_in_order(resolved: ResolvedRecipe) -> Iterator[Finding]:
    optimizer = resolved.recipe.optimizer
    if optimizer.type == "OneBitLamb":
        for low, high in (("min_coeff", "max_coeff"), ("factor_min", "factor_max")):
            lower, upper = getattr(optimizer, low), getattr(optimizer, high)
            if lower > upper:
                yield error(f"{lower:g} is above {high} {upper:g}", key=f"optimizer.{low}")


@rule
def one_bit_excludes_other_strategies(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    kind = recipe.optimizer.type
    if kind in ONE_BIT:
        if recipe.communication.sync_every > 1:
            text = f"{kind} decides itself when ranks synchronise; set it to 1, or optimizer.type to AdamW"
            yield error(text, key="communication.sync_every")
        why = f"{kind} synchronises momentum itself"
        yield from without_effect(resolved, why, "communication.reducer")


@on(error, "communication.reducer")
def reducers_need_stage_0(recipe: Recipe) -> Iterator[str]:
    reducer = recipe.communication.reducer
    if reducer != "deepspeed" and recipe.zero.stage > 0:
        yield (
            f"at zero.stage {recipe.zero.stage} DeepSpeed reduces gradients as it shards them; set zero.stage to 0 for "
            f"{reducer}, or communication.reducer to deepspeed"
        )


@rule
def local_steps_need_stage_0(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.communication.sync_every == 1:
        return
    if recipe.zero.stage > 0:
        text = f"above 1 each rank trains full weights, and zero.stage {recipe.zero.stage} shards them; set zero.stage 0"
        yield error(text, key="communication.sync_every")
    if recipe.precision.dtype == "fp16":
        yield error(
            "fp16 skips steps whose gradients overflow; under communication.sync_every that may be on one rank and not on "
            "another; set bf16 or fp32",
            key="precision.dtype",
        )
    why = "communication.sync_every is above 1: weights are synchronised, not gradients"
    yield from without_effect(resolved, why, "communication.reducer")


@rule
def settings_need_their_strategy(resolved: ResolvedRecipe) -> Iterator[Finding]:
    active = _strategy(resolved.recipe)
    for name, field in CommunicationSection.model_fields.items():
        extra = cast(dict[str, Any], field.json_schema_extra or {})
        strategies = [f"communication.{each}" for each in extra.get("only_for", ())]
        if strategies and active not in strategies:
            why = f"it is for {' or '.join(strategies)}, and {active} is chosen"
            yield from without_effect(resolved, why, f"communication.{name}")
    if active == "communication.reducer powersgd":
        why = "PowerSGD sends its factors in the gradients' own type"
        yield from without_effect(resolved, why, "communication.data_type")
    if active == LOCAL_STEPS and resolved.recipe.communication.outer_one_bit:
        yield from without_effect(resolved, "outer_one_bit sends signs", "communication.data_type")


LOCAL_STEPS = "communication.sync_every above 1"


def _strategy(recipe: Recipe) -> str:
    """Name the strategy that takes effect, for messages, even if several are set."""
    if recipe.optimizer.type in ONE_BIT:
        return f"optimizer.type {recipe.optimizer.type}"
    if recipe.communication.sync_every > 1:
        return LOCAL_STEPS
    return f"communication.reducer {recipe.communication.reducer}"


@rule
def our_reducers_do_not_prescale(resolved: ResolvedRecipe) -> Iterator[Finding]:
    active = _strategy(resolved.recipe)
    if active.startswith("communication.") and active != "communication.reducer deepspeed":
        for word in ("prescale_gradients", "gradient_predivide_factor"):
            if word in resolved.recipe.deepspeed:
                why = f"DeepSpeed averages nothing under {active}"
                yield no_effect(why, key=f"deepspeed.{word}")


def oversized_bucket(recipe: Recipe, bucket: int) -> Iterator[str]:
    """What to say if a bucket (elements) holds more than half of the network's parameters."""
    parameters = parameter_count(recipe.model.variant, 80)
    if bucket > parameters // 2:
        yield (
            f"{bucket:,} elements are more than half of yolov5{recipe.model.variant}'s {parameters:,} parameters, so one "
            "bucket at most fills before backward ends, and little communication is overlapped; set it to auto"
        )


@on(warning, "communication.bucket_size")
def an_overlapped_bucket_must_fill_early(recipe: Recipe) -> Iterator[str]:
    if recipe.communication.reducer == "overlapped":
        yield from oversized_bucket(recipe, recipe.communication.bucket_size)


@rule
def one_rank_has_nothing_to_synchronise(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.world_size > 1:
        return
    names = ("reducer", "sync_every", "check_weights_every")
    keys = (f"communication.{name}" for name in names)
    yield from without_effect(resolved, "there is one rank", *keys)
    kind = resolved.recipe.optimizer.type
    if kind in ONE_BIT:
        text = f"{kind} compresses although nothing is sent: it shows the cost in accuracy, and saves nothing"
        yield warning(text, key="optimizer.type")


@on(no_effect, "communication.check_weights_every")
def stage_3_has_no_full_weights_to_compare(recipe: Recipe) -> Iterator[str]:
    if recipe.zero.stage == 3:
        yield "at zero.stage 3 ranks hold shards"
