"""Rules on how ranks exchange what they computed: strategies that exclude each other, and settings of one not chosen.

Written as those in rules.py.
"""

from collections.abc import Iterator

from yolo.recipe.architecture import parameter_count
from yolo.recipe.finding import Finding, error, rule, warning, without_effect
from yolo.recipe.resolve import ResolvedRecipe
from yolo.recipe.sections.optimizer import ONE_BIT


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
    communication = resolved.recipe.communication
    if communication.reducer != "overlapped":
        why = f"communication.reducer is {communication.reducer}"
        yield from without_effect(resolved, ("communication.bucket_size",), why)
    if communication.reducer != "powersgd":
        keys = ("communication.powersgd_rank", "communication.powersgd_start_step")
        why = f"communication.reducer is {communication.reducer}"
        yield from without_effect(resolved, keys, why)
    else:
        why = "PowerSGD sends its factors in the gradients' own type"
        yield from without_effect(resolved, ("communication.data_type",), why)
    if communication.sync_every == 1:
        outer = tuple(f"communication.outer_{word}" for word in ("lr", "momentum", "one_bit"))
        yield from without_effect(resolved, outer, "communication.sync_every is 1")


@rule
def an_overlapped_bucket_must_fill_early(resolved: ResolvedRecipe) -> Iterator[Finding]:
    recipe = resolved.recipe
    bucket = recipe.communication.bucket_size
    assert bucket != "auto"
    parameters = parameter_count(recipe.model.variant, 80)
    if recipe.communication.reducer == "overlapped" and bucket > parameters // 2:
        yield warning(
            "communication.bucket_size",
            f"{bucket:,} elements are more than half of yolov5{recipe.model.variant}'s {parameters:,} parameters, so next "
            "to nothing is hidden; leave it at auto",
        )


@rule
def one_rank_has_nobody_to_exchange_with(resolved: ResolvedRecipe) -> Iterator[Finding]:
    if resolved.world_size == 1:
        keys = ("communication.reducer", "communication.check_weights_every")
        yield from without_effect(resolved, keys, "there is one rank")
