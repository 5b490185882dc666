"""Rules on how ranks exchange what they computed: strategies that exclude each other, and settings of one not chosen.

Written as those in rules.py.
"""

from collections.abc import Iterator

from yolo.architecture import parameter_count
from yolo.recipe.resolve.resolve import ResolvedRecipe, takes_local_steps
from yolo.recipe.rules.engine import Finding, error, rule, warning, without_effect
from yolo.recipe.schema.optimizer import ONE_BIT


@rule
def one_bit_wants_stage_0(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.optimizer.type in ONE_BIT and recipe.zero.stage > 0:
        yield error(
            "optimizer.type",
            f"{recipe.optimizer.type} exchanges whole momenta itself, and zero.stage {recipe.zero.stage} shards what they "
            "are made of; set zero.stage to 0, or optimizer.type to AdamW",
        )


@rule
def one_bit_wants_a_loss_that_is_not_scaled(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.optimizer.type in ONE_BIT and recipe.precision.dtype == "fp16":
        yield error(
            "precision.dtype",
            "fp16 scales the loss on each rank by its own gradients once they are not averaged any more, and ranks would "
            f"part; set bf16 or fp32 for {recipe.optimizer.type}",
        )


@rule
def steps_taken_alone_and_sync_batchnorm_exclude_each_other(
    resolved: ResolvedRecipe,
) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.model.sync_batchnorm and takes_local_steps(recipe):
        yield error(
            "model.sync_batchnorm",
            "it exchanges statistics in every layer of every step, also of those that ranks take alone under "
            "communication.sync_every and ZeroOneAdam; set it to false",
        )


@rule
def lamb_bounds_are_in_order(resolved: ResolvedRecipe) -> Iterator[Finding]:
    optimizer = resolved.recipe.optimizer
    if optimizer.type == "OneBitLamb":
        if optimizer.min_coeff > optimizer.max_coeff:
            yield error(
                "optimizer.min_coeff",
                f"{optimizer.min_coeff:g} is above max_coeff {optimizer.max_coeff:g}",
            )
        if optimizer.factor_min > optimizer.factor_max:
            yield error(
                "optimizer.factor_min",
                f"{optimizer.factor_min:g} is above factor_max {optimizer.factor_max:g}",
            )


@rule
def one_bit_leaves_no_other_exchange(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.optimizer.type in ONE_BIT:
        if recipe.communication.sync_every > 1:
            yield error(
                "communication.sync_every",
                f"{recipe.optimizer.type} decides itself when ranks exchange; set it to 1, or optimizer.type to AdamW",
            )
        why = f"{recipe.optimizer.type} exchanges momentum itself"
        yield from without_effect(resolved, ("communication.reducer",), why)


@rule
def reducers_want_stage_0(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    reducer = recipe.communication.reducer
    if reducer != "deepspeed" and recipe.zero.stage > 0:
        yield error(
            "communication.reducer",
            f"at zero.stage {recipe.zero.stage} DeepSpeed exchanges gradients as it shards them; set zero.stage to 0 for "
            f"{reducer}, or leave the reducer at deepspeed",
        )


@rule
def local_steps_want_stage_0(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    if recipe.communication.sync_every == 1:
        return
    if recipe.zero.stage > 0:
        yield error(
            "communication.sync_every",
            f"above 1 each rank trains whole weights by itself, and zero.stage {recipe.zero.stage} shards them; set "
            "zero.stage to 0",
        )
    if recipe.precision.dtype == "fp16":
        yield error(
            "precision.dtype",
            "fp16 leaves out steps whose gradients overflow, under communication.sync_every on one rank and not on "
            "another; set bf16 or fp32",
        )
    why = "communication.sync_every is above 1: weights are exchanged, not gradients"
    yield from without_effect(resolved, ("communication.reducer",), why)


@rule
def settings_want_their_strategy(resolved: ResolvedRecipe) -> Iterator[Finding]:
    at_work = _strategy(resolved)
    communication = resolved.recipe.communication
    for strategy, words in SETTINGS.items():
        if strategy != at_work:
            keys = tuple(f"communication.{word}" for word in words)
            yield from without_effect(
                resolved, keys, f"it is for {strategy}, and {at_work} is chosen"
            )
    if at_work == POWERSGD:
        why = "PowerSGD sends its factors in the gradients' own type"
        yield from without_effect(resolved, ("communication.data_type",), why)
    if at_work == LOCAL_STEPS and communication.outer_one_bit:
        why = "outer_one_bit sends signs"
        yield from without_effect(resolved, ("communication.data_type",), why)


OVERLAPPED, POWERSGD = "communication.reducer overlapped", "communication.reducer powersgd"
LOCAL_STEPS = "communication.sync_every above 1"
SETTINGS = {
    OVERLAPPED: ("bucket_size",),
    POWERSGD: ("powersgd_rank", "powersgd_start_step"),
    LOCAL_STEPS: ("outer_lr", "outer_momentum", "outer_one_bit"),
}


def _strategy(resolved: ResolvedRecipe) -> str:
    """Which one is at work where several are asked for, in a message's words."""
    recipe = resolved.recipe
    if recipe.optimizer.type in ONE_BIT:
        return f"optimizer.type {recipe.optimizer.type}"
    if recipe.communication.sync_every > 1:
        return LOCAL_STEPS
    return f"communication.reducer {recipe.communication.reducer}"


@rule
def our_reducers_do_not_prescale(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if _strategy(resolved) in (OVERLAPPED, POWERSGD, LOCAL_STEPS):
        for word in ("prescale_gradients", "gradient_predivide_factor"):
            if word in resolved.recipe.deepspeed:
                yield warning(
                    f"deepspeed.{word}",
                    f"has no effect: DeepSpeed averages nothing under {_strategy(resolved)}",
                )


@rule
def an_overlapped_bucket_must_fill_early(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    bucket = recipe.communication.bucket_size
    parameters = parameter_count(recipe.model.variant, 80)
    if recipe.communication.reducer == "overlapped" and bucket > parameters // 2:
        yield warning(
            "communication.bucket_size",
            f"{bucket:,} elements are more than half of yolov5{recipe.model.variant}'s {parameters:,} parameters, so one "
            "bucket at most fills before backward is over; leave it at auto",
        )


@rule
def one_rank_has_nobody_to_exchange_with(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.world_size > 1:
        return
    words = ("reducer", "sync_every", "check_weights_every")
    keys = tuple(f"communication.{word}" for word in words)
    yield from without_effect(resolved, keys, "there is one rank")
    kind = resolved.recipe.optimizer.type
    if kind in ONE_BIT:
        yield warning(
            "optimizer.type",
            f"{kind} compresses on one rank too, where nothing is sent: it shows what the method costs in accuracy, and saves "
            "nothing",
        )


@rule
def stage_3_has_no_whole_weights_to_compare(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.recipe.zero.stage == 3:
        keys = ("communication.check_weights_every",)
        yield from without_effect(resolved, keys, "at zero.stage 3 ranks hold shards")
